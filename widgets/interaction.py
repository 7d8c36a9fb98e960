"""Where the loss comes from: each lever of a recipe alone, all together, and what they do to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from widgets.axes import linear
from widgets.formatting import between, change_unit, points, size, small

if TYPE_CHECKING:
    from workbench.levers.interaction import Interaction
    from workbench.report import Estimate, MetricInfo


WIDEST = 1e9
"""In the metric's unit; no loss is larger."""


def interaction_view(found: Interaction) -> dict[str, Any]:
    """The picture of an `Interaction`: a bar of what is lost for each lever, for all, and for their sum."""
    rows: list[tuple[str, str, Estimate, Estimate | None]] = [
        (lever.label, "lever", lever.drop, lever.size) for lever in found.levers
    ]
    if found.together is not None:
        rows.append(("all together", "all", found.together, found.size))
    if found.sum is not None:
        rows.append(("sum of each alone", "sum", found.sum, None))
    ends = [0.0, *(end for _, _, drop, _ in rows for end in (drop.low, drop.high))]
    axis = linear(ends, least=0.01, limits=(-WIDEST, WIDEST))
    zero = axis.place(0.0)
    return {
        "rows": [_row(name, kind, drop, bytes_, found.metric, axis.place) for name, kind, drop, bytes_ in rows],
        "zero": zero,
        "said": _said(found),
        "tone": _tone(found.interaction),
    }


def _row(
    name: str, kind: str, drop: Estimate, number_of_bytes: Estimate | None, metric: MetricInfo, place: Any
) -> dict[str, Any]:
    ends = sorted((place(0.0), place(drop.value)))
    told = _lost(drop, metric)
    return {
        "name": name,
        "kind": kind,
        "certain": not drop.includes(0),
        "worse": drop.value > 0,
        "from": ends[0],
        "to": ends[1],
        "low": place(drop.low),
        "high": place(drop.high),
        "text": told,
        "size": str(size(number_of_bytes.value)) if number_of_bytes is not None else "",
        "spoken": f"{name}: {told} {change_unit(metric)} lost"
        + ("" if not drop.includes(0) else ", not distinguishable"),
    }


def _lost(drop: Estimate, metric: MetricInfo) -> str:
    write = points if metric.share else small
    return f"{write(drop.value)} {between(write(drop.low), write(drop.high))}"


def _said(found: Interaction) -> str:
    """The verdict, with its number."""
    gap, verdict = found.interaction, found.verdict
    if gap is None:
        return f"{verdict[:1].upper()}{verdict[1:]}." if verdict else ""
    unit = change_unit(found.metric) or found.metric.name
    return f"{verdict[:1].upper()}{verdict[1:]}: {_lost(gap, found.metric)} {unit}."


def _tone(gap: Estimate | None) -> str:
    if gap is None or gap.includes(0):
        return "faint"
    return "loss" if gap.value > 0 else "gain"
