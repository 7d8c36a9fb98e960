"""What each layer does to a recipe's accuracy, and which one hurts."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from pydantic import BaseModel, ConfigDict

from workbench.recipe import Recipe
from workbench.report import Estimate, MetricInfo

INDISTINCT = "not distinguishable from no effect"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerEffect(_Frozen):
    """One quantized layer: what it costs in the company of the others, and alone."""

    name: str
    kind: str
    weight_bits: int | None
    activation_bits: int | None
    off: Estimate | None = None
    """One layer off: the drop that is won back when this layer alone returns to fp32 (positive: it hurts)."""
    on: Estimate | None = None
    """One layer on: the drop when only this layer is quantized."""
    weights: Estimate | None = None
    """The drop when only its weights are quantized, and nothing else."""
    activations: Estimate | None = None
    """The drop when only its input is quantized, and nothing else."""
    weight_sqnr: float | None = None
    """Signal to quantization noise of its weights, dB; None where they stay in fp32."""
    activation_sqnr: float | None = None
    """Of its input on the calibration data, dB; None where it stays in fp32 or nothing arrived."""

    @property
    def weight_share(self) -> float | None:
        """Of `on`, 0..1; None where it was not measured or cannot be told from nothing."""
        parts = [part for part in (self.weights, self.activations) if part is not None]
        wanted = (self.weight_bits is not None) + (self.activation_bits is not None)
        if self.on is None or len(parts) < wanted or self.on.low <= 0 or not any(part.low > 0 for part in parts):
            return None
        weights, activations = (max(0.0, part.value) if part else 0.0 for part in (self.weights, self.activations))
        return weights / (weights + activations)

    @property
    def parts(self) -> str:
        """Where the effect comes from: ``92 % from weights, 8 % from activations``."""
        if self.on is None:
            return ""
        if self.on.low <= 0:
            return f"alone: {INDISTINCT}"
        if self.activation_bits is None:
            return "all from weights: its input stays in fp32"
        if self.weight_bits is None:
            return "all from activations: its weights stay in fp32"
        if self.weights is None or self.activations is None:
            return "weights and activations are being looked at apart"
        share = self.weight_share
        if share is None:
            return "weights and activations hurt together; apart, neither is distinguishable"
        text = f"{_percent(share)} from weights, {_percent(1 - share)} from activations"
        faint = [name for name, part in (("weights", self.weights), ("activations", self.activations)) if part.low <= 0]
        return f"{text}; {faint[0]} alone: {INDISTINCT}" if faint else text


class Explanation(_Frozen):
    """The layers of a recipe with what each of them does; grows until `complete`."""

    recipe: Recipe
    metric: MetricInfo
    layers: tuple[LayerEffect, ...]
    """Quantized layers, in the order of the network."""
    examples: int
    """On how many the effects were measured, the same for all; 0 where that would take too long."""
    hurts: str | None = None
    """The layer with the largest effect when it alone returns to fp32; None where none is distinguishable, and
    until all were looked at."""
    beside: tuple[str, ...] = ()
    """Layers whose effect cannot be told from that of `hurts`."""
    done: int = 0
    """Runs over the examples."""
    total: int = 0
    """Runs in all."""
    notes: tuple[str, ...] = ()
    """What could not be told, and why."""

    @property
    def complete(self) -> bool:
        """Whether nothing more is coming."""
        return self.done == self.total

    @property
    def scanned(self) -> bool:
        """Whether every layer's `off` is known."""
        return bool(self.layers) and all(layer.off is not None for layer in self.layers)

    def layer(self, name: str) -> LayerEffect:
        """The effect of a layer.

        Raises:
            KeyError: It is not among the quantized ones.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    @property
    def sentence(self) -> str:
        """The answer to "which layer hurts?"."""
        if not self.layers:
            return "Nothing is quantized, so no layer hurts."
        if not self.examples:
            return "Which layer hurts was not measured."
        if not self.scanned:
            return f"Looking at {len(self.layers)} layers: {self.done} of {self.total} runs."
        if self.hurts is None:
            return "No single layer hurts: whichever returns to fp32, the change is not distinguishable from none."
        off = self.layer(self.hurts).off
        assert off is not None  # noqa: S101 - it was scanned
        verb = "comes back" if not self.metric.share else "come back"
        text = f"{self.hurts}: {amount(off, self.metric)} {verb} when it alone returns to fp32"
        some = self.beside[:3]
        more = f" and {len(self.beside) - 3} more" if len(self.beside) > 3 else ""
        return f"{text}; {', '.join(some)}{more} cannot be told from it." if some else f"{text}."

    def __str__(self) -> str:
        rows = [f"  {name:20} off {off}, on {on}; {parts}" for name, off, on, parts, _ in self._rows()]
        return "\n".join([self.sentence, *rows, *(f"  {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        """The sentence and a table, for a notebook's output."""
        heads = ("", "returns to fp32", "quantized alone", "of which", "SQNR, weights / input")
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
            for name, *cells in self._rows()
        )
        head = "".join(f"<th>{text}</th>" for text in heads)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        told = f"{self.recipe.label}, {self.examples:,} examples, simulated"
        table = f"<table><caption>{escape(told)}</caption><tr>{head}</tr>{rows}</table>"
        return f"<p><b>{escape(self.sentence)}</b></p>{table}{notes}"

    def _rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        for layer in self.layers:
            off, on = (amount(each, self.metric) if each else "–" for each in (layer.off, layer.on))
            noise = " / ".join(
                f"{x:.1f} dB" if x is not None else "–" for x in (layer.weight_sqnr, layer.activation_sqnr)
            )
            yield layer.name, off, on, layer.parts, noise


def amount(effect: Estimate, metric: MetricInfo) -> str:
    """An effect with its interval: ``1.02 points (0.71 … 1.33)``."""
    unit = "points" if metric.share else metric.unit or metric.name
    value, low, high = (_written(x, share=metric.share) for x in (effect.value, effect.low, effect.high))
    return f"{value} {unit} ({low} … {high})"


def _written(value: float, *, share: bool) -> str:
    text = f"{100 * value:.2f}" if share else f"{value:.3g}"
    return text.replace("-", "\u2212") if any(digit in text for digit in "123456789") else text.lstrip("-")


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u202f%"
