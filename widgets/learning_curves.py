"""A student and its control while they learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.axes import linear
from widgets.formatting import between, count, duration, figures, percent, points, remaining
from widgets.part import Part, source
from workbench.report import Comparison, Estimate

if TYPE_CHECKING:
    from workbench.distillation.trainer import Progress

MOST_POINTS = 150
"""A line is thinned to as many; more cannot be told apart at its width."""
LINES = (("student", "with teacher"), ("control", "control"))


def curves_view(
    curve: Sequence[Progress],
    comparison: Comparison | None,
    *,
    training: bool,
    applied: bool,
    noun: str = "images",
    possible: bool = True,
) -> dict[str, Any]:
    """The picture of a training.

    Args:
        curve: Its progress so far.
        comparison: Student against control on the test data, once that was measured.
        training: Whether it is under way.
        applied: Whether the recipe has a student.
        noun: What an example is called.
        possible: Whether the task has anything to learn from.
    """
    lines = {name: _thinned(_evaluations(curve, name)) for name, _ in LINES}
    ends = [value for line in lines.values() for _, e in line for value in (e.low, e.high)]
    latest = curve[-1] if curve else None
    view: dict[str, Any] = {
        "lines": [],
        "ticks": [],
        "end": "",
        "remark": _remark(comparison, curve, training=training),
    }
    if latest is None or not ends:
        quiet = "Distil a student to see it learn beside its control."
        if not possible:
            quiet = f"No student can learn here: the task has no training {noun}."
        if training:
            quiet = "The teacher looks at the images first; the curves begin after that."
        elif applied:
            quiet = "This student was trained before; its curves were not kept."
        return view | {"foot": "", "quiet": quiet, "label": quiet}
    whole = max(1, latest.steps if training else latest.step)
    axis = linear(ends, least=0.1, limits=(0.0, 1.0), wanted=4)
    view["ticks"] = [{"at": axis.place(tick), "text": f"{100 * tick:.0f}"} for tick in axis.ticks]
    for name, text in LINES:
        if lines[name]:
            last = lines[name][-1][1]
            places = [
                (round(min(1.0, step / whole), 4), *map(axis.place, (e.value, e.low, e.high)))
                for step, e in lines[name]
            ]
            view["lines"].append({"name": name, "text": text, "points": places, "value": str(percent(last.value))})
    view["end"] = "" if training else str(duration(latest.seconds))
    pace = f"{figures(latest.samples_per_second)} {noun} a second"
    left = latest.seconds * (latest.steps / latest.step - 1) if latest.step else float("inf")
    state = remaining(left) if training else "stopped; the best so far was kept" if latest.cancelled else ""
    foot = " · ".join(part for part in (f"step {count(latest.step)} of {count(latest.steps)}", pace, state) if part)
    spoken = ", ".join(f"{line['text']} {line['value']}" for line in view["lines"])
    return view | {"foot": foot, "quiet": "", "label": f"Accuracy on held-out training {noun} while learning: {spoken}"}


def _evaluations(curve: Sequence[Progress], name: str) -> list[tuple[int, Estimate]]:
    """Where the estimate is a new one: between evaluations the last one is told again."""
    line: list[tuple[int, Estimate]] = []
    for progress in curve:
        estimate = getattr(progress, name)
        if estimate is not None and (not line or (line[-1][1] is not estimate and line[-1][1] != estimate)):
            line.append((progress.step, estimate))
    # untrained, both stand at chance: that point would flatten all that is to be seen
    return [point for point in line if point[0] > 0] or line


def _thinned(line: list[tuple[int, Estimate]]) -> list[tuple[int, Estimate]]:
    every = -(-len(line) // MOST_POINTS)
    return [*line[:-1:every], *line[-1:]] if every > 1 else line


def _remark(comparison: Comparison | None, curve: Sequence[Progress], *, training: bool) -> list[dict[str, str]]:
    if comparison is not None and not training:
        gap = comparison.difference
        interval = between(points(gap.low), points(gap.high))
        sure = not gap.includes(0)
        return [
            {
                "text": f"student {percent(comparison.student.value)} · control {percent(comparison.control.value)} · ",
                "tone": "",
            },
            {
                "text": f"{points(gap.value, signed=True)} {interval}" if sure else f"not distinguishable {interval}",
                "tone": ("gain" if gap.value > 0 else "loss") if sure else "",
            },
        ]
    known = [(name, getattr(curve[-1], name)) for name, _ in LINES] if curve else []
    text = " · ".join(f"{name} {percent(estimate.value)}" for name, estimate in known if estimate is not None)
    return [{"text": text or "student beside control", "tone": ""}]


class LearningCurves(Part):
    """Accuracy of student and control on held-out training data, with intervals, while they learn."""

    _esm = source("learning_curves.js")
    watches: ClassVar[tuple[str, ...]] = ("bench", "curve", "training", "report", "recipe", "stale")

    def draw(self) -> dict[str, Any]:
        """The two lines and what came of them."""
        session = self.session
        comparison = session.report.distillation if session.report is not None and not session.stale else None
        return curves_view(
            session.curve,
            comparison,
            training=session.training,
            applied=session.recipe.distillation is not None,
            noun=getattr(getattr(session.bench, "task", None), "noun", "images"),
            possible=session.bench is None or session.bench.training_images > 0,
        )
