"""The choice of a method: what calibration data prefers, however early it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import choosing
from workbench.choosing import choose
from workbench.network import Network
from workbench.recipe import Quantization, Recipe
from workbench.store import Store
from workbench.task import Task

RECIPE = Recipe(quantization=Quantization(weight_bits=2, activation_bits=8, layers={"0": {"weight_bits": 4}}))


@pytest.fixture(scope="module")
def task() -> Task:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(300, 1, 8, 8, generator=random)
    return wb.Task.classification(x[:200], torch.randint(0, 4, (200,), generator=random), calibration=x[200:])


def small() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 24), nn.ReLU(), nn.Linear(24, 4))
    return model.eval()


@pytest.fixture(scope="module")
def network(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(small(), task.calibration, 200, tmp_path_factory.mktemp("graphs"))


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


@pytest.mark.parametrize("method", ["gptq", "quantease", "adaround", "brecq"])
def test_cancelled_from_another_thread_in_the_middle_of_a_method(
    method: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"method": method, "range": "hessian", "correction": "bias", "scheme": "symmetric"}
    monkeypatch.setattr(choosing, "CANDIDATES", (fields,) * 3)
    for after in (0.02, 0.1, 0.4):
        before, cancel = set(threading.enumerate()), threading.Event()
        bench = wb.Bench(small(), task, store=Store(tmp_path / str(after)))  # nothing is remembered
        set_at: list[float] = []

        def stop(cancel: threading.Event = cancel, set_at: list[float] = set_at) -> None:
            set_at.append(time.monotonic())
            cancel.set()

        timer = threading.Timer(after, stop)
        for choice in bench.auto_stream(RECIPE, 60, cancel):
            if choice.tried == 1:  # the recipe itself was looked at, the method comes
                timer.start()
        back = time.monotonic()
        timer.join()
        if after == 0.02 and method in ("adaround", "brecq"):
            assert choice.tried == 1, "the method was over before it was cancelled"
        assert back - set_at[0] < 5, "it did not come back soon after it was cancelled"
        bench.check(choice.recipe)
        bits = ("weight_bits", "activation_bits", "layers")
        assert all(getattr(choice.recipe.quantization, f) == getattr(RECIPE.quantization, f) for f in bits)
        assert set(threading.enumerate()) <= before


COLD = """
import sys, threading, time
import torch, workbench as wb
from torch import nn
from workbench import Quantization, Recipe
from workbench.choosing import choose
x = torch.rand(64, 1, 8, 8)
task = wb.Task.classification(x, torch.randint(0, 4, (64,)), calibration=x)
model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)).eval()
bench = wb.Bench(model, task)
before = set(sys.modules)
bench.baseline
for method in ("quantease", "brecq", "adaround"):
    recipe = Recipe(quantization=Quantization(method=method, weight_bits=2, correction="bias", range="hessian"))
    for part in choose(bench._network, bench.task, recipe, 60):
        if part.tried:
            break
print(sorted({"sympy", "torch._dynamo", "torch._inductor"} & (set(sys.modules) - before)))
"""


def test_no_method_imports_a_compiler_while_a_cancel_waits(tmp_path: Path) -> None:
    env = {**os.environ, "WORKBENCH_STORE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COLD], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


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
