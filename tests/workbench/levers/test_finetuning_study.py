"""Whether a teacher helps on grids, over several seeds."""

from __future__ import annotations

import threading

import pytest
from lever_bench import bench

import workbench as wb
from workbench import Cancelled, Finetuning, Quantization, Recipe, RecipeError
from workbench.store import Store

RECIPE = Recipe(
    quantization=Quantization(weight_bits=2, activation_bits=8),
    finetuning=Finetuning(teacher="big", images=400, epochs=2, seed=3),
)


def alone(seed: int) -> Recipe:
    return RECIPE.replace(finetuning=Finetuning(distillation=0.0, images=400, epochs=2, seed=seed))


def test_each_seed_stands_beside_the_same_training_from_the_labels_alone(made: wb.Bench, store: Store) -> None:
    seen = list(made.finetuned_over_seeds_stream(RECIPE, 2))
    last = seen[-1]
    assert last.complete and last.progress is None and last.seeds == (3, 4)
    assert {len(each.comparisons) for each in seen} == {0, 1, 2}
    for seed, each in zip(last.seeds, last.comparisons, strict=True):
        own = RECIPE.replace(finetuning=RECIPE.finetuning.replace(seed=seed))
        assert made.finetuned(own) and made.finetuned(alone(seed))
        assert each.difference == made.difference(own, alone(seed))
        reports = [list(made.stream(recipe))[-1] for recipe in (own, alone(seed))]
        assert [each.student, each.control] == [report.accuracy for report in reports]
        assert each.difference.value == pytest.approx(each.student.value - each.control.value)
        assert each.steps > 0 and each.seconds > 0
    assert last.difference.low < last.difference.value < last.difference.high
    assert last.verdict in str(last) and "2 of 2 seeds" in str(last)
    assert {each.teacher.source for each in last.comparisons} == {"measured"}
    again = bench(Store(store.folder)).finetuned_over_seeds(RECIPE, 2)
    assert [each.difference for each in again.comparisons] == [each.difference for each in last.comparisons]


def test_what_has_no_control_is_refused(made: wb.Bench) -> None:
    with pytest.raises(RecipeError, match=r"finetuning\.distillation above 0"):
        made.finetuned_over_seeds(alone(0))
    with pytest.raises(RecipeError, match=r"finetuning\.distillation above 0"):
        made.finetuned_over_seeds(RECIPE.replace(finetuning=None))
    with pytest.raises(RecipeError, match="allowed are 1 to 10"):
        made.finetuned_over_seeds(RECIPE, 11)


def test_a_cancel_leaves_the_seeds_that_were_measured(made: wb.Bench) -> None:
    cancel = threading.Event()
    for each in made.finetuned_over_seeds_stream(RECIPE, 3, cancel):
        if each.comparisons:
            cancel.set()
    assert (len(each.comparisons), each.complete) == (1, False)
    with pytest.raises(Cancelled):
        made.finetuned_over_seeds(RECIPE.replace(finetuning=RECIPE.finetuning.replace(seed=9)), 2, cancel)
