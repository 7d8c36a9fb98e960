"""Which method suits a network at given bits: tried one after the other on calibration data, until time is up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.errors import Cancelled
from workbench.inputs import Inputs
from workbench.metrics import TopK
from workbench.network import Network
from workbench.outputs import selected
from workbench.quantization.quantizer import specs
from workbench.quantization.reconstruction import BATCH as LEARNED_AT_ONCE
from workbench.quantization.reconstruction import HELD_OUT, PASSES, divergence, steps_for
from workbench.recipe import Quantization, Recipe
from workbench.task import Task

CANDIDATES: tuple[dict[str, str], ...] = (
    {"method": "nearest", "range": "hessian", "correction": "bias", "scheme": "symmetric"},
    {"method": "gptq", "range": "hessian", "correction": "bias", "scheme": "symmetric"},
    {"method": "quantease", "range": "hessian", "correction": "bias", "scheme": "symmetric"},
    {"method": "quantease", "range": "hessian", "correction": "bias", "scheme": "affine"},
    {"method": "quantease", "range": "hessian", "correction": "batchnorm", "scheme": "symmetric"},
    {"method": "brecq", "range": "hessian", "correction": "bias", "scheme": "symmetric"},
    {"method": "adaround", "range": "hessian", "correction": "bias", "scheme": "symmetric"},
    {"method": "adaround", "range": "hessian", "correction": "bias", "scheme": "affine"},
    {"method": "quantease", "range": "hessian", "correction": "bias", "scheme": "midrise"},
    {"method": "gptq", "range": "hessian", "correction": "bias", "scheme": "affine"},
    {"method": "quantease", "range": "mse", "correction": "bias", "scheme": "symmetric"},
    {"method": "quantease", "range": "hessian", "correction": "none", "scheme": "symmetric"},
    {"method": "nearest", "range": "mse", "correction": "none", "scheme": "symmetric"},
)
"""In the order in which they are tried: first two that a large network has time for, which need one look at the
data; then what most often came first on other data than the tests'."""
OPERATIONS = 2e12
"""Floating point operations for the outputs of all candidates at most; a large model gets fewer examples."""
LEAST_EXAMPLES = 16
OVERHEAD = 2.0
"""What learning takes in fact, in multiples of its products alone."""
SURE = 2.0
"""Standard errors of the paired difference: smaller ones do not displace what was found earlier."""


class Choice(NamedTuple):
    """What was found so far."""

    recipe: Recipe
    """The best one; it says everything, so that it gives the same numbers wherever it is measured."""
    loss: float
    """Of its outputs against fp32's on the calibration data: KL divergence of classes, or noise over signal."""
    tried: int
    total: int


class _Deadline(threading.Event):
    """Set when time is up, or when another event is: no thread has to wait for it."""

    def __init__(self, seconds: float, other: threading.Event | None) -> None:
        super().__init__()
        self._end = time.monotonic() + seconds
        self._other = other

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def is_set(self) -> bool:
        return time.monotonic() >= self._end or (self._other is not None and self._other.is_set())


def choose(
    network: Network, task: Task, recipe: Recipe, seconds: float, cancel: threading.Event | None = None
) -> Iterator[Choice]:
    """Try methods, grids and ranges for a recipe's bits, and keep what changes the outputs least.

    The recipe's own method comes first; another one takes its place where it is better by more than chance
    (paired over the calibration examples). Test data is never looked at.

    Args:
        network: What is quantized.
        task: Gives the calibration data.
        recipe: Whose bits, layers and granularity are kept.
        seconds: After as many, or when `cancel` is set, it ends within a moment, and the last choice stands.
        cancel: Ends it.

    Yields:
        The best so far, at once and after every candidate.
    """
    end = _Deadline(seconds, cancel)
    quantization = recipe.quantization
    candidates = [quantization]
    if not network.graph_only and any(spec.weight for spec in specs(quantization, network.layers).values()):
        candidates += [
            each for each in (quantization.replace(**fields) for fields in CANDIDATES) if each != quantization
        ]
    total = len(candidates)
    yield Choice(recipe, float("inf"), 0, total)
    affordable = int(OPERATIONS // (total * max(network.operations, 1.0)))
    calibration = task.calibration[: max(LEAST_EXAMPLES, affordable)]
    best, losses = recipe, None
    try:
        began = time.monotonic()
        reference = _outputs(network, task, calibration, Quantization(), end)
        each = (time.monotonic() - began) / max(len(calibration), 1)
        classes = isinstance(task.metrics_for(reference[0])[0], TopK)
        for tried, candidate in enumerate(candidates, start=1):
            if losses is not None and _learning(network, candidate, calibration) * each > end.left:
                yield Choice(best, float(losses.mean()), tried, total)
                continue
            found = _losses(_outputs(network, task, calibration, candidate, end), reference, classes)
            if losses is None or _better(
                found, losses, learned="brecq" in (candidate.method, best.quantization.method)
            ):
                best, losses = recipe.replace(quantization=candidate), found
            yield Choice(best, float(losses.mean()), tried, total)
    except Cancelled:
        return


def _outputs(
    network: Network, task: Task, calibration: Inputs, quantization: Quantization, end: threading.Event
) -> list[Tensor]:
    asked = specs(quantization, network.layers)
    network.prepare(asked, end)
    made = []
    with torch.inference_mode():
        for part in calibration.batches(torch.arange(len(calibration)), network.batch):
            if end.is_set():
                raise Cancelled
            made.append(selected(network.simulation.run(calibration[part].channels_last(), asked), task.output))
    return made


def _losses(outputs: list[Tensor], reference: list[Tensor], classes: bool) -> Tensor:
    """One number per example, float64."""
    pairs = zip(outputs, reference, strict=True)
    found = [divergence(ours.double(), theirs.double(), classes=classes) for ours, theirs in pairs]
    return torch.cat(found).nan_to_num(1e6, 1e6, 1e6)


def _learning(network: Network, candidate: Quantization, calibration: Inputs) -> float:
    """How many runs of one example a candidate takes that learns; 0 for others, which take a few seconds at most."""
    if candidate.method != "brecq":
        return 0.0
    return OVERHEAD * PASSES * LEARNED_AT_ONCE * steps_for(network.operations, calibration)


def _better(found: Tensor, losses: Tensor, *, learned: bool) -> bool:
    """Whether a candidate is better by more than chance, where one learned also on what it did not learn from."""
    if not learned or len(found) < 2 * HELD_OUT:
        return _surely_less(found, losses)
    return _surely_less(found[::HELD_OUT], losses[::HELD_OUT]) and bool(found.mean() <= losses.mean())


def _surely_less(found: Tensor, losses: Tensor) -> bool:
    difference = found - losses
    error = difference.std() / len(difference) ** 0.5 if len(difference) > 1 else torch.zeros(())
    return bool(difference.mean() + SURE * error < 0)
