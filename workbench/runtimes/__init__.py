"""What executes a model here. A new runtime is a file beside these and an entry in `RUNTIMES`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import lru_cache

from workbench.errors import WorkbenchError, nearest
from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.randomness import seeded
from workbench.recipe import Deployment
from workbench.runtimes.base import Prepared, Runtime, Source
from workbench.runtimes.eager import Eager
from workbench.runtimes.onnx_runtime import OnnxRuntime
from workbench.runtimes.timing import Timing, compare

RUNTIMES: tuple[Runtime, ...] = (OnnxRuntime(), Eager())

__all__ = ["Prepared", "Runtime", "Source", "Timing", "device_offers", "get", "offers", "prepare", "time", "versions"]


def get(name: str) -> Runtime:
    """A runtime by name.

    Raises:
        WorkbenchError: There is none of that name.
    """
    for runtime in RUNTIMES:
        if runtime.name == name:
            return runtime
    raise WorkbenchError(f"There is no runtime {name!r}. {nearest(name, [runtime.name for runtime in RUNTIMES])}")


@lru_cache
def offers() -> tuple[tuple[str, str | None], ...]:
    """Names of the runtimes, and why one cannot be used here."""
    return tuple((runtime.name, runtime.unavailable()) for runtime in RUNTIMES)


@lru_cache
def device_offers() -> tuple[tuple[str, str | None], ...]:
    """Names of the devices, and why one cannot be used here."""
    found = {device for runtime in RUNTIMES if runtime.unavailable() is None for device in runtime.devices()}
    absent = {name: f"{name}: not on this machine" for name in ("cuda", "mps") if name not in found}
    return (*((name, None) for name in sorted(found, key=lambda name: (name != "cpu", name))), *absent.items())


@lru_cache
def versions() -> dict[str, str]:
    """Versions of the runtimes that are here."""
    return {r.name: r.version() for r in RUNTIMES if r.unavailable() is None and r.name != "eager"}


def prepare(deployment: Deployment, source: Source, layers: Mapping[str, QuantizedLayer]) -> Prepared:
    """Make a model ready as a deployment asks for.

    Raises:
        WorkbenchError: The runtime is unknown or cannot take the model.
    """
    return get(deployment.runtime).prepare(source, layers, deployment.device, deployment.threads)


def time(candidate: Prepared, baseline: Prepared, batch: Inputs, cancel: threading.Event | None = None) -> Timing:
    """Seconds per call of two prepared models on the same batch, interleaved.

    Raises:
        Cancelled: `cancel` was set.
    """
    with seeded():
        return compare(candidate.bound(batch), baseline.bound(batch), cancel=cancel)
