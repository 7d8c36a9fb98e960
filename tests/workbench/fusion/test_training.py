"""A soup of students that are trained one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from workbench import Distillation
from workbench.distillation.goal import CLASSES
from workbench.distillation.progress import Progress
from workbench.distillation.trained import Trained
from workbench.fusion.training import Souped, members, trained_soup

SETTINGS = Distillation(soup=3, seed=4)


def made(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


def states(member: Distillation) -> dict[str, dict[str, Tensor]]:
    return {"student": made(member.seed).state_dict(), "control": made(member.seed + 100).state_dict()}


def train(member: Distillation, cancelled_at: int | None = None) -> Iterator[Progress]:
    start = Progress(0, 1, 0.0, 0.0, None, None, math.nan)
    half = Progress(5, 10, 1.0, 9.0, None, None, 0.5, note="Few labels.", seconds_left=1.0)
    yield start
    yield half
    cancelled = member.seed == cancelled_at
    yield Progress(5 if cancelled else 10, 10, 2.0, 9.0, None, None, 0.4, done=True, cancelled=cancelled)


def all_of(settings: Distillation, **changes: object) -> tuple[list[Progress], Trained | None]:
    held_out = (torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3)
    training = trained_soup(
        settings, lambda member: train(member, **changes), states, made(0), held_out[0][:20], held_out, CLASSES
    )
    seen = []
    while True:
        try:
            seen.append(next(training))
        except StopIteration as end:
            souped: Souped = end.value
            return [*seen, souped.progress], souped.trained


def test_members_are_ordinary_students_of_seeds_that_follow_each_other() -> None:
    assert members(SETTINGS) == tuple(Distillation(seed=seed) for seed in (4, 5, 6))


def test_progress_counts_over_all_students() -> None:
    seen, trained = all_of(SETTINGS)
    assert [each.step / each.steps for each in seen] == pytest.approx(
        [0, 1 / 6, 1 / 3, 1 / 3, 1 / 2, 2 / 3, 2 / 3, 5 / 6, 1, 1]
    )
    assert [each.done for each in seen] == [False] * 9 + [True]
    assert seen[1].note == "Student 1 of 3. Few labels."
    assert seen[1].seconds_left == 1 + 2 * 2 and seen[4].seconds_left == 1 + 2
    assert [each.seconds for each in seen] == sorted(each.seconds for each in seen)
    assert trained is not None
    assert (trained.steps, trained.seconds, trained.cancelled) == (30, 6.0, False)


def test_the_average_is_no_worse_than_the_best_on_what_is_held_out() -> None:
    seen, trained = all_of(SETTINGS)
    assert trained is not None
    inputs, targets = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    for who, state in (("student", trained.student_state), ("control", trained.control_state)):
        model = made(0)
        model.load_state_dict(state)
        told = getattr(seen[-1], who)
        assert told == CLASSES.score(model, inputs, targets)
        for member in members(SETTINGS):
            model.load_state_dict(states(member)[who])
            assert told.value >= CLASSES.score(model, inputs, targets).value


def test_a_cancelled_student_ends_the_soup_and_the_best_so_far_is_kept() -> None:
    seen, trained = all_of(SETTINGS, cancelled_at=5)
    assert [each.done for each in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1].cancelled and seen[-1].kept
    assert seen[-1].step / seen[-1].steps == pytest.approx(0.5)
    assert trained is not None and trained.cancelled
    assert all(torch.equal(value, made(4).state_dict()[name]) for name, value in trained.student_state.items())
    assert "The student is that of seed 4." in seen[-1].note


def test_of_a_soup_whose_first_student_learned_nothing_there_is_nothing_to_keep() -> None:
    seen, trained = all_of(SETTINGS, cancelled_at=4)
    assert trained is None
    assert seen[-1].done and seen[-1].cancelled and not seen[-1].kept
