"""What executes a model here. A new runtime is a file beside these and an entry in `RUNTIMES`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import lru_cache

from workbench.errors import Cancelled, WorkbenchError, nearest
from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.randomness import seeded
from workbench.recipe import Deployment
from workbench.runtimes.base import Prepared, Runtime, Source
from workbench.runtimes.dynamic import refusal as dynamic_refusal
from workbench.runtimes.eager import Eager
from workbench.runtimes.inductor import Inductor
from workbench.runtimes.isolation import tried
from workbench.runtimes.onnx_runtime import OnnxRuntime
from workbench.runtimes.openvino import OpenVino
from workbench.runtimes.timing import Timing, compare

RUNTIMES: tuple[Runtime, ...] = (OnnxRuntime(), OpenVino(), Inductor(), Eager())

__all__ = [
    "Prepared",
    "Runtime",
    "Source",
    "Timing",
    "device_offers",
    "dynamic_refusal",
    "get",
    "offers",
    "prepare",
    "refusal",
    "time",
    "versions",
]


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
    return {r.name: r.version() for r in RUNTIMES if r.unavailable() is None and r.takes == "graph"}


def refusal(deployment: Deployment, source: Source) -> str | None:
    """Why a model cannot be run as a deployment asks for, as far as can be told at once; None where nothing is known.

    Raises:
        WorkbenchError: The runtime is unknown.
    """
    runtime = get(deployment.runtime)
    missing = runtime.unavailable()
    if missing is not None:
        return missing
    if deployment.device not in runtime.devices():
        return f"{deployment.runtime} does not run on {deployment.device} here."
    return runtime.supports(deployment, source)


def prepare(
    deployment: Deployment,
    source: Source,
    layers: Mapping[str, QuantizedLayer],
    cancel: threading.Event | None = None,
) -> Prepared:
    """Make a model ready as a deployment asks for.

    Args:
        deployment: How it is to run.
        source: The fp32 model.
        layers: Quantized layers by name.
        cancel: Ends a trial in another process.

    Raises:
        WorkbenchError: The runtime is unknown or cannot take the model; whatever went wrong is told in words.
        Cancelled: `cancel` was set meanwhile.
    """
    reason = refusal(deployment, source)
    if reason is not None:
        raise WorkbenchError(reason)
    if any(layer.dynamic for layer in layers.values()):
        reason = dynamic_refusal(deployment.runtime)
        if reason is not None:
            raise WorkbenchError(reason)
    runtime = get(deployment.runtime)
    try:
        tried(runtime, source, layers, deployment, cancel)
        return runtime.prepare(source, layers, deployment)
    except (WorkbenchError, Cancelled):
        raise
    except Exception as error:  # runtimes' own errors share no base
        said = str(error).strip().splitlines() or [""]
        raise WorkbenchError(
            f"{runtime.name} cannot take the model: {type(error).__name__}: {said[0][:300]}"
        ) from error


def time(candidate: Prepared, baseline: Prepared, batch: Inputs, cancel: threading.Event | None = None) -> Timing:
    """Seconds per call of two prepared models on the same batch, interleaved.

    Raises:
        Cancelled: `cancel` was set.
    """
    with seeded():
        return compare(candidate.bound(batch), baseline.bound(batch), cancel=cancel)
