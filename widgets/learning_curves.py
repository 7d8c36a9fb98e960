"""A network while it learns: a student beside its control, or a quantized network on its grids."""

from __future__ import annotations

import math
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
LINES = {
    "distillation": (("student", "with teacher"), ("control", "control")),
    "finetuning": (("accuracy", "fine-tuned"),),
}
"""What is drawn of each kind of training: fields of its progress, and what they are called."""
QUIET = {
    "distillation": {
        "": "Distil a student, or fine-tune the network, to see it learn.",
        "training": "The teacher looks at the images first; the curves begin after that.",
        "applied": "This student was trained before; its curves were not kept.",
    },
    "finetuning": {
        "": "Fine-tune the network to see it learn on its grids.",
        "training": "The network is put on its grids first; the curve begins after that.",
        "applied": "These weights were fine-tuned before; their curve was not kept.",
    },
}
"""What stands where no curve is."""


def curves_view(
    curve: Sequence[Progress],
    comparison: Comparison | None,
    *,
    training: bool,
    applied: bool,
    noun: str = "images",
    possible: bool = True,
    lesson: str = "distillation",
) -> dict[str, Any]:
    """The picture of a training.

    Args:
        curve: Its progress so far.
        comparison: Student against control on the test data, once that was measured.
        training: Whether it is under way.
        applied: Whether the recipe has what was learned.
        noun: What an example is called.
        possible: Whether the task has anything to learn from.
        lesson: What kind of training it is, of `LINES`.
    """
    kinds = LINES[lesson]
    lines = {name: _thinned(_evaluations(curve, name)) for name, _ in kinds}
    ends = [value for line in lines.values() for _, e in line for value in (e.low, e.high)]
    latest = curve[-1] if curve else None
    view: dict[str, Any] = {
        "lines": [],
        "ticks": [],
        "loss": None,
        "end": "",
        "remark": _remark(comparison, curve, kinds, training=training),
    }
    if latest is None or not ends:
        quiet = QUIET[lesson]["training" if training else "applied" if applied else ""]
        if not (possible or training or applied):
            quiet = f"No student can learn here: the task has no training {noun}."
        return view | {"foot": "", "quiet": quiet, "label": quiet}
    whole = max(1, latest.steps if training else latest.step)
    axis = linear(ends, least=0.1 if lesson == "distillation" else 0.02, limits=(0.0, 1.0), wanted=4)
    decimals = 0 if all(abs(100 * tick - round(100 * tick)) < 1e-6 for tick in axis.ticks) else 1
    view["ticks"] = [{"at": axis.place(tick), "text": f"{100 * tick:.{decimals}f}"} for tick in axis.ticks]
    for name, text in kinds:
        if lines[name]:
            last = lines[name][-1][1]
            places = [
                (round(min(1.0, step / whole), 4), *map(axis.place, (e.value, e.low, e.high)))
                for step, e in lines[name]
            ]
            view["lines"].append({"name": name, "text": text, "points": places, "value": str(percent(last.value))})
    if lesson == "finetuning":
        view["loss"] = _loss(curve, whole)
    view["end"] = "" if training else str(duration(latest.seconds))
    foot = " · ".join(said_of(curve, training=training, noun=noun))
    spoken = ", ".join(f"{line['text']} {line['value']}" for line in view["lines"])
    if view["loss"]:
        spoken += f", {view['loss']['text']}"
    return view | {"foot": foot, "quiet": "", "label": f"Accuracy on held-out training {noun} while learning: {spoken}"}


def said_of(curve: Sequence[Any], *, training: bool, noun: str) -> list[str]:
    """How far a training is, how fast, and how long it still takes.

    Args:
        curve: Its progress so far, at least one.
        training: Whether it is under way.
        noun: What an example is called.
    """
    latest = curve[-1]
    began = next((each for each in curve if getattr(each, "resumed", False)), None)
    left = latest.seconds * (latest.steps / latest.step - 1) if latest.step else float("inf")
    state = remaining(left) if training else "stopped; the best so far was kept" if latest.cancelled else ""
    epochs = getattr(latest, "epochs", 0)
    parts = [
        f"step {count(latest.step)} of {count(latest.steps)}",
        f"{count(latest.epoch)} of {count(epochs)} epochs" if epochs else "",
        f"{figures(latest.samples_per_second)} {noun} a second",
        state,
        f"resumed from epoch {count(began.epoch)}" if began else "",
        getattr(latest, "note", ""),
    ]
    return [part for part in parts if part]


def _loss(curve: Sequence[Any], whole: int) -> dict[str, Any] | None:
    """The loss as a line of its own, from 0 to its highest value."""
    known = [(each.step, each.loss) for each in curve if each.step and math.isfinite(each.loss)]
    if not known:
        return None
    highest = max(loss for _, loss in known) or 1.0
    every = -(-len(known) // MOST_POINTS)
    points = [(round(min(1.0, step / whole), 4), round(loss / highest, 4)) for step, loss in known[::every]]
    return {"points": points, "text": f"loss {figures(known[-1][1])}"}


def _evaluations(curve: Sequence[Progress], name: str) -> list[tuple[int, Estimate]]:
    """Where the estimate is a new one: between evaluations the last one is told again."""
    line: list[tuple[int, Estimate]] = []
    for progress in curve:
        estimate = getattr(progress, name)
        if estimate is not None and (not line or (line[-1][1] is not estimate and line[-1][1] != estimate)):
            line.append((progress.step, estimate))
    if name == "accuracy":
        return line
    # untrained, both stand at chance: that point would flatten all that is to be seen
    return [point for point in line if point[0] > 0] or line


def _thinned(line: list[tuple[int, Estimate]]) -> list[tuple[int, Estimate]]:
    every = -(-len(line) // MOST_POINTS)
    return [*line[:-1:every], *line[-1:]] if every > 1 else line


def _remark(
    comparison: Comparison | None, curve: Sequence[Progress], kinds: Sequence[tuple[str, str]], *, training: bool
) -> list[dict[str, str]]:
    if comparison is not None and not training and len(kinds) > 1:
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
    known = [(name, getattr(curve[-1], name)) for name, _ in kinds] if curve else []
    named = [(name if len(kinds) > 1 else "held-out", estimate) for name, estimate in known if estimate is not None]
    text = " · ".join(f"{name} {percent(estimate.value)}" for name, estimate in named)
    return [{"text": text, "tone": ""}]


class LearningCurves(Part):
    """Accuracy on held-out training data, with intervals, of what is being trained or was trained last."""

    _esm = source("learning_curves.js")
    watches: ClassVar[tuple[str, ...]] = ("bench", "curve", "training", "lesson", "report", "recipe", "stale")

    def draw(self) -> dict[str, Any]:
        """The lines and what came of them."""
        session = self.session
        recipe = session.recipe
        lesson = session.lesson or ("finetuning" if recipe.finetuning else "distillation")
        comparison = session.report.distillation if session.report is not None and not session.stale else None
        return curves_view(
            session.curve,
            comparison,
            training=session.training,
            applied=getattr(recipe, lesson) is not None,
            noun=getattr(getattr(session.bench, "task", None), "noun", "images"),
            possible=session.bench is None or session.bench.training_images > 0,
            lesson=lesson,
        )
