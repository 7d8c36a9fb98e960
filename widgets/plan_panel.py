"""The lower part of the trade-off card: a budget, and the plan that is proposed for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from widgets.formatting import (
    between,
    change,
    change_unit,
    duration,
    figures,
    percent_of,
    points,
    size,
    small,
)
from widgets.methods import said
from widgets.part import Message
from workbench.errors import WorkbenchError
from workbench.report import Report

if TYPE_CHECKING:
    from widgets.planning import Obstacle, Outlook, Proposal

STEPS = 60
"""Of a budget slider."""
LEAST_LOSS = 1 / 300
"""The smallest budget of loss on the slider, of the largest."""


def plan_view(
    outlook: Outlook | None,
    proposal: Proposal | None,
    report: Report | None,
    *,
    sensing: float | None = None,
    takes: float = 0.0,
    asked: bool = False,
    planning: str = "",
    busy: bool = False,
    obstacle: Obstacle | None = None,
) -> dict[str, Any]:
    """The picture of what can be planned.

    Args:
        outlook: The predicted frontier; None while it is not known.
        proposal: What is proposed, if anything is.
        report: The one on the screen, near which the budget starts.
        sensing: How much of what layers cost is learned; None while nothing is being learned.
        takes: Seconds that learning takes where it waits to be asked for.
        asked: Someone asked for the learning, and can stop it.
        planning: What is being measured for the proposal.
        busy: The recipe on the screen is being measured.
        obstacle: Why nothing can be planned.
    """
    known = outlook is not None and len(outlook.frontier) > 0
    frontier = outlook.frontier if outlook is not None else ()
    return {
        "learning": f"Learning what each layer costs, {percent_of(sensing)}; then bits can be planned."
        if sensing is not None
        else "",
        "can_stop": sensing is not None and asked,
        "takes": about(takes) if takes and not known else "",
        "obstacle": obstacle_view(obstacle) if obstacle is not None else None,
        "alone": f"{frontier[0].recipe.label} is predicted to be best in size and {frontier[0].metric.name}: "
        "there is nothing to trade."
        if len(frontier) == 1
        else "",
        "budgets": budgets_view(frontier, proposal, report) if len(frontier) > 1 else [],
        "proposal": proposal_view(proposal, planning, busy=busy) if proposal is not None else None,
    }


def obstacle_view(obstacle: Obstacle) -> dict[str, str]:
    """Why nothing can be planned, and what the button says that changes it; nothing where there is none."""
    instead = obstacle.instead
    way = f"Plan with {said(instead.quantization).partition(' (')[0]}" if instead is not None else ""
    return {"reason": obstacle.reason, "instead": way}


def about(seconds: float) -> str:
    """``about 8 min``."""
    minutes = seconds / 60
    return f"about {max(1, round(minutes))} min" if minutes < 90 else f"about {minutes / 60:.0f} h"


def budgets_view(
    frontier: tuple[Report, ...], proposal: Proposal | None, report: Report | None
) -> list[dict[str, Any]]:
    """A slider for each kind of budget, from the tightest plan to the most generous."""
    metric = frontier[0].metric
    sizes = [each.size.value for each in frontier]
    largest = size(max(sizes))
    unit = max(sizes) / float(largest.text.replace(",", ""))
    factor = 10.0 ** round(math.log10(unit))
    worst = max(each.drop.value for each in frontier)
    least = max(min(each.drop.value for each in frontier), worst * LEAST_LOSS)
    now = report.size.value if report is not None else max(sizes)
    lost = report.drop.value if report is not None else worst
    made = [
        _slider("size", "Size", largest.unit, factor, sizes[0], sizes[-1], now, figures, proposal),
    ]
    if worst > least > 0:
        hundredths = 0.01 if metric.share else 1.0
        write: Callable[[float], str] = _hundredths if metric.share else small
        made.append(
            _slider("loss", "Loss", change_unit(metric) or metric.name, hundredths, least, worst, lost, write, proposal)
        )
    return made


def _hundredths(value: float) -> str:
    return points(value / 100)


def _slider(
    kind: str, title: str, unit: str, factor: float, low: float, high: float, now: float,
    write: Callable[[float], str], proposal: Proposal | None,
) -> dict[str, Any]:  # fmt: skip
    """Steps of equal ratio: a kilobyte matters more where there are few."""
    values = [low * (high / low) ** (step / STEPS) for step in range(STEPS)] + [high]
    mine = proposal is not None and proposal.kind == kind
    budget = proposal.budget if proposal is not None and mine else min(max(now, low), high)
    nearest = min(range(len(values)), key=lambda index: abs(math.log(values[index] / max(budget, 1e-12))))
    return {
        "kind": kind,
        "title": title,
        "unit": unit,
        "factor": factor,
        "values": [float(f"{value:.6g}") for value in values],
        "texts": [write(value / factor) for value in values],
        "spoken": [f"{write(value / factor)} {unit}" for value in values],
        "value": float(f"{values[nearest]:.6g}"),
        "written": write(budget / factor) if mine else "",
        "disabled": False,
    }


def proposal_view(proposal: Proposal, planning: str, *, busy: bool) -> dict[str, Any]:
    """What is proposed, what it costs, and what a little more would buy."""
    report, plan = proposal.report, proposal.plan
    found, metric = report.drop, report.metric
    ends = sorted((found.low, found.high), reverse=metric.higher_is_better)
    interval = between(*(change(end, metric) for end in ends))
    unit = f" {change_unit(metric)}".rstrip() if metric.share or metric.unit else f" {metric.name}"
    timed = proposal.max_latency is not None
    exchanges = [each.text for each in plan.exchanges] if plan is not None and not proposal.edited else []
    return {
        "name": report.recipe.label,
        "origin": found.source,
        "size": str(size(report.size.value)),
        "loss": [
            {"text": change(found.value, metric), "tone": tone(report)},
            {"text": f"{unit} {interval}", "tone": ""},
        ],
        "latency": f"{duration(report.latency.value)} a call" if timed and report.latency is not None else "",
        "edited": proposal.edited,
        "note": proposal.note,
        "exchanges": exchanges,
        "improving": planning,
        "can_improve": not busy and not planning,
        "why_not": "Something is being measured." if busy else "",
    }


def tone(report: Report) -> str:
    """The colour of a difference: none where it cannot be told from nothing."""
    return "" if report.drop.includes(0) else "loss" if report.drop.value > 0 else "gain"


def number_of(message: Message, key: str) -> float:
    """A number from the browser.

    Raises:
        WorkbenchError: It is missing, or no number.
    """
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WorkbenchError(f"A number is needed for the budget; {str(value)[:20]!r} is none.")
    return float(value)
