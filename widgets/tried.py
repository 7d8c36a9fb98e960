"""The recipes tried so far as a table, as code and as CSV, and the current one as a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.desk import FP32
from widgets.exporting import FORMS
from widgets.formatting import (
    NOTHING,
    between,
    change,
    change_unit,
    count,
    duration,
    figures,
    percent,
    points,
    score,
    size,
    title,
    with_unit,
)
from widgets.naming import names_of
from widgets.part import Message, Part, source, text_of
from workbench.recipe import Recipe
from workbench.report import Estimate, MetricInfo, Report

if TYPE_CHECKING:
    from widgets.distilling import Pair

COLUMNS = ("accuracy", "low", "high", "drop", "bytes", "seconds", "lost", "won", "source", "recipe")


STUDENTS = ("student", "control", "difference", "seconds")
RECIPES = ("accuracy", "drop", "kilobytes", "milliseconds", "flips")


def tried_view(
    tried: Sequence[Report], recipe: Recipe, *, students: bool = False, pair: Pair | None = None
) -> dict[str, Any]:
    """The picture of the tried recipes, the latest on top and the baseline at the foot.

    Args:
        tried: All of them, the baseline first.
        recipe: The one on the screen.
        students: Only those with a student, and what the teacher was good for.
        pair: Two that are compared.
    """
    names = names_of([report.recipe for report in tried])
    distilled = [report for report in tried if report.distillation is not None]
    students = students and bool(distilled)
    metric = tried[0].metric if tried else MetricInfo()
    rows = [
        {"key": report.recipe.key, "name": names[report.recipe.key], "now": report.recipe.key == recipe.key}
        | (_student(report) if students else _numbers(report, baseline=report is tried[0]))
        for report in (distilled if students else tried)
    ]
    total = f"{count(len(rows))} recipe{'' if len(rows) == 1 else 's'}" if rows else ""
    return {
        "rows": rows[::-1],
        "columns": _columns(metric, students=students),
        "tabs": [
            {"value": value, "text": text, "pressed": value == students}
            for value, text in ((False, "all"), (True, f"students {count(len(distilled))}"))
        ]
        if distilled
        else [],
        "fixed": [FP32.key, recipe.key],
        "pair": pair_view(pair, names) if pair is not None else None,
        "remark": total,
        "code": recipe.code(),
        "csv": as_csv(tried),
    }


def _columns(metric: MetricInfo, *, students: bool) -> list[dict[str, str]]:
    if students:
        texts = ("Student", "Control", "Difference", "s")
        return [{"name": name, "text": text} for name, text in zip(STUDENTS, texts, strict=True)]
    short = "Acc." if metric.name == "accuracy" else title(metric)
    texts = (
        with_unit(short, metric),
        "Drop" if metric.higher_is_better else "Change",
        "kB",
        "ms",
        "Flips" if metric.counted else "Changed",
    )
    return [{"name": name, "text": text} for name, text in zip(RECIPES, texts, strict=True)]


def _numbers(report: Report, *, baseline: bool) -> dict[str, Any]:
    return {
        "origin": report.accuracy.source,
        "accuracy": score(report.accuracy.value, report.metric).text,
        "drop": "" if baseline else change(report.drop.value, report.metric),
        "sure": not report.drop.includes(0),
        "kilobytes": figures(report.size.value / 1e3),
        "milliseconds": figures(report.latency.value * 1e3) if report.latency else NOTHING,
        "flips": "" if baseline else count(report.flips.total),
    }


def _student(report: Report) -> dict[str, Any]:
    """Of its student in fp32, whatever the bits of the recipe."""
    found = report.distillation
    assert found is not None  # noqa: S101
    return {
        "origin": found.student.source,
        "student": percent(found.student.value).text,
        "control": percent(found.control.value).text,
        "difference": points(found.difference.value, signed=True),
        "sure": not found.difference.includes(0),
        "seconds": figures(found.seconds),
    }


def pair_view(pair: Pair, names: Mapping[str, str]) -> dict[str, Any]:
    """Two recipes side by side, and by how much the first is better."""
    one, other = pair.one, pair.other
    metric = one.metric
    lines: list[tuple[str, Callable[[Report], str]]] = [
        (title(metric), lambda report: str(score(report.accuracy.value, metric))),
        ("Size", lambda report: str(size(report.size.value))),
        ("Latency", lambda report: str(duration(report.latency.value)) if report.latency else NOTHING),
    ]
    if one.distillation or other.distillation:
        lines += [
            ("Student", lambda report: _of(report, "student")),
            ("Control", lambda report: _of(report, "control")),
            ("Difference", lambda report: _of(report, "difference")),
        ]
    gap = pair.difference
    said, tone = pair.reason, "loss" if pair.reason else ""
    if gap is not None:
        interval = between(*(change(-end, metric) for end in (gap.low, gap.high)))
        sure = not gap.includes(0)
        better = gap.value > 0
        tone = ("gain" if better else "loss") if sure else "faint"
        unit = change_unit(metric) or metric.name
        said = f"{change(-gap.value, metric)} {unit} {interval}, the same examples" + (
            "" if sure else ": not distinguishable"
        )
    return {
        "names": [names.get(each.recipe.key, each.recipe.label) for each in (one, other)],
        "rows": [{"name": name, "one": text(one), "other": text(other)} for name, text in lines],
        "said": said,
        "tone": tone,
    }


def _of(report: Report, name: str) -> str:
    if report.distillation is None:
        return NOTHING
    estimate: Estimate = getattr(report.distillation, name)
    return f"{points(estimate.value, signed=True)} points" if name == "difference" else str(percent(estimate.value))


def as_csv(tried: Sequence[Report]) -> str:
    """The tried recipes in SI units and fractions, one a line, the recipe as JSON in the last column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *COLUMNS])
    for r in tried:
        latency = r.latency.value if r.latency else ""
        numbers = (
            r.accuracy.value,
            r.accuracy.low,
            r.accuracy.high,
            r.drop.value,
            r.size.value,
            latency,
            r.flips.lost,
            r.flips.gained,
        )
        writer.writerow([r.recipe.label, *numbers, r.accuracy.source, r.recipe.to_json()])
    return text.getvalue()


class Tried(Part):
    """A table of what was tried; a row that is clicked becomes the recipe again, and two can be compared."""

    _esm = source("tried.js")
    watches: ClassVar[tuple[str, ...]] = ("tried", "recipe", "compared", "exporting", "exported", "export_problem")

    def __init__(self, session: Any, **traits: Any) -> None:
        self._students = False
        super().__init__(session, **traits)

    def draw(self) -> dict[str, Any]:
        """The table for this model."""
        session = self.session
        table = tried_view(session.tried, session.recipe, students=self._students, pair=session.compared)
        return table | {"export": export_view(session.exporting, session.exported, session.export_problem)}

    def actions(self) -> dict[str, Any]:
        """What the browser may ask for.

        ``restore``: the recipe with that ``key``; ``forget`` it; ``compare`` that of ``one`` key with an ``other``'s,
        ``apart``: no more; ``show`` only the ``students`` or all; ``export``: the recipe on the screen in a ``form``;
        ``stop`` that.
        """
        return {
            "restore": lambda message: self.session.restore(text_of(message, "key")),
            "forget": lambda message: self.session.forget(text_of(message, "key")),
            "compare": lambda message: self.session.compare(text_of(message, "one"), text_of(message, "other")),
            "apart": lambda _: self.session.end_comparison(),
            "show": self._show,
            "export": self._export,
            "stop": lambda _: self.session.stop_exporting(),
        }

    def _show(self, message: Message) -> None:
        self._students = message.get("students") is True
        self.refresh()

    def _export(self, message: Message) -> None:
        self.session.export(text_of(message, "form"), self._deliver)

    def _deliver(self, name: str, content: bytes) -> None:
        self.send({"file": name}, buffers=[content])


def export_view(working: str, written: str, problem: str) -> dict[str, Any]:
    """The picture of what can be written, and of what was.

    Args:
        working: How far the writing is.
        written: What was written last.
        problem: Why nothing was.
    """
    return {
        "forms": [{"value": name, "text": form.label, "title": form.what} for name, form in FORMS.items()],
        "working": working,
        "said": problem or written,
        "tone": "loss" if problem else "",
    }
