"""Recipes that look at a network as a whole, as a bench takes them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.errors import Cancelled, RecipeError
from workbench.network import Network
from workbench.quantization import reconstruction
from workbench.quantization.quantizer import specs
from workbench.recipe import Quantization, Recipe
from workbench.store import Store

X = torch.rand(90, 1, 8, 8, generator=torch.Generator().manual_seed(0))
WHOLE = {
    "brecq": Quantization(weight_bits=2, activation_bits=8, method="brecq", correction="bias"),
    "batchnorm": Quantization(weight_bits=2, activation_bits=8, correction="batchnorm"),
    "equalized": Quantization(weight_bits=4, activation_bits=8, granularity="tensor", equalize=True),
}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "STEPS", (20, 20))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)
    ).eval()


def bench(folder: Path) -> wb.Bench:
    labels = torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(1))
    return wb.Bench(model(), wb.Task.classification(X[:50], labels, calibration=X[50:]), store=Store(folder))


@pytest.mark.parametrize("name", WHOLE)
def test_the_same_recipe_gives_the_same_numbers_on_two_benches(name: str, tmp_path: Path) -> None:
    recipe = Recipe(quantization=WHOLE[name])
    (*_, one), (*_, other) = (bench(tmp_path / each).stream(recipe) for each in ("one", "other"))
    assert one.model_copy(update={"environment": {}}) == other.model_copy(update={"environment": {}})
    assert one.complete
    assert all(row.sqnr is not None for row in one.layers)


@pytest.mark.parametrize("name", WHOLE)
def test_what_cannot_be_predicted_is_refused_in_words(name: str, tmp_path: Path) -> None:
    made, recipe = bench(tmp_path), Recipe(quantization=WHOLE[name])
    assert not made.predictable(recipe)
    with pytest.raises(RecipeError, match="measure the recipe"):
        made.predict(recipe)
    with pytest.raises(RecipeError, match="plan with method='quantease'"):
        made.plan(template=recipe, evaluations=0)
    with pytest.raises(RecipeError, match="measure the recipe"):
        made.sensitivity(recipe.quantization)
    made.forecast.observe(made.measure(recipe.replace(deployment=recipe.deployment.replace(runtime="eager"))))


def test_a_graph_is_not_equalised(tmp_path: Path) -> None:
    made = bench(tmp_path)
    made._network.graph_only = True
    with pytest.raises(RecipeError, match="equalize"):
        made.check(Recipe(quantization=WHOLE["equalized"]))


def test_an_equalised_fp32_network_is_the_network(tmp_path: Path) -> None:
    made = bench(tmp_path)
    assert made._network_for(Recipe(quantization=Quantization(equalize=True))) is made._network
    assert made._network_for(Recipe(quantization=WHOLE["equalized"])) is made._network.equalized


def test_a_cancel_does_not_wait_for_calibration() -> None:
    task = wb.Task.fidelity(X)
    network = Network(model(), task.calibration, 50, Path("nowhere"))
    cancel = threading.Event()
    runs = []

    def hear(*_: object) -> None:
        runs.append(1)
        cancel.set()

    handle = network.module[0].register_forward_hook(hear)
    network.__dict__["batch"] = 1
    with pytest.raises(Cancelled):
        network.prepare(specs(Quantization(activation_bits=8), network.layers), cancel)
    handle.remove()
    assert len(runs) == 1
    assert network._observations is None
    network.prepare(specs(Quantization(activation_bits=8), network.layers))
    assert network.quantizer.observations is network._observations
