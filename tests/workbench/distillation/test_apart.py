"""Training in a process of its own: the same bits, and nothing that happens there breaks anything here."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from workbench.checkpoints import CheckpointFile
from workbench.distillation import apart
from workbench.distillation.apart import distil
from workbench.distillation.progress import DivergenceError
from workbench.distillation.teacher import TeacherLogits, fingerprint
from workbench.errors import RecipeError, WorkbenchError
from workbench.helper_process import Helpers, end

sys.path.insert(0, str(Path(__file__).parent))
from small_training import INPUTS, RULE, SETTINGS, run, same, training


class Watched(Helpers):
    """Tells which processes work."""

    def __init__(self) -> None:
        super().__init__("from workbench.distillation.worker import main; main()")
        self.pids: list[int] = []

    @contextmanager
    def one(self) -> Iterator[subprocess.Popen[str]]:
        with super().one() as process:
            self.pids.append(process.pid)
            yield process


@pytest.fixture(scope="module")
def helpers() -> Iterator[Watched]:
    with pytest.MonkeyPatch.context() as patch:
        watched = Watched()
        patch.setattr(apart, "_helpers", watched)
        yield watched


def test_killed_it_says_how_and_goes_on_to_the_same_bits(helpers: Watched, tmp_path: Path) -> None:
    checkpoint, reached = CheckpointFile(tmp_path / "c.safetensors", "this", every=0.0, share=math.inf), 0
    with pytest.raises(WorkbenchError, match=r"ended \(SIGKILL.*goes on from step [1-9]"):
        for progress in training(distil, checkpoint=checkpoint):
            if progress.step >= 40:
                reached = progress.step
                os.kill(helpers.pids[-1], signal.SIGKILL)
    curve, trained = run(training(distil, checkpoint=checkpoint))
    assert curve[0].resumed
    assert curve[0].step >= reached
    assert same(trained, run(training())[1])
    assert len(set(helpers.pids)) == 2


def test_the_process_serves_the_next_training_and_reports_what_goes_wrong(helpers: Watched) -> None:
    before = len(set(helpers.pids))
    spoilt = INPUTS.clone()
    spoilt[70] = 3e38
    logits = TeacherLogits(4 * INPUTS @ RULE, fingerprint(spoilt))
    with pytest.raises(DivergenceError, match="in its part") as error:
        run(training(distil, inputs=spoilt, teacher_logits=logits, settings=SETTINGS.replace(features=None)))
    assert error.value.trained is None  # it broke before anything was evaluated
    with pytest.raises(RecipeError, match="no loss 'kdd'"):
        run(training(distil, settings=SETTINGS.replace(loss="kdd")))
    cancel, pause, paused = threading.Event(), threading.Event(), 0
    for progress in training(distil, settings=SETTINGS.replace(epochs=10_000), cancel=cancel, pause=pause):
        if progress.paused:
            paused += 1
            cancel.set()
        elif progress.step:
            pause.set()
    assert paused
    assert progress.cancelled
    assert not progress.paused
    assert len(set(helpers.pids)) <= before + 1


def own(breaks_at: float, largest_file: int | None = None) -> Callable[[], nn.Module]:
    """A student that returns NaN from a step on, and may forbid the process that trains it to write larger files."""

    class Breaking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.calls = nn.Linear(10, 4), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            return self.fc(x) * (1 if self.calls < breaks_at else math.nan)

    def made() -> nn.Module:
        if largest_file is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return Breaking()

    return made


@pytest.mark.parametrize("breaks_at", [math.inf, 90, 1])
def test_what_was_learned_arrives_also_where_no_file_can_be_written(tmp_path: Path, breaks_at: float) -> None:
    """A real fault of a real write: the process that trains may write no more than a few bytes."""
    pytest.importorskip("resource")
    changes: dict[str, Any] = {"settings": SETTINGS.replace(features=None, student="own")}
    checkpoint = CheckpointFile(tmp_path / "c.safetensors", "this", every=0.0, share=math.inf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart, "_helpers", limited := Watched())  # nobody else gets that process
        tight = training(distil, own={"own": own(breaks_at, largest_file=100)}, checkpoint=checkpoint, **changes)
        if breaks_at == math.inf:
            curve, trained = run(tight)
            assert "came back without a file" in curve[-1].note
            assert "File too large" in curve[-1].note
            assert same(trained, run(training(own={"own": own(breaks_at)}, **changes))[1])
        else:
            with pytest.raises(DivergenceError) as told:
                run(tight)
            with pytest.raises(DivergenceError) as expected:
                run(training(own={"own": own(breaks_at)}, **changes))
            assert str(told.value) == str(expected.value)
            assert (told.value.trained is None) == (breaks_at == 1)
            if told.value.trained is not None:
                assert same(told.value.trained, expected.value.trained)
        assert len(limited.pids) == 1
        with limited.one() as process:
            assert process.pid == limited.pids[0]  # it lives
            end(process)


def test_without_a_folder_it_trains_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    curve, _ = run(training(distil, settings=SETTINGS.replace(features=None, epochs=1)))
    assert "trains in this process" in curve[-1].note


def test_a_class_of_the_notebook_is_handed_over_and_what_cannot_be_is_trained_here(helpers: Watched) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "nn": nn}
    exec(  # noqa: S102 - as a notebook's cell
        "class Own(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(10, 4)\n"
        "    def forward(self, x):\n"
        "        return self.fc(x)\n",
        namespace,
    )
    settings = SETTINGS.replace(features=None, student="own", epochs=2)
    used = len(helpers.pids)
    curve, trained = run(training(distil, settings=settings, own={"own": namespace["Own"]}))
    assert not curve[-1].note
    assert len(helpers.pids) == used + 1
    assert same(trained, run(training(settings=settings, own={"own": namespace["Own"]}))[1])

    def unpicklable(lock: Any = threading.Lock()) -> nn.Module:  # noqa: B008 - nobody can pickle a lock
        return nn.Linear(10, 4) if lock else nn.Linear(4, 10)

    curve, _ = run(training(distil, settings=settings, own={"own": unpicklable}))
    assert "trains in this process" in curve[-1].note
    assert "lock" in curve[-1].note

    steps = training(distil, settings=SETTINGS.replace(epochs=10_000))
    next(steps)
    steps.close()  # who does not listen any more does not leave it running
    assert not psutil.pid_exists(helpers.pids[-1])


def test_nobody_is_left_behind_when_the_notebook_is_killed(tmp_path: Path) -> None:
    """The child reads that its input ended."""
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from small_training import training, SETTINGS\n"
        "from workbench.distillation import apart\n"
        "import psutil\n"
        "for progress in training(apart.distil, settings=SETTINGS.replace(epochs=100000)):\n"
        "    if progress.step:\n"
        "        print(psutil.Process().children()[0].pid, flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
