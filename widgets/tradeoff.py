"""Every recipe tried, as accuracy against size or latency, with the frontier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import traitlets

from widgets.axes import Axis, linear, logarithmic
from widgets.formatting import Quantity, duration, fixed, score, size, title, with_unit
from widgets.naming import names_of
from widgets.part import Message, Part, changes_of, source, text_of
from widgets.plan_panel import about, number_of, plan_view
from workbench.report import Estimate, MetricInfo, Report

if TYPE_CHECKING:
    from widgets.planning import Outlook, Proposal
    from widgets.session import Session

WINDOW = 0.3
"""The accuracy axis reaches at most as far below the best; what lies lower stands at its foot, with its number."""

IMPORTED_WINDOW = 0.1
"""Reports that were measured elsewhere widen the axis no further than this; those below it are left out."""

NEAR = 0.05
"""So much of the predicted frontier below the best is always in the picture: a dragged budget moves no axis."""


class Against(NamedTuple):
    """What accuracy is drawn against."""

    key: str
    title: str
    estimate: Callable[[Report], Estimate | None]
    write: Callable[[float], Quantity]


AGAINST = (
    Against("size", "size of the file", lambda report: report.size, size),
    Against("latency", "latency of a call", lambda report: report.latency, duration),
)


def frontier(reports: Sequence[Report], against: Against) -> list[Report]:
    """The complete reports that no other beats in both, from the cheapest to the most accurate."""
    known = [
        (estimate.value, -goodness(report), report) for report in reports if (estimate := against.estimate(report))
    ]
    best: list[Report] = []
    for _, _, report in sorted(known, key=lambda entry: entry[:2]):
        if report.complete and (not best or goodness(report) > goodness(best[-1])):
            best.append(report)
    return best


def goodness(report: Report) -> float:
    """The metric's value with the better end up."""
    return report.accuracy.value if report.metric.higher_is_better else -report.accuracy.value


def shown(tried: Sequence[Report], report: Report | None) -> list[Report]:
    """What was tried, and the report on the screen where it is not among it yet; the last of each recipe."""
    by_key = {each.recipe.key: each for each in tried}
    if report is not None:
        by_key.setdefault(report.recipe.key, report)
    return list(by_key.values())


NO_POINTS = {"points": [], "imported": [], "axes": [], "ticks": [], "label": "Nothing was tried yet.", "budget": None}


def tradeoff_view(
    tried: Sequence[Report],
    report: Report | None,
    baseline: Report | None,
    *,
    imported: Sequence[Report] = (),
    stale: bool = False,
    prediction: Report | None = None,
    outlook: Outlook | None = None,
    proposal: Proposal | None = None,
) -> dict[str, Any]:
    """The picture of the reports.

    Args:
        tried: Complete reports, in the order tried.
        report: The one on the screen, complete or not.
        baseline: The model in fp32; its recipe's point is named so.
        imported: Reports that were measured elsewhere; those of a recipe that was tried here are not drawn.
        stale: The report belongs to an earlier recipe, so that nothing is "now" but its prediction.
        prediction: Of the recipe on the screen.
        outlook: The predicted frontier.
        proposal: A plan, drawn as a point beside the budget that it was made for.
    """
    reports = shown(tried, report)
    here = {each.recipe.key for each in reports}
    elsewhere = [each for each in imported if each.recipe.key not in here]
    if not reports and not elsewhere:
        return NO_POINTS
    metric = (reports or elsewhere)[0].metric
    now = report.recipe.key if report is not None and not stale else ""
    if prediction is not None and (stale or report is None):
        now = prediction.recipe.key
    ghosts = {each.recipe.key: each for each in (proposal.report if proposal else None, prediction) if each is not None}
    proposed = proposal.recipe.key if proposal is not None else ""
    extra = [each for key, each in ghosts.items() if key not in here and key in (now, proposed)]
    ahead = outlook.frontier if outlook is not None else ()
    near = [*_near(ahead, reports or elsewhere, NEAR), *_near(elsewhere, [*reports, *elsewhere], IMPORTED_WINDOW)]
    axis = _accuracy_axis([*reports, *near], report)
    elsewhere = [each for each in elsewhere if goodness(each) >= axis.low]
    first = baseline.recipe.key if baseline else ""
    names = names_of([each.recipe for each in (*reports, *extra, *elsewhere)])
    points = [
        _point(each, axis, names[each.recipe.key], now=now, baseline=first, proposed=proposed)
        | {"recent": recent, "tried": each.recipe.key in here}
        for recent, each in enumerate([*reports, *extra])
    ]
    return {
        "points": points,
        "ticks": [
            {"at": axis.place(t), "text": text} for t, text in zip(axis.ticks, _ticks(axis, metric), strict=True)
        ],
        "title": with_unit(metric.name, metric),
        "axes": [
            drawn
            for against in AGAINST
            if (drawn := _axis(reports, against, names, extra, ahead, axis, proposal, elsewhere))
        ],
        "budget": _loss_line(proposal, baseline, axis),
        "imported": [
            {"key": each.recipe.key, "name": names[each.recipe.key], "y": axis.place(goodness(each))}
            for each in elsewhere
        ],
        "label": f"{title(metric)} against {{}}, {len(reports)} recipe{'' if len(reports) == 1 else 's'}"
        + (f" and {len(elsewhere)} that were measured elsewhere" if elsewhere else ""),
    }


def _near(others: Sequence[Report], reports: Sequence[Report], window: float) -> list[Report]:
    """What always has its place in the picture, of reports that are predicted or were measured elsewhere."""
    best = max(goodness(each) for each in reports)
    span = window if reports[0].metric.share else max(best - min(goodness(each) for each in reports), 0.0)
    return [each for each in others if goodness(each) >= best - span]


def _loss_line(proposal: Proposal | None, baseline: Report | None, axis: Axis) -> float | None:
    """Where the least accuracy of a budget lies, if it is one of accuracy and in the picture."""
    if proposal is None or proposal.kind != "loss" or baseline is None:
        return None
    at = goodness(baseline) - proposal.budget
    return axis.place(at) if axis.low <= at <= axis.high else None


def _accuracy_axis(reports: Sequence[Report], report: Report | None) -> Axis:
    """From the best down to the worst, or as far as anything can be told apart."""
    metric = reports[0].metric
    values = [goodness(each) for each in reports]
    best = max(values)
    window = WINDOW if metric.share else max(abs(best), max(values) - sorted(values)[len(values) // 2])
    kept = [value for value in values if value >= best - window]
    if report is not None and goodness(report) >= best - window:
        sign = 1 if metric.higher_is_better else -1
        kept += [sign * report.accuracy.low, sign * report.accuracy.high]
    if metric.share:
        return linear(kept, least=0.02, limits=(0.0, 1.0))
    room = 1e3 * (abs(best) + 1)
    return linear(kept, least=max(0.01 * abs(best), 1e-6), limits=(-room, room))


def _ticks(axis: Axis, metric: MetricInfo) -> list[str]:
    """The values at the ticks as they are read: in percent, and errors without the sign that puts them up."""
    factor = 100 if metric.share else 1
    values = [factor * (tick if metric.higher_is_better else -tick) for tick in axis.ticks]
    digits = next((d for d in range(6) if all(abs(round(v, d) - v) < 1e-9 + 1e-6 * abs(v) for v in values)), 6)
    return [fixed(value, digits) for value in values]


def _point(report: Report, axis: Axis, name: str, *, now: str, baseline: str, proposed: str) -> dict[str, Any]:
    key = report.recipe.key
    accuracy, sign = report.accuracy, 1 if report.metric.higher_is_better else -1
    at = sign * accuracy.value
    below = str(score(accuracy.value, report.metric)) if at < axis.low else ""
    return {
        "key": key,
        "name": name,
        "label": f"↓ {below}" if below else f"{name} (now)" if key == now else "proposal" if key == proposed else name,
        "y": axis.place(at),
        "low": axis.place(min(sign * accuracy.low, sign * accuracy.high)),
        "high": axis.place(max(sign * accuracy.low, sign * accuracy.high)),
        "origin": accuracy.source,
        "now": key == now,
        "baseline": key == baseline,
        "proposed": key == proposed,
        "growing": not report.complete and accuracy.source != "predicted",
        "below": bool(below),
    }


def _axis(
    reports: Sequence[Report],
    against: Against,
    names: Mapping[str, str],
    extra: Sequence[Report],
    ahead: Sequence[Report],
    accuracy: Axis,
    proposal: Proposal | None,
    elsewhere: Sequence[Report],
) -> dict[str, Any] | None:
    """One horizontal axis, with the places of all points on it; None where nothing has a place on it."""
    known = {r.recipe.key: e for r in (*reports, *extra, *elsewhere) if (e := against.estimate(r)) and e.value > 0}
    if not any(r.recipe.key in known for r in (*reports, *elsewhere)):
        return None
    by_size = against.key == "size"  # all mixes of a method run in the same kernels: their latency is one
    sizes = [each.size.value for each in ahead] if by_size else []
    scale = logarithmic([*(estimate.value for estimate in known.values()), *sizes])
    line = [each for each in ahead if accuracy.low <= goodness(each)] if by_size else []
    limit = proposal.budget if by_size and proposal is not None and proposal.kind == "size" else None
    return {
        "key": against.key,
        "title": against.title,
        "ticks": [{"at": scale.place(tick), "text": _round(against.write(tick))} for tick in scale.ticks],
        "places": {
            r.recipe.key: {
                "x": scale.place(estimate.value),
                "low": scale.place(estimate.low),
                "high": scale.place(estimate.high),
                "spoken": f"{names[r.recipe.key]}: {score(r.accuracy.value, r.metric)}, "
                f"{against.write(estimate.value)}{', predicted' if r.accuracy.source == 'predicted' else ''}",
            }
            for r in (*reports, *extra)
            if (estimate := known.get(r.recipe.key))
        },
        "imported": {
            r.recipe.key: {
                "x": scale.place(estimate.value),
                "spoken": f"{names[r.recipe.key]}: {score(r.accuracy.value, r.metric)}, "
                f"{against.write(estimate.value)}, imported",
            }
            for r in elsewhere
            if (estimate := known.get(r.recipe.key))
        },
        "frontier": [r.recipe.key for r in frontier([*reports, *elsewhere], against)],
        "ahead": [[scale.place(each.size.value), accuracy.place(goodness(each))] for each in line],
        "budget": None if limit is None or not scale.low <= limit <= scale.high else scale.place(limit),
    }


def _round(quantity: Quantity) -> str:
    """A tick's number without the zeros that only a measured value needs: ``100 kB``, ``1.5 MB``."""
    text = quantity.text.rstrip("0").rstrip(".") if "." in quantity.text else quantity.text
    return str(Quantity(text, quantity.unit))


def picked_view(report: Report | None, *, trains: bool, training: bool) -> dict[str, Any] | None:
    """A point that was measured elsewhere, in words, and what it costs to measure it here.

    Args:
        report: Of the point; None where none was picked.
        trains: Whether something has to learn for it.
        training: Whether a training is under way.
    """
    if report is None:
        return None
    recipe = report.recipe
    numbers = f"{score(report.accuracy.value, report.metric)}, {size(report.size.value)}"
    who = "the network" if recipe.distillation is None else "its student"
    if not trains:
        told = "Measuring it takes about a second."
    elif recipe.finetuning is not None:
        told = f"To measure it here, {who} is fine-tuned first, about as long as other fine-tunings."
    else:
        seconds = f", {about(report.distillation.seconds)} where it was measured" if report.distillation else ""
        told = f"To measure it here, {who} is trained first, with its control{seconds}."
    return {
        "key": recipe.key,
        "text": f"{recipe.label}: {numbers}, imported. {told}",
        "button": "Train and measure" if trains else "Measure",
        "disabled": training and trains,
    }


class TradeOff(Part):
    """Accuracy against size or latency; a point that is clicked becomes the recipe again, a budget a proposal."""

    _esm = source("plan_panel.js", "tradeoff.js")
    elsewhere = traitlets.Dict().tag(sync=True)
    """Points that were measured elsewhere. Apart from `view`, so that they are sent again only when they move."""
    watches: ClassVar[tuple[str, ...]] = (
        "tried",
        "imported",
        "training",
        "report",
        "baseline",
        "stale",
        "busy",
        "prediction",
        "outlook",
        "proposal",
        "planning",
        "sensing",
        "sensing_takes",
    )

    def __init__(self, session: Session, **traits: Any) -> None:
        """
        Args:
            session: See `Part`.
            traits: Of the widget itself, as ``layout``.
        """
        self._picked = ""
        super().__init__(session, **traits)

    def draw(self) -> dict[str, Any]:
        """All points, both axes, and what can be planned."""
        s = self.session
        view = tradeoff_view(
            s.tried,
            s.report,
            s.baseline,
            imported=s.imported,
            stale=s.stale,
            prediction=s.prediction,
            outlook=s.outlook,
            proposal=s.proposal,
        )
        plan = plan_view(
            s.outlook,
            s.proposal,
            s.report,
            sensing=s.sensing,
            takes=s.sensing_takes,
            asked=s.asked_to_learn,
            planning=s.planning,
            busy=s.busy,
            obstacle=s.obstacle(),
        )
        self.elsewhere = {
            "points": view["imported"],
            "places": {axis["key"]: axis["imported"] for axis in view["axes"]},
        }
        axes = [{name: value for name, value in axis.items() if name != "imported"} for axis in view["axes"]]
        view = {name: value for name, value in view.items() if name != "imported"} | {"axes": axes}
        here = {each.recipe.key for each in s.tried}
        picked = None if self._picked in here else self._imported(self._picked)
        trains = picked is not None and s.trains(picked.recipe)
        return view | {"plan": plan, "picked": picked_view(picked, trains=trains, training=s.training)}

    def actions(self) -> dict[str, Any]:
        """``restore``: the recipe with that ``key``; ``pick``, ``measure``: what was measured elsewhere.

        ``propose``: a plan for a budget; and what becomes of it.
        """
        s = self.session
        return {
            "restore": self._restore,
            "pick": self._pick,
            "measure": lambda message: s.measure_imported(text_of(message, "key")),
            "propose": self._propose,
            "take": lambda _: s.take_proposal(),
            "improve": lambda _: s.improve_proposal(),
            "stop_improving": lambda _: s.stop_improving(),
            "discard": lambda _: s.discard_proposal(),
            "learn": lambda _: s.learn(),
            "stop_learning": lambda _: s.stop_learning(),
            "plan_otherwise": lambda _: s.plan_otherwise(),
        }

    def _restore(self, message: Message) -> None:
        self._picked = ""
        self.session.restore(text_of(message, "key"))
        self.refresh()

    def _pick(self, message: Message) -> None:
        """What needs no training is measured at once, in a second; else its cost is named first."""
        key = text_of(message, "key")
        report = self._imported(key)
        if report is None or not self.session.trains(report.recipe):
            self._picked = ""
            self.session.measure_imported(key)
        else:
            self._picked = key
        self.refresh()

    def _imported(self, key: str) -> Report | None:
        return next((each for each in self.session.imported if each.recipe.key == key), None)

    def _propose(self, message: Message) -> None:
        changes = changes_of(message, ("max_bytes", "max_drop", "max_latency"))
        self.session.propose(**{name: number_of(changes, name) for name in changes})
