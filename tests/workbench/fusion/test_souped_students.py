"""Soups of students by way of the bench: trained once, found again, stopped."""

from __future__ import annotations

import threading

import pytest
import torch
from lever_bench import SETTINGS, bench

import workbench as wb
from workbench import Cancelled, Quantization, Recipe
from workbench.store import Store

SOUP = SETTINGS.replace(soup=2, seed=1, initial="model")
MEMBERS = [SOUP.replace(soup=1, seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def souped(tmp_path_factory: pytest.TempPathFactory) -> wb.Bench:
    made = bench(Store(tmp_path_factory.mktemp("store")))
    list(made.distil(SOUP))
    return made


def weights(made: wb.Bench, settings: wb.Distillation, who: str = "student") -> dict[str, torch.Tensor]:
    return made._students.get(settings).networks[who].original.state_dict()


def test_its_students_are_ordinary_ones(souped: wb.Bench, store: Store) -> None:
    assert all(souped.distilled(each) for each in (*MEMBERS, SOUP))
    alone = bench(store)
    list(alone.distil(MEMBERS[1]))
    for who in ("student", "control"):
        ours, theirs = (weights(made, MEMBERS[1], who) for made in (souped, alone))
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_the_next_process_finds_it(souped: wb.Bench) -> None:
    again = bench(Store(souped.store.folder))
    assert again.distilled(SOUP)
    assert [each.done for each in again.distil(SOUP)] == [True]
    for who in ("student", "control"):
        ours, theirs = weights(souped, SOUP, who), weights(again, SOUP, who)
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_soup_of_what_is_there_trains_no_more(souped: wb.Bench) -> None:
    larger = SOUP.replace(soup=3)
    told = list(souped.distil(larger))
    assert told[-1].done and told[-1].step == told[-1].steps
    assert "The student is" in told[-1].note
    assert {each.note.split(" of ")[0] for each in told[:-1]} == {"Student 1", "Student 2", "Student 3"}
    assert len([each for each in told if each.note.startswith(("Student 1", "Student 2"))]) == 2


def test_a_soup_is_measured_and_quantized_as_any_student(souped: wb.Bench) -> None:
    recipe = Recipe(distillation=SOUP, quantization=Quantization(weight_bits=4))
    *_, report = souped.stream(recipe)
    assert report.recipe.label.startswith("soup of 2")
    assert report.size.value < next(souped.stream(Recipe(distillation=SOUP))).size.value


def test_a_cancelled_soup_keeps_the_students_that_were_finished(store: Store) -> None:
    made, cancel = bench(store), threading.Event()
    for progress in made.distil(SOUP, cancel):
        if progress.note.startswith("Student 2"):
            cancel.set()
    assert progress.done and progress.cancelled and progress.kept
    assert "The student is that of seed 1." in progress.note
    assert made.distilled(MEMBERS[0]) and made.distilled(SOUP)
    ours, first = weights(made, SOUP), weights(made, MEMBERS[0])
    assert all(torch.equal(value, first[name]) for name, value in ours.items())
    assert not bench(Store(store.folder)).distilled(SOUP)  # it promises two
    with pytest.raises(Cancelled):
        made.measure(Recipe(distillation=SOUP), cancel)


def test_a_soup_that_was_stopped_before_anything_was_learned_keeps_nothing(store: Store) -> None:
    made, cancel = bench(store), threading.Event()
    for progress in made.distil(SOUP, cancel):
        if progress.steps > len(MEMBERS):  # the teacher has answered
            cancel.set()
    assert progress.done and progress.cancelled and not progress.kept
    assert not made.distilled(SOUP)
