"""A plan: which bits each layer should have, why, and what a little more would buy."""

from __future__ import annotations

from html import escape
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from workbench.arguments import is_number
from workbench.recipe import Recipe, Value
from workbench.report import MetricInfo, Report


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _limit(value: Any) -> Any:
    if value is not None and not is_number(value):
        raise ValueError("a number is needed, or None for no limit")
    return value


Limit = Annotated[float | None, BeforeValidator(_limit)]
AboveZero = Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_limit)]


class Budget(Value):
    """What a plan has to keep; None: no limit.

    Raises:
        RecipeError: Something is no finite number, or bytes or seconds are not above 0.
    """

    max_bytes: AboveZero = None
    max_drop: Limit = None
    """In the metric's unit; a fraction for shares."""
    max_latency: AboveZero = None
    """Seconds per call."""


class Reason(_Frozen):
    """Why one layer has its bits."""

    layer: str
    weight_bits: int | None
    activation_bits: int | None
    share: float
    """Of the expected drop."""
    scheme: str | None = None
    """Grid of its weights, where the plan chose it."""
    lower_bits: int | None = None
    """The next lower bit-width that was open to its weights; None at the lowest, and where it was not free."""
    lower_share: float = 0.0
    """What its share would be there."""
    saved: float = 0.0
    """Bytes that these lower bits would save."""
    text: str
    """``fc1 stays at 8: at 6 it would be 41 % of the expected drop``"""


class Exchange(_Frozen):
    """What a little more of one budget would buy of the other, as predicted."""

    bytes: float
    """More than the plan's; negative: fewer."""
    drop: float
    """More than the plan's; negative: accuracy won back."""
    recipe: Recipe
    text: str


class Plan(_Frozen):
    """The best mix that was found under a budget."""

    budget: Budget
    recipe: Recipe
    report: Report
    """Measured on the task where an evaluation was spent on it, else predicted."""
    frontier: tuple[Report, ...]
    """What nothing else beats in both size and drop, from the smallest on: measured reports, or, where nothing was
    measured, predicted ones."""
    predicted: tuple[Report, ...] = ()
    """The frontier of the model, as predicted last."""
    reasons: tuple[Reason, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    kept: bool = True
    """Whether the report keeps the budget; not, where a latency is asked for and was not timed."""
    evaluations: int = 0
    """How many recipes were measured for it."""
    total: int = 0
    """How many may be."""
    stage: str = ""
    """What is being done: ``effects of layers, 12 of 134``; empty where the plan is finished."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return not self.stage

    def __str__(self) -> str:
        lines = [f"Plan: {self._headline()}"]
        lines += [f"  {reason.text}" for reason in self.reasons]
        return "\n".join([*lines, *(f"  {exchange.text}" for exchange in self.exchanges)])

    def _repr_html_(self) -> str:
        """The layers with their reasons, for a notebook's output."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(reason.layer)}</th>"
            f"<td>{_bits(reason.weight_bits)}</td><td>{_bits(reason.activation_bits)}</td>"
            f"<td>{reason.share:.0%}</td><td style='text-align:left'>{escape(reason.text)}</td></tr>"
            for reason in self.reasons
        )
        head = "<tr><th></th><th>weights</th><th>inputs</th><th>of the drop</th><th></th></tr>"
        said = "".join(f"<p>{escape(exchange.text)}</p>" for exchange in self.exchanges)
        return f"<table><caption>{escape(self._headline())}</caption>{head}{rows}</table>{said}"

    def _headline(self) -> str:
        report = self.report
        source = "predicted" if report.drop.source == "predicted" else "measured"
        size = kilobytes(report.size.value)
        text = f"{self.recipe.label}: {size}, drop {amount(report.drop.value, report.metric)} ({source})"
        if self.budget.max_latency is not None and report.latency is None:
            text += ", which was not timed"
        elif not self.kept:
            text += ", which does not keep the budget"
        return f"{text}; {self.stage}" if self.stage else text


def amount(drop: float, metric: MetricInfo) -> str:
    """How much of a metric: ``0.60 points``, ``1.2 dB``."""
    if metric.share:
        return f"{drop * 100:.2f} points"
    return f"{drop:.3g} {metric.unit or f'of {metric.name}'}"


def kilobytes(count: float) -> str:
    """``18.2 kB``, and bytes below a tenth of one."""
    return f"{count:,.0f} B" if abs(count) < 100 else f"{count / 1000:,.1f} kB"


def _bits(bits: int | None) -> str:
    return "fp32" if bits is None else str(bits)
