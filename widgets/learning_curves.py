"""A network while it learns: a student beside its control, or a quantized network on its grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.axes import linear
from widgets.formatting import between, count, duration, figures, percent, points, remaining
from widgets.part import Part, source
from workbench.levers.seed_study import verdict
from workbench.report import Comparison, Estimate

if TYPE_CHECKING:
    from widgets.lessons import Lap
    from workbench.distillation.trainer import Progress
    from workbench.levers.seed_study import SeedStudy

MOST_POINTS = 150
"""A line is thinned to as many; more cannot be told apart at its width."""
LINES = {
    "distillation": (("student", "with teacher"), ("control", "control")),
    "finetuning": (("accuracy", "fine-tuned"),),
}
"""What is drawn of each kind of training: fields of its progress, and what they are called."""
PARTS = (("teacher", "teacher"), ("labels", "labels"), ("hidden layers", "hidden"))
"""Parts of a student's loss, and what they are called beside their lines."""
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
    lap: Lap | None = None,
    study: SeedStudy | None = None,
    paused: bool = False,
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
        lap: Which of several seeds the curve is of.
        study: What several seeds came to, as far as they were compared.
        paused: Whether it was told to hold.
    """
    kinds = LINES[lesson]
    lines = {name: _thinned(_evaluations(curve, name)) for name, _ in kinds}
    ends = [value for line in lines.values() for _, e in line for value in (e.low, e.high)]
    latest = curve[-1] if curve else None
    view: dict[str, Any] = {
        "lines": [],
        "ticks": [],
        "losses": [],
        "end": "",
        "paused": paused,
        "remark": _remark(curve, kinds),
        "verdict": verdict_view(comparison, study, training=training) if lesson == "distillation" else [],
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
    view["losses"] = _losses(curve, whole)
    view["end"] = "" if training else str(duration(latest.seconds))
    foot = " · ".join(said_of(curve, training=training, noun=noun, lap=lap, paused=paused))
    spoken = ", ".join(f"{line['text']} {line['value']}" for line in view["lines"])
    spoken += "".join(f", {line['spoken']}" for line in view["losses"])
    return view | {"foot": foot, "quiet": "", "label": f"Accuracy on held-out training {noun} while learning: {spoken}"}


def said_of(
    curve: Sequence[Any], *, training: bool, noun: str, lap: Lap | None = None, paused: bool = False
) -> list[str]:
    """How far a training is, how fast, and how long it still takes.

    Args:
        curve: Its progress so far, at least one.
        training: Whether it is under way.
        noun: What an example is called.
        lap: Which of several seeds it is of.
        paused: Whether it was told to hold.
    """
    latest = curve[-1]
    began = next((each for each in curve if getattr(each, "resumed", False)), None)
    left = getattr(latest, "seconds_left", None)
    if left is None:
        left = latest.seconds * (latest.steps / latest.step - 1) if latest.step else math.inf
    if lap is not None:
        left += (lap.of - lap.number) * (latest.seconds + left)
    state = ""
    if latest.cancelled:
        # a fine-tuning's first score is that of the beginning
        learned = latest.kept if hasattr(latest, "kept") else latest.step > 0 and latest.accuracy is not None
        state = "stopped; the best so far was kept" if learned else "stopped before anything was learned"
    if training:
        state = "paused" if paused else remaining(left)
    epochs = getattr(latest, "epochs", 0)
    parts = [
        f"seed {lap.number} of {lap.of}" if lap is not None else "",
        f"step {count(latest.step)} of {count(latest.steps)}",
        f"{count(latest.epoch)} of {count(epochs)} epochs" if epochs else "",
        "" if paused else f"{figures(latest.samples_per_second)} {noun} a second",
        state,
        _resumed(began),
        getattr(latest, "note", ""),
    ]
    return [part for part in parts if part]


def _resumed(began: Any) -> str:
    """Where a training that was interrupted went on."""
    if began is None:
        return ""
    epoch = getattr(began, "epoch", None)
    return f"resumed from step {count(began.step)}" if epoch is None else f"resumed from epoch {count(epoch)}"


def _losses(curve: Sequence[Any], whole: int) -> list[dict[str, Any]]:
    """The loss as a line of its own, or its parts where it has several, from 0 to the highest value of all."""
    parts = {text: [(each.step, _part(each, name)) for each in curve] for name, text in PARTS}
    known = {text: [(step, x) for step, x in line if step and math.isfinite(x)] for text, line in parts.items()}
    known = {text: line for text, line in known.items() if line}
    if len(known) < 2:
        known = {"loss": [(each.step, each.loss) for each in curve if each.step and math.isfinite(each.loss)]}
    highest = max((loss for line in known.values() for _, loss in line), default=0.0) or 1.0
    lines = []
    for text, line in known.items():
        if not line:
            continue
        thin = line[:: -(-len(line) // MOST_POINTS)]
        points = [(round(min(1.0, step / whole), 4), round(loss / highest, 4)) for step, loss in thin]
        named = text if text == "loss" else f"loss of the {text}"
        lines.append(
            {
                "name": text,
                "points": points,
                "text": f"{text} {figures(line[-1][1])}",
                "spoken": f"{named} {figures(line[-1][1])}",
            }
        )
    return lines


def _part(progress: Any, name: str) -> float:
    value: float = getattr(progress, "parts", {}).get(name, math.nan)
    return value


def _evaluations(curve: Sequence[Progress], name: str) -> list[tuple[int, Estimate]]:
    """Where the estimate is a new one: between evaluations the last one is told again."""
    line: list[tuple[int, Estimate]] = []
    for progress in curve:
        estimate = getattr(progress, name)
        if estimate is not None and (not line or (line[-1][1] is not estimate and line[-1][1] != estimate)):
            line.append((progress.step, estimate))
    if name == "accuracy":
        return line
    # drawn at random, both begin at chance: that point would flatten all that is to be seen
    best = max((estimate.value for _, estimate in line), default=0.0)
    return [(step, each) for step, each in line if step > 0 or each.value > best / 2] or line


def _thinned(line: list[tuple[int, Estimate]]) -> list[tuple[int, Estimate]]:
    every = -(-len(line) // MOST_POINTS)
    return [*line[:-1:every], *line[-1:]] if every > 1 else line


def _remark(curve: Sequence[Any], kinds: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    known = [(name, getattr(curve[-1], name)) for name, _ in kinds] if curve else []
    named = [(name if len(kinds) > 1 else "held-out", estimate) for name, estimate in known if estimate is not None]
    text = " · ".join(f"{name} {percent(estimate.value)}" for name, estimate in named)
    return [{"text": text, "tone": ""}]


def verdict_view(
    comparison: Comparison | None, study: SeedStudy | None, *, training: bool = False
) -> list[dict[str, str]]:
    """Whether the teacher helped, in pieces of a sentence, a tone for each; empty until it is known.

    Args:
        comparison: Of one student with its control, on the test data.
        study: Of several seeds, which says more.
        training: Whether another student is being trained: the comparison is then an old one.
    """
    if study is not None and study.comparisons:
        several = len(study.comparisons)
        return _told(study.verdict, study.student, study.control, study.difference, f" over {several} seeds")
    if comparison is None or training:
        return []
    return _told(verdict(comparison.difference), comparison.student, comparison.control, comparison.difference, "")


def _told(said: str, student: Estimate, control: Estimate, gap: Estimate, over: str) -> list[dict[str, str]]:
    tone = "" if gap.includes(0) else "gain" if gap.value > 0 else "loss"
    interval = between(points(gap.low, signed=True), points(gap.high, signed=True))
    return [
        {"text": said[:1].upper() + said[1:], "tone": tone or "faint"},
        {"text": f": {points(gap.value, signed=True)} points {interval}{over}. ", "tone": ""},
        {
            "text": f"Student {percent(student.value)}, control {percent(control.value)} on the test data.",
            "tone": "faint",
        },
    ]


class LearningCurves(Part):
    """Accuracy on held-out training data, with intervals, of what is being trained or was trained last."""

    _esm = source("learning_curves.js")
    watches: ClassVar[tuple[str, ...]] = (
        "bench",
        "curve",
        "training",
        "paused",
        "lesson",
        "lap",
        "study",
        "report",
        "recipe",
        "stale",
    )

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
            lap=session.lap,
            study=session.study if lesson == "distillation" else None,
            paused=session.paused,
        )
