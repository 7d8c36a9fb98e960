"""Where the time goes: seconds of each layer, from the runtime's own profiler."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from workbench import runtimes
from workbench.errors import WorkbenchError
from workbench.inputs import Inputs
from workbench.randomness import seeded
from workbench.recipe import Recipe
from workbench.report import Estimate
from workbench.runtimes import Prepared
from workbench.runtimes.timing import interleaved
from workbench.speed import onnx_profile, openvino_profile, torch_profile
from workbench.speed.disturbances import disturbances, reading
from workbench.speed.kernels import Kernel
from workbench.speed.subject import Subject, attempted
from workbench.speed.words import duration
from workbench.tables import Tabular

LATENCY_SECONDS = 0.3
MOST = 0.75
"""Of the shortest kernel's time that can be the profiler's: nothing takes no time at all."""
PROFILERS: Mapping[str, Callable[[Subject, Prepared, Inputs, threading.Event | None], list[Kernel]]] = {
    "onnxruntime": onnx_profile.profile,
    "openvino": openvino_profile.profile,
    "eager": torch_profile.profile,
}
"""By runtime. The others have none that tells kernels apart."""


class LayerTime(BaseModel):
    """One kernel of a call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Of the layer, or of the operator where it belongs to none."""
    layers: tuple[str, ...]
    """Layers of the model that it computes, or puts on a grid; empty for what lies between them."""
    kind: str
    """Operators of the model that are fused in it: ``Conv + Relu``."""
    kernel: str
    """What the runtime calls it: ``QLinearConv``, ``brgconv_avx512_I8``."""
    seconds: Estimate
    """Per call."""
    share: float
    """Of the latency."""
    weight_bits: int | None = None
    activation_bits: int | None = None


class LayerTimes(Tabular, BaseModel):
    """The kernels of a call in the order in which they run; with the overhead they add up to the latency."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    latency: Estimate
    """Seconds per call, without a profiler."""
    rows: tuple[LayerTime, ...]
    overhead: Estimate
    """Seconds per call in no kernel: the call itself, memory, what lies between two kernels."""
    notes: tuple[str, ...] = ()
    disturbances: tuple[str, ...] = ()

    @property
    def by_layer(self) -> dict[str, float]:
        """Seconds of each layer that has a kernel, in the order of the rows; a kernel of several is shared out."""
        found: dict[str, float] = {}
        for row in self.rows:
            for layer in row.layers:
                found[layer] = found.get(layer, 0.0) + row.seconds.value / len(row.layers)
        return found

    def _headline(self) -> str:
        deployment = self.recipe.deployment
        where = f"{deployment.runtime}, batch {deployment.batch}"
        return f"Layers of {self.recipe.label} in {where}: {duration(self.latency)} a call"

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        rows: list[tuple[str, ...]] = [
            (row.name, row.kind, row.kernel, _bits(row), duration(row.seconds), f"{row.share:.0%}") for row in self.rows
        ]
        left = self.overhead.value / self.latency.value
        rows.append(("runtime overhead", "", "", "", duration(self.overhead), f"{left:.0%}"))
        return ("layer", "operators", "kernel", "bits", "a call", "share"), rows

    def _said(self) -> list[str]:
        return [*self.notes, *self.disturbances]


def _bits(row: LayerTime) -> str:
    if not row.layers:
        return ""
    return "/".join("fp32" if bits is None else str(bits) for bits in (row.weight_bits, row.activation_bits))


def layer_times(
    subject: Subject, bits: Mapping[str, tuple[int | None, int | None]], cancel: threading.Event | None = None
) -> LayerTimes:
    """Time a recipe, then profile it.

    Args:
        subject: What runs.
        bits: Of weights and activations, by layer.
        cancel: Checked between calls.

    Raises:
        WorkbenchError: The runtime has no profiler, or cannot run the recipe.
        Cancelled: `cancel` was set.
    """
    deployment = subject.deployment
    runtimes.get(deployment.runtime)
    if deployment.runtime not in PROFILERS:
        raise WorkbenchError(
            f"{deployment.runtime} has no profiler that tells layers apart; choose one of {', '.join(PROFILERS)}."
        )
    if deployment.device != "cpu":
        raise WorkbenchError(f"Layers are timed on the processor alone, not on {deployment.device}; choose cpu.")
    batch = subject.batch(deployment.batch)
    run = subject.prepared(deployment)
    before = reading()
    with seeded():
        latency = interleaved([run.bound(batch)], LATENCY_SECONDS, cancel).latency(0)
        kernels = attempted(deployment.runtime, lambda: PROFILERS[deployment.runtime](subject, run, batch, cancel))
    seconds, overhead, note = settled([kernel.seconds for kernel in kernels], latency)
    rows = []
    for kernel, own in zip(kernels, seconds, strict=True):
        weight, activation = _asked(kernel, bits)
        rows.append(
            LayerTime(
                name=kernel.told,
                layers=kernel.layers,
                kind=" + ".join(kernel.kinds),
                kernel=kernel.kind,
                seconds=own,
                share=own.value / latency.value,
                weight_bits=weight,
                activation_bits=activation,
            )
        )
    return LayerTimes(
        recipe=subject.recipe,
        latency=latency,
        rows=tuple(rows),
        overhead=overhead,
        notes=tuple(each for each in (note, run.note) if each),
        disturbances=disturbances(before, reading(), deployment.threads),
    )


def _asked(kernel: Kernel, bits: Mapping[str, tuple[int | None, int | None]]) -> tuple[int | None, int | None]:
    """Bits of a kernel's first layer; a recurrent module's weights are layers of their own, and its first counts."""
    for layer in kernel.layers[:1]:
        return next(
            (found for name, found in bits.items() if name == layer or name.startswith(f"{layer}.")), (None, None)
        )
    return None, None


def settled(seconds: Sequence[Estimate], latency: Estimate) -> tuple[list[Estimate], Estimate, str]:
    """What kernels take without the profiler, which itself takes time at each of them, and what is left.

    Where they take more together than the whole call does without it, each is given less by the same amount, but by no
    more than most of what the shortest takes; what is still too much is taken off in proportion.

    Args:
        seconds: Of each kernel, profiled.
        latency: Of a whole call, not profiled.

    Returns:
        Seconds of each kernel, the overhead, and what a reader has to know; kernels and overhead add up to the
        latency.
    """
    total = sum(each.value for each in seconds)
    probe = min([max(0.0, total - latency.value) / max(len(seconds), 1), *(MOST * each.value for each in seconds)])
    scale = min(1.0, latency.value / (total - probe * len(seconds))) if total > probe * len(seconds) else 1.0
    made = [_moved(each, probe, scale) for each in seconds]
    left = max(0.0, latency.value - sum(each.value for each in made))
    spread = latency.high - latency.low + sum(each.high - each.low for each in made)
    overhead = Estimate(
        value=left, low=max(0.0, left - spread / 2), high=left + spread / 2, unit="s", source="measured"
    )
    note = ""
    if probe > 0 or scale < 1:
        note = f"The profiler made a call {total / latency.value:.1f} times longer; "
        note += f"{probe * 1e6:.1f} µs were taken off each kernel" if probe > 0 else ""
        note += (" and " if probe > 0 and scale < 1 else "") + (f"the rest in proportion (× {scale:.2f})" * (scale < 1))
        note += ", so that they fit into the latency."
    return made, overhead, note


def _moved(each: Estimate, less: float, scale: float) -> Estimate:
    low, value, high = (max(0.0, at - less) * scale for at in (each.low, each.value, each.high))
    return each.model_copy(update={"low": low, "value": value, "high": high})
