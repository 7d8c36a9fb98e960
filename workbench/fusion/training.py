"""A soup of students: each trained as any other, then averaged, and their controls likewise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from workbench.distillation.goal import Goal
from workbench.distillation.progress import Progress
from workbench.distillation.trained import Trained
from workbench.errors import Cancelled
from workbench.fusion.soup import Soup, soup
from workbench.fusion.symmetries import State
from workbench.recipe import Distillation
from workbench.report import Estimate

WHO = ("student", "control")


class Souped(NamedTuple):
    """What came of it."""

    trained: Trained | None
    """Student and control, each an average of those that do not make it worse; after a cancel, of those that learned
    something until then. None where none did."""
    progress: Progress
    """The last one, which is done."""


def members(settings: Distillation) -> tuple[Distillation, ...]:
    """The students of a soup: of seeds that follow each other."""
    return tuple(settings.replace(soup=1, seed=settings.seed + number) for number in range(settings.soup))


def trained_soup(
    settings: Distillation,
    train: Callable[[Distillation], Iterator[Progress]],
    states: Callable[[Distillation], Mapping[str, State]],
    model: nn.Module,
    calibration: Tensor,
    held_out: tuple[Tensor, Tensor],
    goal: Goal,
) -> Generator[Progress, None, Souped]:
    """Train the students of a soup one after the other, and average them.

    Args:
        settings: With `Distillation.soup`.
        train: Trains a student and its control, or finds them; its last progress is done. One that was cancelled is
            kept if its last progress says so.
        states: Of a trained ``student`` and its ``control``.
        model: Of the students' form; left as it is.
        calibration: Inputs from which BatchNorms take their statistics, shape (n, ...).
        held_out: Inputs and targets that decide what is averaged.
        goal: How these are measured.

    Yields:
        The progress of each student, counted over all of them; none of it is done.

    Raises:
        Cancelled: By `train`, of the first student.
    """
    students = members(settings)
    learned: list[Distillation] = []
    seconds = 0.0
    for number, member in enumerate(students):
        try:
            for progress in train(member):
                so_far = _of_all(progress, number, len(students), seconds)
                if not progress.cancelled:
                    yield so_far
        except Cancelled:  # before it had begun
            if not learned:
                raise
            so_far = replace(so_far, cancelled=True)
            break
        seconds = so_far.seconds
        if not progress.cancelled or progress.kept:
            learned.append(member)
        if progress.cancelled:
            break
    if not learned:
        return Souped(None, replace(so_far, done=True))
    made = copy.deepcopy(model)

    def reached(state: State) -> Estimate:
        made.load_state_dict(state)
        return goal.score(made, *held_out)

    def score(network: nn.Module) -> float:
        return goal.score(network, *held_out).value * (1 if goal.higher_is_better else -1)

    trained = [states(member) for member in learned]
    student, control = (soup(model, [each[who] for each in trained], calibration, score) for who in WHO)
    done = replace(
        so_far,
        done=True,
        student=reached(student.state),
        control=reached(control.state),
        note=" ".join(_said(who, each, learned) for who, each in zip(WHO, (student, control), strict=True)),
        seconds_left=None if so_far.cancelled else 0.0,
    )
    return Souped(Trained(student.state, control.state, done.step, done.seconds, done.cancelled), done)


def _said(who: str, made: Soup, students: Sequence[Distillation]) -> str:
    seeds = ", ".join(str(students[member].seed) for member in sorted(made.members))
    return (
        f"The {who} is the mean of seeds {seeds}." if len(made.members) > 1 else f"The {who} is that of seed {seeds}."
    )


def _of_all(progress: Progress, number: int, of: int, seconds: float) -> Progress:
    """A student's progress as that of the whole soup, which goes on behind it."""
    left = progress.seconds_left
    return replace(
        progress,
        step=number * progress.steps + progress.step,
        steps=of * progress.steps,
        seconds=seconds + progress.seconds,
        done=False,
        note=" ".join(filter(None, (f"Student {number + 1} of {of}.", progress.note))),
        seconds_left=None if left is None else left + (of - number - 1) * (progress.seconds + left),
    )
