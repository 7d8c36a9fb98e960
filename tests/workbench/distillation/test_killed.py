"""Killed at random moments, both processes of a training, and gone on with in new ones: the bits are the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from workbench.distillation.trained import Trained
from workbench.helper_process import search_paths

sys.path.insert(0, str(Path(__file__).parent))
from killed_training import SETTINGS, STEPS, bench
from small_training import same

SCRIPT = Path(__file__).with_name("killed_training.py")
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")


def begun(folder: Path) -> subprocess.Popen[str]:
    """A process that calls `bench.distil`, which starts another one that trains."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search_paths())},
        stdout=subprocess.PIPE,
        text=True,
    )


def said(line: str) -> tuple[int, bool]:
    step, resumed = line.split()
    return int(step), resumed == "True"


def killed_at(moment: int, folder: Path) -> list[tuple[int, bool]]:
    """Kill both from a step on, whatever they are doing; where they were said to be until then."""
    process, seen = begun(folder), []
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            seen.append(said(line))
            if seen[-1][0] >= moment:
                break
        workers = psutil.Process(process.pid).children()
        assert ["workbench.distillation.worker" in " ".join(each.cmdline()) for each in workers] == [True]
        os.kill(workers[0].pid, signal.SIGKILL)
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not psutil.wait_procs(workers, timeout=10)[1]
    return seen


def test_killed_at_three_random_moments_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    draw = random.Random(seed)
    fifth = STEPS // 5  # the last two are left, so that none ends before it is killed
    moments = [draw.randrange(max(1, fifth * number), fifth * (number + 1)) for number in range(3)]
    print(f"moments {moments} of seed {seed}")  # shown where the test fails
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    seen = [killed_at(moment, killed) for moment in moments]
    last = begun(killed)
    seen.append([said(line) for line in last.communicate(timeout=300)[0].splitlines()])
    assert last.returncode == 0
    print(f"seen {[(each[0], each[1:2], each[-1]) for each in seen]}")
    assert seen[-1][-1] == (STEPS, True)
    assert next(step for step, resumed in seen[-1] if resumed) > 0  # it did not begin anew

    assert list(bench(whole).distil(SETTINGS))[-1].step == STEPS
    (one,), (other,) = ((folder / "students").iterdir() for folder in (killed, whole))
    assert one.name == other.name
    assert same(Trained.load(one), Trained.load(other))
