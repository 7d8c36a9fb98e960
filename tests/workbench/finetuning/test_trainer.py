"""Training on grids: it wins, it can be repeated, stopped, killed and gone on with."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from workbench import tensor_files
from workbench.finetuning.checkpoint import Checkpoint, Finetuned
from workbench.finetuning.trainer import Progress, finetune
from workbench.recipe import Finetuning, Recipe
from workbench.store import Store

sys.path.insert(0, str(Path(__file__).parent))
from lessons import RECIPE, bench, network, networks


def run(
    store: Store, recipe: Recipe = RECIPE, cancel: threading.Event | None = None, checkpoint: Checkpoint | None = None
) -> tuple[list[Progress], Finetuned]:
    made = bench(store)
    training = finetune(*networks(made)._prepared(recipe, made._network, None), recipe.finetuning, cancel, checkpoint)
    told = []
    while True:
        try:
            told.append(next(training))
        except StopIteration as end:
            return told, end.value


def same(a: Finetuned, b: Finetuned) -> bool:
    steps = [{slot: grid.scale for slot, grid in each.grids.items()} for each in (a, b)]
    return all(torch.equal(a.weights[n], b.weights[n]) for n in a.weights) and all(
        torch.equal(steps[0][slot], steps[1][slot]) for slot in steps[0]
    )


def test_it_learns_again_the_same_and_leaves_the_random_numbers_alone(store: Store) -> None:
    told, first = run(store)
    made = bench(store)
    before = torch.get_rng_state()
    assert list(made.finetune(RECIPE))[-1].done
    assert torch.equal(torch.get_rng_state(), before)
    again = run(store)[1]
    other = run(store, RECIPE.replace(finetuning=RECIPE.finetuning.replace(seed=1)))[1]
    assert same(first, again)
    assert not same(first, other)
    assert told[-1].done and not any(p.done for p in told[:-1])
    assert (told[-1].step, told[-1].epoch) == (told[-1].steps, 3) == (18, 3)
    assert told[-1].accuracy.value > told[0].accuracy.value
    assert told[0].loss != told[0].loss
    assert told[-1].samples_per_second > 0


def test_a_pause_holds_before_a_step_and_changes_no_bit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.finetuning.trainer.SECONDS_BETWEEN", 0.0)
    whole = bench(Store(store.folder / "whole"))
    list(whole.finetune(RECIPE))
    made, pause = bench(store), threading.Event()
    held: list[Progress] = []
    for progress in made.finetune(RECIPE, pause=pause):
        if progress.paused:
            held.append(progress)
            if len(held) == 5:
                pause.clear()
        elif progress.step == 7 and not held:
            pause.set()
    assert progress.done and not progress.paused
    assert [each.step for each in held] == [7] * 5
    assert len({each.seconds for each in held}) == 1  # the clock stands still
    assert len({each.samples_per_second for each in held}) == 1
    files = [next((folder / "finetuned").glob("*.safetensors")) for folder in (store.folder, store.folder / "whole")]
    assert same(*map(Finetuned.load, files))


def test_a_pause_is_ended_by_a_cancel(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.finetuning.trainer.SECONDS_BETWEEN", 0.0)
    made, pause, cancel = bench(store), threading.Event(), threading.Event()
    for progress in made.finetune(RECIPE, cancel, pause):
        if progress.paused:
            cancel.set()
        elif progress.step == 3:
            pause.set()
    assert progress.cancelled and progress.kept and progress.step == 3
    assert made.finetuned(RECIPE)


def test_a_cancel_between_steps_keeps_the_best_and_leaves_no_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.finetuning.trainer.SECONDS_BETWEEN", 0.0)
    threads = threading.active_count()
    cancel = threading.Event()
    made = bench(store)
    training = finetune(*networks(made)._prepared(RECIPE, made._network, None), RECIPE.finetuning, cancel)
    next(training)
    second = next(training)
    cancel.set()
    last = next(training)
    with pytest.raises(StopIteration) as end:
        next(training)
    assert last.cancelled and last.done
    assert (second.step, last.step) == (1, 1)
    assert end.value.value.cancelled
    assert threading.active_count() == threads


def test_a_loss_that_is_no_number_ends_it_with_the_best_weights(store: Store) -> None:
    made = bench(store)
    twin, lesson = networks(made)._prepared(RECIPE, made._network, None)
    before = twin.weights()
    broken = dataclasses.replace(lesson, objective=lambda outputs, _: outputs.sum() * float("nan"))
    training = finetune(twin, broken, RECIPE.finetuning)
    last: Progress | None = None
    try:
        while True:
            last = next(training)
    except StopIteration as end:
        left: Finetuned = end.value
    assert last is not None and last.done and "learning rate below 0.005" in last.note
    assert all(torch.equal(left.weights[name], before[name]) for name in before)
    assert left.cancelled


CHILD = """
import sys, torch
sys.path[:0] = [{tests!r}, {shared!r}]
torch.set_num_threads(1)
from lessons import RECIPE, bench
from workbench.store import Store
for progress in bench(Store({folder!r})).finetune(RECIPE):
    print(progress.epoch, flush=True)
    if progress.epoch == 2:
        sys.stdin.read()
"""


def test_after_a_kill_it_goes_on_from_its_last_epoch_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            CHILD.format(
                tests=str(Path(__file__).parent), shared=str(Path(__file__).parents[1]), folder=str(tmp_path / "killed")
            ),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == "2":
            break
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = bench(Store(tmp_path / "killed"))
        assert not made.finetuned(RECIPE)
        told = list(made.finetune(RECIPE))
        whole = bench(Store(tmp_path / "whole"))
        assert not any(p.resumed for p in whole.finetune(RECIPE))
    finally:
        torch.set_num_threads(threads)
    assert told[-1].resumed and told[-1].done
    assert min(p.epoch for p in told[1:]) == 2
    files = [list((tmp_path / name / "finetuned").iterdir()) for name in ("killed", "whole")]
    assert [len(each) for each in files] == [1, 1]  # nothing is left to go on from
    assert same(*(Finetuned.load(each[0]) for each in files))


@pytest.mark.parametrize("damage", ["truncated", "altered", "foreign", "other shapes", "beyond the end"])
def test_a_checkpoint_that_is_damaged_or_foreign_is_not_used(damage: str, store: Store, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "kept" / "epoch.safetensors", "this")
    wanted = run(store, checkpoint=checkpoint)[1]
    content = checkpoint.path.read_bytes()
    if damage == "truncated":
        checkpoint.path.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        checkpoint.path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "foreign":
        checkpoint = dataclasses.replace(checkpoint, made_for="that")
    elif damage == "other shapes":
        text, tensors = tensor_files.load(checkpoint.path)
        tensor_files.save(checkpoint.path, text, {name: torch.zeros(1) for name in tensors})
    else:
        position = checkpoint.load()
        assert position is not None
        checkpoint.save(dataclasses.replace(position, epoch=9))
    told, made = run(store, checkpoint=checkpoint)
    assert not any(p.resumed for p in told)
    assert same(made, wanted)


def test_on_a_full_disk_it_goes_on_and_says_that_it_cannot_be_resumed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told, made = run(store, checkpoint=Checkpoint(tmp_path / "file" / "epoch.safetensors", "this"))
    assert "cannot be resumed" in told[-1].note
    assert told[-1].done and not made.cancelled


def test_a_model_that_no_gradient_comes_back_from_is_refused(store: Store) -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).detach()

    with pytest.raises(ValueError, match="No gradient comes back"):
        list(bench(store, Cut()).finetune(RECIPE))


def test_the_settings_have_an_effect(store: Store) -> None:
    plain = run(store)[1]
    for changes in ({"learning_rate": 1e-3}, {"distillation": 0.5}, {"epochs": 2}, {"images": 300}):
        settings: Finetuning = RECIPE.finetuning.replace(**changes)
        assert not same(plain, run(store, RECIPE.replace(finetuning=settings))[1])
