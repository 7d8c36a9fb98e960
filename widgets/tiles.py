"""The four answers: accuracy, size, latency and flips, each with its interval and its origin."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.formatting import (
    NOTHING,
    Quantity,
    between,
    change,
    change_unit,
    count,
    duration,
    ratio,
    score,
    size,
    title,
)
from widgets.part import Part, source
from widgets.roofline import span
from workbench.report import Estimate, Report

if TYPE_CHECKING:
    from widgets.bounding import Elsewhere

SPANS = (0.04, 0.2, 1.0)
"""Widths of the accuracy axis, as shares; few, so that an interval is seen to shrink on a scale that stays."""
FACTORS = (2.0, 8.0, 64.0)
"""Ends of the latency axis, as factors of the baseline."""
BASELINE_AT = 0.75
LATENCY = 2
"""Which of the tiles it is."""
DISTURBED = "\u202f▲"
"""Behind a latency that other work made doubtful; what it was is in the tile's title and in the verdict."""

Tile = dict[str, Any]


def tiles_view(
    report: Report | None,
    baseline: Report | None,
    *,
    stale: bool = False,
    busy: bool = False,
    earlier: Report | None = None,
    prediction: Report | None = None,
) -> dict[str, Any]:
    """The picture of a report.

    Args:
        report: What is known; None where nothing is yet.
        baseline: The same model in fp32.
        stale: The report belongs to an earlier recipe.
        busy: More is on its way.
        earlier: The last report that had a latency, drawn greyed until there is a new one.
        prediction: Of the recipe on the screen, drawn until something of it was measured.
    """
    if prediction is not None and (stale or report is None):
        return _predicted(prediction, report, baseline, earlier, busy=busy)
    if report is None:
        return {"tiles": [_empty(key, busy) for key in ("Accuracy", "Size", "Latency", "Flips")]}
    state = "stale" if stale else "final" if report.complete else "growing"
    latency = report if report.latency or not busy or earlier is None else earlier
    return {
        "tiles": [
            _accuracy(report) | {"state": state},
            _size(report, baseline) | {"state": "stale" if stale else "final"},
            _latency(latency, busy) | {"state": "stale" if stale or latency is not report else "final"},
            _flips(report) | {"state": state},
        ]
    }


def there_view(elsewhere: Elsewhere | None) -> dict[str, str] | None:
    """The line in the tile of the latency about the device that is asked about; None where none is."""
    if elsewhere is None or elsewhere.bound is None:
        return None
    latency = elsewhere.bound.latency
    if latency is None:
        return {"name": elsewhere.profile.name, "text": "not possible there", "origin": "predicted"}
    text = span(latency.low, latency.high)
    return {"name": elsewhere.profile.name, "text": text, "origin": latency.source}


def _predicted(
    prediction: Report, report: Report | None, baseline: Report | None, earlier: Report | None, *, busy: bool
) -> dict[str, Any]:
    """What is foreseen; what is not, stays as it was, greyed."""
    before = earlier or report
    timed = prediction if prediction.latency is not None else before
    latency = _empty("Latency", busy) if timed is None else _latency(timed, busy)
    flips = _empty("Flips", busy) if report is None else _flips(report) | {"state": "stale"}
    return {
        "tiles": [
            _accuracy(prediction) | {"state": "final"},
            _size(prediction, baseline) | {"state": "final"},
            latency | ({} if timed is None else {"state": "final" if timed is prediction else "stale"}),
            flips,
        ]
    }


def is_fp32(report: Report) -> bool:
    """Whether nothing was changed: this is the baseline, whatever runs it."""
    return not report.recipe.quantization.active and report.recipe.distillation is None


def _tile(
    name: str, value: Quantity, badge: tuple[str, str] | None, parts: list[tuple[str, str]], title: str = ""
) -> Tile:
    return {
        "name": name,
        "value": value.text,
        "unit": value.unit,
        "badge": {"origin": badge[0], "word": badge[1]} if badge else None,
        "parts": [{"text": text, "tone": tone} for text, tone in parts],
        "title": title,
        "bar": None,
    }


def _empty(name: str, busy: bool) -> Tile:
    word = "measuring…" if busy else "not measured yet"
    return _tile(name, Quantity(NOTHING, ""), None, [(word, "")]) | {"state": "empty"}


def _origin(estimate: Estimate) -> tuple[str, str]:
    return estimate.source, estimate.source


def _accuracy(report: Report) -> Tile:
    drop, metric = report.drop, report.metric
    ends = sorted((drop.low, drop.high), reverse=metric.higher_is_better)
    interval = between(*(change(end, metric) for end in ends))
    unit = f" {change_unit(metric)}".rstrip()
    if is_fp32(report):
        parts = [("the baseline", "")]
    elif drop.includes(0):
        parts = [("not distinguishable", ""), (f" {interval}", "long")]
    else:
        parts = [(change(drop.value, metric), "loss" if drop.value > 0 else "gain"), (f"{unit} {interval}", "long")]
    accuracy = report.accuracy
    found, low, high = (score(value, metric) for value in (accuracy.value, accuracy.low, accuracy.high))
    seen = f"of {count(report.evaluated)} examples" if report.evaluated else "predicted from what each layer costs"
    told = [
        f"{found} {between(low.text, high.text)} {seen}.",
        f"Against fp32 on the same examples: {change(drop.value, metric)}{unit} {interval}, 95 % confidence.",
        *(f"{title(s.metric)}: {score(s.value.value, s.metric)}." for s in report.scores),
    ]
    tile = _tile(title(metric), found, _origin(accuracy), parts, " ".join(told))
    extent = max(drop.high / BASELINE_AT, -drop.low / (1 - BASELINE_AT), 1e-12)
    spans = SPANS if metric.share else [step * 10.0 ** math.ceil(math.log10(extent)) for step in (0.2, 0.5, 1.0)]
    span = next((s for s in spans if extent <= s), spans[-1])
    low_at, at, high_at = (_clip(BASELINE_AT - loss / span) for loss in (drop.high, drop.value, drop.low))
    return tile | {"bar": {"kind": "interval", "low": low_at, "at": at, "high": high_at, "baseline": BASELINE_AT}}


def _size(report: Report, baseline: Report | None) -> Tile:
    whole = report.size.value
    tile = _tile("Size", size(whole), _origin(report.size), [], f"{count(round(whole))} bytes in the file.")
    if baseline is None or not baseline.size.value or not whole:
        return tile
    smaller = baseline.size.value / whole
    if abs(math.log(smaller)) < 0.005:
        parts = [("the baseline" if is_fp32(report) else "as large", ""), (f" as {size(baseline.size.value)}", "long")]
        parts = parts[: 1 if is_fp32(report) else 2]
    else:
        word = f"{ratio(smaller)} smaller" if smaller > 1 else f"{ratio(1 / smaller)} larger"
        parts = [(word, "gain" if smaller > 1 else "loss"), (f" than {size(baseline.size.value)}", "long")]
    tile["parts"] = [{"text": text, "tone": tone} for text, tone in parts]
    return tile | {"bar": {"kind": "share", "share": _clip(1 / smaller)}}


def _latency(report: Report, busy: bool) -> Tile:
    batch = report.recipe.deployment.batch
    name = f"Latency, batch {batch}" if batch > 1 else "Latency"
    latency, faster = report.latency, report.speedup
    if latency is None:
        said = ("measuring…", "")
        if report.untimed:
            said = ("could not be timed here", "loss")
        elif not busy:
            said = ("not measured", "")
        return _tile(name, Quantity(NOTHING, ""), None, [said], report.untimed)
    runtime, threads = report.recipe.deployment.runtime, report.recipe.deployment.threads
    title = (
        f"{duration(latency.value)} {between(str(duration(latency.low)), str(duration(latency.high)))} "
        f"a call of {batch} with {runtime}, {threads} thread{'s' if threads > 1 else ''}; median, 95 % confidence."
    )
    tile = _tile(name, duration(latency.value), _origin(latency), [], " ".join((title, *report.disturbances)))
    if faster is None or min(faster.low, faster.value) <= 0:
        return tile
    if is_fp32(report) and faster.includes(1):
        parts = [("the baseline", "")]
    elif faster.includes(1):
        parts = [("not distinguishable", ""), (f" {_factors(faster.low, faster.high)}", "long")]
    elif faster.value > 1:
        parts = [(f"{ratio(faster.value)} faster", "gain"), (f" {_factors(faster.low, faster.high)}", "long")]
    else:
        parts = [
            (f"{ratio(1 / faster.value)} slower", "loss"),
            (f" {_factors(1 / faster.high, 1 / faster.low)}", "long"),
        ]
    if report.disturbances:
        parts.append((DISTURBED, "loss"))
    tile["parts"] = [{"text": text, "tone": tone} for text, tone in parts]
    end = next((f for f in FACTORS if 1 / f <= faster.low and faster.high <= f), FACTORS[-1])
    low, at, high = (_clip(0.5 - math.log(x, end) / 2) for x in (faster.high, faster.value, faster.low))
    return tile | {"bar": {"kind": "interval", "low": low, "at": at, "high": high, "baseline": 0.5}}


def _factors(low: float, high: float) -> str:
    return between(ratio(low).removesuffix("×"), ratio(high))


def _flips(report: Report) -> Tile:
    flips, counted = report.flips, report.metric.counted
    name = "Flips" if counted else "Worse"
    value = Quantity(count(flips.total if counted else flips.lost), f"of {count(flips.n)}")
    if flips.total == 0:
        return _tile(name, value, ("measured", "counted"), [("the same answers", "")])
    chance = "p < 0.001" if flips.p_value < 0.001 else f"p = {flips.p_value:.2g}"
    lost, won = ("lost", "won") if counted else ("worse", "better")
    parts = [
        (f"{count(flips.lost)} {lost}", "loss"),
        (" · ", ""),
        (f"{count(flips.gained)} {won}", "gain"),
        (f" ({chance})", "long"),
    ]
    test = "McNemar's test" if counted else "Sign test"
    told = "Right in fp32 and wrong now" if counted else "A worse score than in fp32"
    said = f"{told}: {count(flips.lost)}; the other way round: {count(flips.gained)}. {test}: {chance}."
    tile = _tile(name, value, ("measured", "counted"), parts, said)
    return tile | {"bar": {"kind": "split", "share": _clip(flips.lost / flips.total)}}


def _clip(fraction: float) -> float:
    return round(min(1.0, max(0.0, fraction)), 4)


class Tiles(Part):
    """Accuracy, size, latency and flips of the recipe on the screen."""

    _esm = source("tiles.js")
    watches: ClassVar[tuple[str, ...]] = ("report", "stale", "baseline", "busy", "prediction", "elsewhere")
    _timed: Report | None = None

    def draw(self) -> dict[str, Any]:
        """The four tiles; a latency that is on its way is bridged by the last one of this model."""
        session = self.session
        report, baseline = session.report, session.baseline
        if baseline is None:
            self._timed = None  # another model: its times say nothing here
        view = tiles_view(
            report,
            baseline,
            stale=session.stale,
            busy=session.busy,
            earlier=self._timed,
            prediction=session.prediction,
        )
        if report is not None and report.latency is not None:
            self._timed = report
        view["tiles"][LATENCY]["there"] = there_view(session.elsewhere)
        return view
