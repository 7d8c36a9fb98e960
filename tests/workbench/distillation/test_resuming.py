"""A training is kept, interrupted at any step, and gone on with to the same bits."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.checkpoints import CheckpointFile
from workbench.distillation import trainer
from workbench.distillation.progress import Progress
from workbench.distillation.trained import Trained

sys.path.insert(0, str(Path(__file__).parent))
from small_training import SETTINGS, STEPS, network, run, same, training


@pytest.fixture(scope="module")
def uninterrupted() -> Trained:
    return run(training())[1]


@pytest.fixture
def checkpoint(tmp_path: Path) -> CheckpointFile:
    return CheckpointFile(tmp_path / "folder" / "c.safetensors", "this", every=0.0, share=math.inf)


def until(step: int, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[Progress]:
    """Left without a word at a step, as a killed process does."""
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN", 0.0)
    curve = []
    steps = training(**changes)
    for progress in steps:
        curve.append(progress)
        if progress.step == step:
            break
    steps.close()
    return curve


@pytest.mark.parametrize("moments", [(1,), (31, 33), (40, 64, 99)])
def test_interrupted_and_gone_on_with_it_ends_with_the_same_bits(
    uninterrupted: Trained, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch, moments: tuple[int, ...]
) -> None:
    begun = 0
    for moment in moments:
        curve = until(moment, monkeypatch, checkpoint=checkpoint)
        assert curve[0].resumed == bool(begun)
        assert curve[0].step == begun
        begun = moment
    curve, trained = run(training(checkpoint=checkpoint))
    assert curve[0].resumed
    assert curve[-1].step == trained.steps == STEPS
    assert same(trained, uninterrupted)


def test_killed_at_three_moments_it_ends_with_the_same_bits(
    uninterrupted: Trained, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real processes, a real SIGKILL; moments are steps, so that they come on any machine."""
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN", 0.0)
    reached = 0
    for moment in (23, 50, 81):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            for progress in training(checkpoint=checkpoint):
                os.write(writing, f"{progress.step}\n".encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as steps:
            begun = int(steps.readline())
            assert begun >= reached
            reached = next(step for step in map(int, steps) if step >= moment)
            os.kill(child, signal.SIGKILL)
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    curve, trained = run(training(checkpoint=checkpoint))
    assert curve[0].resumed
    assert curve[0].step >= reached
    assert same(trained, uninterrupted)


def test_keeping_it_changes_nothing(uninterrupted: Trained, checkpoint: CheckpointFile) -> None:
    curve, trained = run(training(checkpoint=checkpoint))
    assert same(trained, uninterrupted)
    assert checkpoint.path.exists()
    assert not any(progress.resumed or progress.note for progress in curve)


def test_after_a_cancel_it_goes_on_from_that_very_step(
    uninterrupted: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN", 0.0)
    checkpoint, cancel = CheckpointFile(tmp_path / "c.safetensors", "this", every=1e9), threading.Event()
    for progress in training(checkpoint=checkpoint, cancel=cancel):
        if progress.step == 57:
            cancel.set()
    assert progress.cancelled
    curve, trained = run(training(checkpoint=checkpoint))
    assert (curve[0].step, curve[0].resumed) == (57, True)
    assert curve[0].student == progress.student or curve[0].student is not None
    assert curve[-1].seconds > progress.seconds
    assert same(trained, uninterrupted)


def test_a_pause_holds_the_training_and_keeps_it(
    uninterrupted: Trained, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN", 0.0)
    pause, held = threading.Event(), []
    steps = training(checkpoint=checkpoint, pause=pause)
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            trained = end.value
            break
        if progress.paused:
            held.append(progress)
            assert checkpoint.read()[0]["student"]["taken"] == 50
            if len(held) == 4:
                pause.clear()
        elif progress.step == 50 and not held:
            pause.set()
    assert {progress.step for progress in held} == {50}
    assert len({progress.seconds for progress in held}) == 1  # the clock stands still
    assert same(trained, uninterrupted)


@pytest.mark.parametrize("how", ["truncated", "altered", "foreign", "another network", "empty"])
def test_a_damaged_or_foreign_file_is_not_looked_at(
    uninterrupted: Trained, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    other = {"model": network(12)} if how == "another network" else {}
    until(40, monkeypatch, checkpoint=checkpoint, **other)
    content = bytearray(checkpoint.path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "altered":
        content[-9] ^= 1
    elif how == "empty":
        content = bytearray()
    checkpoint.path.write_bytes(content)
    if how == "foreign":
        checkpoint = CheckpointFile(checkpoint.path, "that")
    curve, trained = run(training(checkpoint=checkpoint))
    assert (curve[0].step, curve[0].resumed) == (0, False)
    assert same(trained, uninterrupted)


def test_a_full_disk_is_said_and_the_training_goes_on(
    uninterrupted: Trained, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workbench.tensor_files.write_atomically", full)
    curve, trained = run(training(checkpoint=checkpoint))
    assert "No space left on device" in curve[-1].note
    assert same(trained, uninterrupted)


def test_with_patience_too_it_ends_with_the_same_bits(
    checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.replace(patience=2, epochs=100)
    curve, trained = run(training(settings=settings))
    assert trained.steps < 1000
    assert "Stopped early" in curve[-1].note
    until(trained.steps - 20, monkeypatch, settings=settings, checkpoint=checkpoint)
    again = run(training(settings=settings, checkpoint=checkpoint))[1]
    assert again.steps == trained.steps
    assert same(again, trained)


def test_a_buffer_that_no_state_has_is_kept_too(checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> None:
    class Drifting(torch.nn.Module):
        """Adds to its output how often it was called in training."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()), persistent=False)
            self.body = network(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.calls = self.calls + 1
            return self.body(x) * (1 + 1e-3 * self.calls)

    changes: dict[str, Any] = {"settings": SETTINGS.replace(features=None, student="own"), "own": {"own": Drifting}}
    whole = run(training(**changes))[1]
    until(60, monkeypatch, checkpoint=checkpoint, **changes)
    curve, trained = run(training(checkpoint=checkpoint, **changes))
    assert curve[0].resumed
    assert same(trained, whole)
