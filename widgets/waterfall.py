"""The waterfall: from plain PyTorch to the recipe, each step's share of the speed, by lever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from widgets.axes import logarithmic
from widgets.formatting import between, duration, ratio

if TYPE_CHECKING:
    from workbench.report import Estimate
    from workbench.speed import Step, Waterfall

STEPS = 6
"""Rows that are kept free while steps come."""
LEVERS = {
    "software optimisation": "software",
    "low precision": "precision",
    "parallel execution": "parallel",
}
"""The survey's levers, and what the style sheet calls them."""


def waterfall_view(found: Waterfall) -> dict[str, Any]:
    """The picture of a waterfall: each step's bar reaches from the total before it to the total after it.

    Places are fractions of a logarithmic axis of the factors against the first step.
    """
    totals = [1.0, *(end for step in found.steps if step.total for end in (step.total.low, step.total.high))]
    axis = logarithmic(totals, least=2.0, room=0.06)
    rows, before = [], 1.0
    for step in found.steps:
        rows.append(_row(step, before, axis.place, first=not rows))
        before = step.total.value if step.total is not None else before
    return {
        "rows": rows + [_coming(place) for place in range(len(rows), STEPS)],
        "one": axis.place(1.0),
        "ticks": [{"at": axis.place(tick), "text": f"{tick:g}×"} for tick in axis.ticks],
        "levers": [
            {"name": name, "lever": LEVERS[name], "text": factor_of(each), "certain": not each.includes(1)}
            for name, each in found.levers.items()
        ],
        "total": factor_of(found.total) if found.total is not None else "",
    }


def factor_of(each: Estimate) -> str:
    """``1.85× (1.80 … 1.90×)``; ``1.00×`` where it is exact."""
    if each.low == each.high:
        return ratio(each.value)
    return f"{ratio(each.value)} {between(ratio(each.low).removesuffix('×'), ratio(each.high))}"


def _row(step: Step, before: float, place: Any, *, first: bool) -> dict[str, Any]:
    row = {
        "name": step.name,
        "lever": LEVERS[step.lever],
        "kind": "skipped",
        "time": "",
        "factor": "",
        "note": step.reason or step.note,
        "from": 0.0,
        "to": 0.0,
        "low": 0.0,
        "high": 0.0,
        "spoken": f"{step.name}: skipped. {step.reason}",
    }
    if step.seconds is None or step.factor is None or step.total is None:
        return row
    ends = sorted((place(before), place(step.total.value)))
    kind = "first" if first else "same" if step.factor.includes(1) else "faster" if step.factor.value > 1 else "slower"
    told = "the first step" if first else f"{factor_of(step.factor)} the speed of the step before"
    return row | {
        "kind": kind,
        "time": str(duration(step.seconds.value)),
        "factor": "" if first else factor_of(step.factor),
        "from": ends[0],
        "to": ends[1],
        "low": place(step.total.low),
        "high": place(step.total.high),
        "spoken": f"{step.name}, {step.lever}: {duration(step.seconds.value)} a call, {told}. {step.note}".strip(),
    }


def _coming(place: int) -> dict[str, Any]:
    blank = {"name": "", "lever": "", "kind": "coming", "time": "", "factor": "", "note": "", "spoken": ""}
    return blank | {"key": place, "from": 0.0, "to": 0.0, "low": 0.0, "high": 0.0}


def share_done(found: Waterfall) -> float:
    """How far it is, 0..1."""
    return 1.0 if found.complete else min(1.0, len(found.steps) / STEPS)
