"""What a runtime's own profiler says of each kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workbench.report import Estimate
from workbench.statistics import Z


@dataclass(frozen=True)
class Kernel:
    """One kernel, or one operator, of one call."""

    name: str
    """As the runtime calls it."""
    kind: str
    """Its operator: ``QLinearConv``."""
    layers: tuple[str, ...]
    """Of the model, that it computes."""
    told: str
    """The layers, or the operator where it has none."""
    kinds: tuple[str, ...]
    """Operators of the model that it computes."""
    seconds: Estimate
    """Per call."""


def quiet_half(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """The calls that were disturbed less: those that took the median at most, all kernels together.

    Args:
        times: Shape (calls, kernels).
    """
    total = times.sum(axis=1)
    return times[total <= np.median(total)]


def means(times: NDArray[np.float64]) -> list[Estimate]:
    """Mean seconds of each kernel, which add up, with intervals.

    Args:
        times: Shape (calls, kernels), one call at least.
    """
    mean = times.mean(axis=0)
    half = Z * times.std(axis=0, ddof=1) / np.sqrt(len(times)) if len(times) > 1 else np.zeros_like(mean)
    return [
        Estimate(value=float(m), low=float(max(m - h, 0.0)), high=float(m + h), unit="s", source="measured")
        for m, h in zip(mean, half, strict=True)
    ]
