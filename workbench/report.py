"""What a recipe costs: numbers that carry their interval, unit and origin."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Literal

from pydantic import BaseModel, ConfigDict

from workbench.recipe import Recipe

Source = Literal["measured", "simulated", "predicted", "imported"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricInfo(_Frozen):
    """What a number called "accuracy" on a page really is."""

    name: str = "accuracy"
    """``accuracy``, ``MAE``, ``cosine``."""
    unit: str = ""
    share: bool = True
    """A fraction, which people read in percent."""
    higher_is_better: bool = True
    counted: bool = False
    """Each example is right or wrong."""


class Estimate(_Frozen):
    """A value, the interval that holds the truth with 95 % confidence, and where it comes from.

    SI units and fractions: seconds, bytes, 0..1. ``low == high == value`` where nothing is uncertain.
    """

    value: float
    low: float
    high: float
    unit: str
    source: Source

    @classmethod
    def exact(cls, value: float, unit: str, source: Source = "measured") -> Estimate:
        """An Estimate without uncertainty: a counted thing."""
        return cls(value=value, low=value, high=value, unit=unit, source=source)

    def includes(self, value: float) -> bool:
        """Whether the interval holds a value: if it holds the baseline, the two cannot be told apart."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.value:.4g} {self.unit} [{self.low:.4g}, {self.high:.4g}] {self.source}".replace("  ", " ")


class Flips(_Frozen):
    """Examples on which the candidate and the baseline disagree.

    Where examples are right or wrong, those that changed sides; else those whose score changed.
    """

    lost: int
    """Right at the baseline and wrong now, or with a worse score."""
    gained: int
    """Wrong at the baseline and right now, or with a better score."""
    n: int
    """Examples compared."""
    p_value: float
    """McNemar's exact test of "as many lost as gained"."""

    @property
    def total(self) -> int:
        """Examples lost or gained."""
        return self.lost + self.gained


class Score(_Frozen):
    """A further metric of the same outputs."""

    metric: MetricInfo
    value: Estimate


class LayerRow(_Frozen):
    """One layer of the model as the recipe treats it."""

    name: str
    kind: str
    """``Conv2d``, ``Linear``, …"""
    shape: tuple[int, ...]
    """Of the weight."""
    parameters: int
    """Weights and biases."""
    weight_bits: int | None
    activation_bits: int | None
    bytes: int
    """Of the layer's tensors in the artifact."""
    sqnr: float | None
    """Signal to quantization noise of the weights, dB; None where they are not quantized."""
    cost: Estimate | None = None
    """Accuracy won back when this layer alone returns to floating point (fraction, positive: it hurts);
    None until it was measured."""


class Comparison(_Frozen):
    """A student, or a network on its grids, beside the same without a teacher: equal steps, seed and order."""

    student: Estimate
    control: Estimate
    difference: Estimate
    """Student minus control, paired over the same test images."""
    teacher: Estimate
    parameters: int
    """Of the student."""
    steps: int
    seconds: float
    """Wall-clock time that both trainings took together."""


class Advice(_Frozen):
    """What the numbers mean in a sentence, and the one change that would help most."""

    verdict: str
    """``4.0× smaller, not distinguishable in speed here``"""
    reason: str = ""
    """Why: ``4-bit weights run in 8-bit kernels on this machine.``"""
    suggestion: str = ""
    """``Half of the loss comes from fc1; at 8 bits it would cost 18 kB and win back 0.2 points.``"""
    recipe: Recipe | None = None
    """The suggested recipe; None where nothing would help."""


class Report(_Frozen):
    """What a recipe costs, against the baseline: the same model in fp32."""

    recipe: Recipe
    evaluated: int
    """Examples seen so far."""
    total: int
    """Examples in the task."""
    metric: MetricInfo = MetricInfo(counted=True)
    """What `accuracy` and `drop` are: top-1 accuracy, or what the task is measured by."""
    accuracy: Estimate
    drop: Estimate
    """What was lost against the baseline on the same examples, in the metric's unit (positive: worse)."""
    flips: Flips
    scores: tuple[Score, ...] = ()
    """Further metrics of the same outputs."""
    size: Estimate
    """Bytes of the artifact."""
    latency: Estimate | None = None
    """Seconds per call of `recipe.deployment.batch` inputs; None until it was measured."""
    speedup: Estimate | None = None
    """Baseline latency over this one, measured interleaved in the same runtime (above 1: faster)."""
    layers: tuple[LayerRow, ...] = ()
    distillation: Comparison | None = None
    advice: Advice | None = None
    notes: tuple[str, ...] = ()
    """Sentences on task and model that a reader of the numbers has to know."""
    running: str = ""
    """What the runtime makes of the recipe, where that is not what it says: which kernels run."""
    disturbances: tuple[str, ...] = ()
    """What makes the latency doubtful or void: what else the machine did meanwhile, with what to do."""
    untimed: str = ""
    """Why there is no latency: what the runtime failed with, in words."""
    environment: dict[str, str] = {}
    """What measured: versions, processor, runtime."""

    @property
    def complete(self) -> bool:
        """Whether every example was seen."""
        return self.evaluated == self.total

    @property
    def remarks(self) -> tuple[str, ...]:
        """All sentences beside the numbers: notes, what runs, what was disturbed, and what failed."""
        said = (*self.notes, self.running, *self.disturbances, self.untimed)
        return tuple(each for each in said if each)

    def _repr_html_(self) -> str:
        """A small table for a notebook's output."""
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td>{escape(said)}</td><td>{escape(source)}</td></tr>"
            for name, said, source in self.said()
        )
        caption = f"{self.recipe.label}: {self.evaluated:,} of {self.total:,} examples"
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.remarks)
        return f"<table><caption>{escape(caption)}</caption>{cells}</table>{notes}"

    def said(self) -> Iterator[tuple[str, str, str]]:
        """Name, value with interval and unit as people read it, and origin."""
        share = (100, "%") if self.metric.share else (1, self.metric.unit)
        scales = {
            "accuracy": share,
            "drop": (100, "points") if self.metric.share else share,
            "size": (1e-3, "kB"),
            "latency": (1e3, "ms"),
            "speedup": (1, "×"),
        }
        for name, (factor, unit) in scales.items():
            estimate: Estimate | None = getattr(self, name)
            if estimate is not None:
                value, low, high = (x * factor for x in (estimate.value, estimate.low, estimate.high))
                within = f" ({_figures(low)} … {_figures(high)})" if low < high else ""
                told = self.metric.name if name == "accuracy" else name
                yield told, f"{_figures(value)} {unit}{within}", estimate.source
        for score in self.scores:
            factor, unit = (100, "%") if score.metric.share else (1, score.metric.unit)
            yield score.metric.name, f"{_figures(score.value.value * factor)} {unit}".rstrip(), score.value.source
        p = f"p = {self.flips.p_value:.2g}" if self.flips.p_value >= 0.001 else "p < 0.001"
        yield (
            "flips",
            f"{self.flips.lost:,} lost, {self.flips.gained:,} gained ({p})",
            "counted",
        )

    def __str__(self) -> str:
        lines = [f"{self.recipe.label}: {self.evaluated:,} of {self.total:,} examples"]
        lines += [f"  {name:14} {said}  [{source}]" for name, said, source in self.said()]
        return "\n".join([*lines, *(f"  {note}" for note in self.remarks)])


def _figures(value: float) -> str:
    """Four significant figures, and whole numbers from a thousand on: never a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
