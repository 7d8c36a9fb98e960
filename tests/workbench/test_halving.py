"""Successive halving: who goes on, for how long, and what is left after a cancel."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import Distillation, RecipeError, Task
from workbench.distillation import apart
from workbench.distillation.progress import DivergenceError
from workbench.halving import rungs
from workbench.store import Store

SETTINGS = Distillation(teacher="self", images=256, labels=64)
CANDIDATES = [SETTINGS.replace(width=width, epochs=50) for width in (0.1, 0.3, 0.6, 0.9)]


@pytest.fixture
def bench(store: Store) -> wb.Bench:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(900, 12, generator=generator)
    targets = (inputs @ torch.randn(12, 4, generator=generator)).argmax(1)
    task = Task.classification(
        inputs[:300], targets[:300], calibration=inputs[300:360], training=(inputs[360:], targets[360:])
    )
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 4))
    return wb.Bench(net, task, store=store)


@pytest.mark.parametrize("n", range(2, 20))
def test_each_rung_has_half_of_the_candidates_for_twice_the_epochs(n: int) -> None:
    planned = rungs(n, 3)
    assert planned[0] == (n, 3)
    assert planned[-1][0] == 1
    for (before, short), (after, long) in pairwise(planned):
        assert (after, long) == (-(-before // 2), 2 * short)


def test_the_better_half_goes_on_and_everything_is_found_again(
    bench: wb.Bench, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list(bench.halving_stream(CANDIDATES, epochs=1))
    found = seen[-1]
    assert [(rung.epochs, len(rung.results)) for rung in found.rungs] == [(1, 4), (2, 2), (4, 1)]
    assert found.done
    assert not found.cancelled
    assert not any(each.done for each in seen[:-1])
    for before, after in pairwise(found.rungs):
        ranked = sorted(before.results, key=lambda result: -result[1].value)
        assert [s.width for s, _ in after.results] == [s.width for s, _ in ranked[: len(after.results)]]
    assert found.best == found.rungs[-1].results[0][0]
    assert found.best.epochs == 4
    assert {each.training.width for each in seen if each.training} == {c.width for c in CANDIDATES}
    monkeypatch.setattr(apart, "distil", lambda *_, **__: pytest.fail("trained again"))
    assert bench.halving(CANDIDATES, epochs=1).rungs == found.rungs


def test_a_cancel_keeps_what_is_there(bench: wb.Bench) -> None:
    cancel = threading.Event()
    for found in bench.halving_stream(CANDIDATES, epochs=1, cancel=cancel):
        if found.rungs and len(found.rungs[-1].results) == 2:
            cancel.set()
    assert (found.done, found.cancelled) == (True, True)
    assert [len(rung.results) for rung in found.rungs] == [2]
    assert found.best in [settings for settings, _ in found.rungs[0].results]
    assert all(bench.distilled(settings) for settings, _ in found.rungs[0].results)


def test_one_that_diverges_goes_no_further(bench: wb.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = apart.distil

    def breaking(model, example, settings, *others, **named):
        training = whole(model, example, settings, *others, **named)
        if settings.width != 0.9:
            return training
        try:
            while True:
                next(training)
        except StopIteration as end:
            raise DivergenceError("the loss became nan", end.value) from None

    monkeypatch.setattr(apart, "distil", breaking)
    found = bench.halving(CANDIDATES[2:], epochs=1)
    assert [settings.width for settings in found.rungs[0].diverged] == [0.9]
    assert found.best is not None
    assert found.best.width == 0.6


def test_what_cannot_be_halved_is_refused(bench: wb.Bench) -> None:
    with pytest.raises(RecipeError, match="two settings at least that differ in more than their epochs"):
        bench.halving([SETTINGS, SETTINGS.replace(epochs=3)])
    with pytest.raises(RecipeError, match="no loss 'kdd'"):
        bench.halving([SETTINGS, SETTINGS.replace(loss="kdd")])
    with pytest.raises(RecipeError, match="epochs"):
        bench.halving(CANDIDATES, epochs=0)
