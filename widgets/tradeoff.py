"""Every recipe tried, as accuracy against size or latency, with the frontier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from widgets.axes import Axis, linear, logarithmic
from widgets.formatting import Quantity, duration, fixed, score, size, title, with_unit
from widgets.naming import names_of
from widgets.part import Message, Part, source, text_of
from workbench.report import Estimate, MetricInfo, Report

WINDOW = 0.3
"""The accuracy axis reaches at most as far below the best; what lies lower stands at its foot, with its number."""


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


def tradeoff_view(
    tried: Sequence[Report], report: Report | None, baseline: Report | None, *, stale: bool = False
) -> dict[str, Any]:
    """The picture of the reports.

    Args:
        tried: Complete reports, in the order tried.
        report: The one on the screen, complete or not.
        baseline: The model in fp32; its recipe's point is named so.
        stale: The report belongs to an earlier recipe, so that nothing is "now".
    """
    reports = shown(tried, report)
    if not reports:
        return {"points": [], "axes": [], "ticks": [], "label": "Nothing was tried yet."}
    metric = reports[0].metric
    axis = _accuracy_axis(reports, report)
    now = report.recipe.key if report is not None and not stale else ""
    first = baseline.recipe.key if baseline else ""
    names = names_of([each.recipe for each in reports])
    points = [
        _point(each, axis, names[each.recipe.key], now=now, baseline=first) | {"recent": recent}
        for recent, each in enumerate(reports)
    ]
    return {
        "points": points,
        "ticks": [
            {"at": axis.place(t), "text": text} for t, text in zip(axis.ticks, _ticks(axis, metric), strict=True)
        ],
        "title": with_unit(metric.name, metric),
        "axes": [drawn for against in AGAINST if (drawn := _axis(reports, against, names))],
        "label": f"{title(metric)} against {{}}, {len(reports)} recipe{'s' if len(reports) > 1 else ''}",
    }


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


def _point(report: Report, axis: Axis, name: str, *, now: str, baseline: str) -> dict[str, Any]:
    key = report.recipe.key
    accuracy, sign = report.accuracy, 1 if report.metric.higher_is_better else -1
    at = sign * accuracy.value
    below = str(score(accuracy.value, report.metric)) if at < axis.low else ""
    return {
        "key": key,
        "name": name,
        "label": f"↓ {below}" if below else f"{name} (now)" if key == now else name,
        "y": axis.place(at),
        "low": axis.place(min(sign * accuracy.low, sign * accuracy.high)),
        "high": axis.place(max(sign * accuracy.low, sign * accuracy.high)),
        "origin": accuracy.source,
        "now": key == now,
        "baseline": key == baseline,
        "growing": not report.complete,
        "below": bool(below),
    }


def _axis(reports: Sequence[Report], against: Against, names: Mapping[str, str]) -> dict[str, Any] | None:
    known = {r.recipe.key: estimate for r in reports if (estimate := against.estimate(r)) and estimate.value > 0}
    if not known:
        return None
    scale = logarithmic([estimate.value for estimate in known.values()])
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
                f"{against.write(estimate.value)}",
            }
            for r in reports
            if (estimate := known.get(r.recipe.key))
        },
        "frontier": [r.recipe.key for r in frontier(reports, against)],
    }


def _round(quantity: Quantity) -> str:
    """A tick's number without the zeros that only a measured value needs: ``100 kB``, ``1.5 MB``."""
    text = quantity.text.rstrip("0").rstrip(".") if "." in quantity.text else quantity.text
    return str(Quantity(text, quantity.unit))


class TradeOff(Part):
    """Accuracy against size or latency; a point that is clicked becomes the recipe again."""

    _esm = source("tradeoff.js")
    watches: ClassVar[tuple[str, ...]] = ("tried", "report", "baseline", "stale")

    def draw(self) -> dict[str, Any]:
        """All points, both axes."""
        session = self.session
        return tradeoff_view(session.tried, session.report, session.baseline, stale=session.stale)

    def actions(self) -> dict[str, Any]:
        """``restore``: the recipe with that ``key``."""
        return {"restore": self._restore}

    def _restore(self, message: Message) -> None:
        self.session.restore(text_of(message, "key"))
