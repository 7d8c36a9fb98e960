"""What was predicted beside what was measured: how far predictions can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from widgets.axes import linear
from widgets.desk import Foreseen
from widgets.formatting import change_unit, fixed, points, small
from widgets.part import Part, source

LEAST = 2
"""Points from which on there is something to see."""
LATEST = 100
"""So many points are drawn at most."""
CONFIDENCE = 95
"""Percent, of the intervals of `Estimate`."""


def foresight_view(foreseen: Sequence[Foreseen]) -> dict[str, Any]:
    """The picture of predictions: a point for each, on the diagonal where it was right.

    Args:
        foreseen: Of one model, in the order measured.
    """
    if len(foreseen) < LEAST:
        return {"points": [], "ticks": [], "text": "", "held": "", "unit": ""}
    metric = foreseen[0].metric
    unit, write = change_unit(metric) or metric.name, points if metric.share else small
    drawn = foreseen[-LATEST:]
    drops = [end for each in drawn for end in (each.predicted.value, each.measured.value)]
    factor = 100 if metric.share else 1
    span = max(abs(drop) for drop in drops) * factor
    ends = [max(factor * min(each.predicted.low, each.measured.low), -0.25 * span) for each in drawn]
    ends += [min(factor * max(each.predicted.high, each.measured.high), 1.25 * span) for each in drawn]
    axis = linear(
        [0.0, *ends, *(factor * drop for drop in drops)], least=0.1 if metric.share else max(span * 0.1, 1e-9),
        limits=(-10.0 * span - 1, 10.0 * span + 1), wanted=4,
    )  # fmt: skip
    place = lambda drop: axis.place(factor * drop)  # noqa: E731
    inside = sum(each.predicted.low <= each.measured.value <= each.predicted.high for each in foreseen)
    off = sum(abs(each.predicted.value - each.measured.value) for each in foreseen) / len(foreseen)
    digits = next((d for d in range(6) if all(abs(round(t, d) - t) < 1e-9 for t in axis.ticks)), 6)
    return {
        "points": [
            {
                "key": each.key,
                "x": place(each.predicted.value),
                "y": place(each.measured.value),
                "left": place(each.predicted.low),
                "right": place(each.predicted.high),
                "low": place(each.measured.low),
                "high": place(each.measured.high),
                "held": each.predicted.low <= each.measured.value <= each.predicted.high,
                "spoken": f"{each.name}: predicted {write(each.predicted.value)}, "
                f"measured {write(each.measured.value)} {unit}",
            }
            for each in drawn
        ],
        "ticks": [{"at": axis.place(tick), "text": fixed(tick, digits)} for tick in axis.ticks],
        "unit": unit,
        "text": f"Off by {write(off)} {unit} on average.",
        "held": f"{CONFIDENCE} % intervals held {inside} of {len(foreseen)}",
    }


class Foresight(Part):
    """Predicted against measured loss of every recipe that was predicted before it was measured."""

    _esm = source("foresight.js")
    watches: ClassVar[tuple[str, ...]] = ("foreseen",)

    def draw(self) -> dict[str, Any]:
        """The plot; nothing at all before the second point."""
        return foresight_view(self.session.foreseen)
