"""Which of several settings to train: a short training of all, a longer one of the better half, and so on.

Successive halving (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
2016): each rung costs about as much as the one before, so that most of the time goes to few candidates.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from workbench.distillation.progress import DivergenceError, Progress
from workbench.errors import Cancelled, RecipeError
from workbench.recipe import Distillation
from workbench.report import Estimate
from workbench.trained_students import TrainedStudents


@dataclass(frozen=True)
class Rung:
    """Candidates that were trained alike."""

    epochs: int
    results: tuple[tuple[Distillation, Estimate], ...] = ()
    """Settings and how good the student is on held-out training examples, in the order of the candidates."""
    diverged: tuple[Distillation, ...] = ()
    """Settings whose loss became no number; they go no further."""


@dataclass(frozen=True)
class Halving:
    """How far a halving is."""

    rungs: tuple[Rung, ...] = ()
    best: Distillation | None = None
    """Of the latest rung that has a result; of a finished halving, the one that is left, with its epochs."""
    training: Distillation | None = None
    """What is trained at this moment."""
    progress: Progress | None = None
    """Of that."""
    done: bool = False
    cancelled: bool = False


def rungs(candidates: int, epochs: int) -> list[tuple[int, int]]:
    """How many candidates are trained for how many epochs: (4, 1), (2, 2), (1, 4)."""
    planned = [(candidates, epochs)]
    while planned[-1][0] > 1:
        planned.append((-(-planned[-1][0] // 2), 2 * planned[-1][1]))
    return planned


def halve(
    candidates: Sequence[Distillation], epochs: int, students: TrainedStudents, cancel: threading.Event | None = None
) -> Iterator[Halving]:
    """Train candidates rung by rung; every training is an ordinary one, kept and found again.

    Args:
        candidates: Settings, whose epochs are not looked at.
        epochs: Of the first rung; each further one has twice as many for half of the candidates, rounded up.
        students: Who trains.
        cancel: Stops within a step; what was trained until then is kept.

    Yields:
        With the progress of each training, and after each. The last one has ``done=True``, also after a cancel.

    Raises:
        RecipeError: Fewer than two candidates that differ in more than their epochs, or epochs below 1.
    """
    left = list(dict.fromkeys(each.replace(epochs=epochs) for each in candidates))
    if len(left) < 2:
        raise RecipeError(
            f"halving: two settings at least that differ in more than their epochs are needed; these are {len(left)}."
        )
    return _halved(left, students, cancel)


def _halved(left: list[Distillation], students: TrainedStudents, cancel: threading.Event | None) -> Iterator[Halving]:
    found = Halving()
    for _, epochs in rungs(len(left), left[0].epochs):
        left = [each.replace(epochs=epochs) for each in left]
        found = replace(found, rungs=(*found.rungs, Rung(epochs)))
        for settings in left:
            found = replace(found, training=settings)
            progress = None
            try:
                for progress in students.train(settings, cancel):
                    yield replace(found, progress=progress)
            except DivergenceError:
                rung = found.rungs[-1]
                found = _with(found, replace(rung, diverged=(*rung.diverged, settings)))
                continue
            except Cancelled:
                progress = None
            if progress is None or progress.cancelled:
                yield replace(found, training=None, progress=progress, done=True, cancelled=True)
                return
            score, rung = students.score(settings), found.rungs[-1]
            assert score is not None  # noqa: S101 - it was trained a moment ago
            found = _with(found, replace(rung, results=(*rung.results, (settings, score))))
            found = replace(found, best=_ranked(found.rungs[-1], students)[0])
            yield found
        left = _ranked(found.rungs[-1], students)[: -(-len(left) // 2)]
        if not left:
            break
    yield replace(found, training=None, done=True)


def _with(found: Halving, rung: Rung) -> Halving:
    return replace(found, rungs=(*found.rungs[:-1], rung))


def _ranked(rung: Rung, students: TrainedStudents) -> list[Distillation]:
    """The best first; of equals, the first."""
    sign = -1 if students.goal.higher_is_better else 1
    return [settings for settings, _ in sorted(rung.results, key=lambda result: sign * result[1].value)]
