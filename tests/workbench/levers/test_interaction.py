"""Each lever of a recipe alone, all together, and what they do to each other."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from lever_bench import SETTINGS, bench, data
from torch import Tensor

import workbench as wb
from workbench import Cancelled, Estimate, Finetuning, Quantization, Recipe, RecipeError, Task
from workbench.evaluation import Evaluation, Outcomes, contrast
from workbench.levers.interaction import LESS, MORE, SAME, Interaction
from workbench.quantization.quantizer import specs
from workbench.store import Store

GRIDS = Quantization(weight_bits=2, activation_bits=4)
BOTH = Recipe(distillation=SETTINGS, quantization=GRIDS)
ALL = BOTH.replace(finetuning=Finetuning(images=500, epochs=1))


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> wb.Bench:
    return bench(Store(tmp_path_factory.mktemp("store")))


def right(made: wb.Bench, recipe: Recipe) -> Tensor:
    """Which examples come out right, from the simulation alone."""
    own = made._network_for(recipe)
    answers = own.simulation.run(made.task.inputs, specs(recipe.quantization, own.layers)).argmax(1)
    return (answers == made.task.targets).double()


def test_what_is_told_is_what_happens_to_the_examples(used: wb.Bench) -> None:
    found = used.interaction(ALL)
    plain, student, grids, tuned, together = (
        right(used, recipe)
        for recipe in (
            Recipe(),
            Recipe(distillation=SETTINGS),
            Recipe(quantization=GRIDS),
            ALL.replace(distillation=None),
            ALL,
        )
    )
    drops = [plain - student, plain - grids, grids - tuned]
    assert [each.name for each in found.levers] == ["student", "quantization", "fine-tuning"]
    assert [each.drop.value for each in found.levers] == pytest.approx([float(drop.mean()) for drop in drops])
    assert [each.drop.source for each in found.levers] == ["measured", "simulated", "simulated"]
    assert found.sum is not None and found.together is not None and found.interaction is not None
    assert found.sum.value == pytest.approx(float(sum(drops).mean()))
    assert found.together.value == pytest.approx(float((plain - together).mean()))
    own = (plain - together - sum(drops)).numpy()
    assert found.interaction.value == pytest.approx(own.mean())
    drawn = np.random.default_rng(0).choice(own, (4000, len(own))).mean(1)
    assert (found.interaction.low, found.interaction.high) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.01)


def test_sizes_are_those_of_the_files(used: wb.Bench) -> None:
    found = used.interaction(ALL)
    size = {
        recipe: next(used.stream(recipe)).size.value for recipe in (Recipe(), *(e.recipe for e in found.levers), ALL)
    }
    assert [each.size.value for each in found.levers] == [size[each.recipe] for each in found.levers]
    assert found.levers[0].factor == size[Recipe()] / size[Recipe(distillation=SETTINGS)]
    assert found.levers[2].factor == size[Recipe(quantization=GRIDS)] / size[ALL.replace(distillation=None)]
    assert found.factor == size[Recipe()] / size[ALL]
    assert found.product == pytest.approx(
        size[Recipe()] / size[Recipe(distillation=SETTINGS)] * size[Recipe()] / size[ALL.replace(distillation=None)]
    )


def test_it_grows_and_says_what_is_being_trained(made: wb.Bench) -> None:
    seen = list(made.interaction_stream(BOTH))
    assert any("training the student" in each.stage for each in seen)
    assert [len(each.levers) for each in seen] == sorted(len(each.levers) for each in seen)
    assert [each.complete for each in seen] == [False] * (len(seen) - 1) + [True]
    assert [each.verdict for each in seen[:-1]] == [""] * (len(seen) - 1)
    again = list(made.interaction_stream(BOTH))
    assert not any("training" in each.stage for each in again)
    assert again[-1] == seen[-1]
    for text in (str(seen[-1]), seen[-1]._repr_html_()):
        assert all(word in text for word in ("student ×0.5", "W2 A4", "sum", "together", "interaction", "points"))


def test_what_is_made_on_top_of_the_other_has_no_sum(used: wb.Bench) -> None:
    found = used.interaction(ALL.replace(distillation=None))
    assert found.complete and found.sum is None and found.interaction is None
    assert "no sum" in found.verdict
    assert found.together is not None and [each.name for each in found.levers] == ["quantization", "fine-tuning"]


@pytest.mark.parametrize(("low", "high", "verdict"), [(-0.1, 0.1, SAME), (0.1, 0.3, MORE), (-0.3, -0.1, LESS)])
def test_verdicts(low: float, high: float, verdict: str) -> None:
    own = Estimate(value=(low + high) / 2, low=low, high=high, unit="", source="simulated")
    assert Interaction(recipe=BOTH, interaction=own).verdict == verdict


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(), "nothing"),
        (Recipe(distillation=SETTINGS), "student alone"),
        (Recipe(quantization=GRIDS), "quantization alone"),
    ],
)
def test_one_lever_is_refused(recipe: Recipe, words: str, used: wb.Bench) -> None:
    with pytest.raises(RecipeError, match=f"the recipe has {words}; at least two levers"):
        used.interaction(recipe)


def test_a_cancel_ends_it(used: wb.Bench) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        used.interaction(BOTH.replace(distillation=SETTINGS.replace(seed=9)), cancel)
    assert not used.distilled(SETTINGS.replace(seed=9))


def test_errors_are_added_up_as_what_is_lost() -> None:
    pictures, _ = data(300, 1)
    targets = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    task = Task.regression(pictures, targets, calibration=data(64, 2)[0])
    evaluation = Evaluation(task, 100)

    def off_by(size: float) -> Outcomes:
        metric = task.metrics[0]
        return Outcomes(
            (metric,), (metric.statistics(targets + size, targets),), evaluation.resampling, evaluation.order
        )

    plain, one, other, both = map(off_by, (0.0, 0.1, 0.2, 0.5))
    found = contrast([(1, one), (1, other), (-1, plain), (-1, both)])
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2), abs=1e-6)
    assert contrast([(1, plain), (-1, both)]) == both.drop(plain)
