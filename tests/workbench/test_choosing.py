"""The choice of a method: what calibration data prefers, however early it is asked for."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import choosing
from workbench.choosing import choose
from workbench.network import Network
from workbench.recipe import Quantization, Recipe
from workbench.task import Task

RECIPE = Recipe(quantization=Quantization(weight_bits=2, activation_bits=8, layers={"0": {"weight_bits": 4}}))


@pytest.fixture(scope="module")
def task() -> Task:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(300, 1, 8, 8, generator=random)
    return wb.Task.classification(x[:200], torch.randint(0, 4, (200,), generator=random), calibration=x[200:])


@pytest.fixture(scope="module")
def network(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Network:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 24), nn.ReLU(), nn.Linear(24, 4))
    return Network(model.eval(), task.calibration, 200, tmp_path_factory.mktemp("graphs"))


def test_the_loss_never_grows_and_the_bits_are_kept(network: Network, task: Task) -> None:
    choices = list(choose(network, task, RECIPE, 60))
    assert [choice.tried for choice in choices] == list(range(choices[-1].total + 1))
    losses = [choice.loss for choice in choices]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[1]  # the first candidate is the recipe as it was
    last = choices[-1].recipe
    assert last.quantization.method != "nearest"
    kept = ("weight_bits", "activation_bits", "layers", "granularity")
    assert all(getattr(last.quantization, f) == getattr(RECIPE.quantization, f) for f in kept)
    assert Recipe.from_json(last.to_json()) == last


def test_chance_does_not_displace_what_was_found() -> None:
    random = torch.Generator().manual_seed(0)
    losses = torch.rand(200, generator=random, dtype=torch.float64)
    noise = 0.05 * torch.randn(200, generator=random, dtype=torch.float64)
    assert not choosing._surely_less(losses + noise - noise.mean() - 1e-4, losses)
    assert choosing._surely_less(losses + noise - noise.mean() - 0.05, losses)


@pytest.mark.parametrize("after", range(4))
def test_cancelled_it_gives_the_best_so_far_and_leaves_no_thread(network: Network, task: Task, after: int) -> None:
    cancel, threads = threading.Event(), threading.active_count()
    seen = []
    for choice in choose(network, task, RECIPE, 60, cancel):
        seen.append(choice)
        if len(seen) == after + 1:
            cancel.set()
    assert len(seen) == after + 1
    assert seen[-1].loss == min(choice.loss for choice in seen)
    assert isinstance(seen[-1].recipe, Recipe)
    assert threading.active_count() == threads


def test_without_time_the_recipe_stays_as_it_is(network: Network, task: Task) -> None:
    (only,) = choose(network, task, RECIPE, 0)
    assert only.recipe == RECIPE


def test_there_is_nothing_to_choose_where_no_weight_is_quantized(network: Network, task: Task) -> None:
    recipe = Recipe(quantization=Quantization(activation_bits=4))
    *_, last = choose(network, task, recipe, 60)
    assert last.recipe == recipe
    assert last.total == 1


def test_a_bench_finds_what_two_bits_need(bench: wb.Bench) -> None:
    recipe = Recipe(quantization=Quantization(weight_bits=2, activation_bits=8))
    choice = next(choice for choice in bench.auto_stream(recipe, seconds=120) if choice.tried == 4)
    assert choice.recipe.quantization.method in ("gptq", "quantease")
    told: list[float] = []
    *_, report = bench.stream(choice.recipe, None, told.append)
    assert report.drop.value < 0.04
    assert bench.auto(recipe, seconds=0) == recipe
