from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.distillation.trained import Trained
from workbench.errors import WorkbenchError

SAVE_AND_DIE = """
import os, pathlib, signal, sys, torch
from workbench.distillation.trained import Trained
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
state = {"weight": torch.full((1000,), 2.0)}
Trained(state, state, 2, 2.0).save(pathlib.Path(sys.argv[1]))
"""


def trained(value: float = 1.0) -> Trained:
    weight = torch.full((2, 3, 2, 2), value).contiguous(memory_format=torch.channels_last)
    student = {"0.weight": weight, "norm.num_batches_tracked": torch.tensor(7)}
    return Trained(student, {"0.weight": -weight[:, :, ::2]}, steps=1250, seconds=12.5, cancelled=True)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    trained().save(path)
    found = Trained.load(path)
    for ours, theirs in (
        (trained().student_state, found.student_state),
        (trained().control_state, found.control_state),
    ):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    assert (found.steps, found.seconds, found.cancelled) == (1250, 12.5, True)
    assert [file.name for file in tmp_path.iterdir()] == ["student.safetensors"]


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Trained.load(tmp_path / "student.safetensors")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_truncated_or_altered_file_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "student.safetensors"
    trained().save(path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        del content[at:]
    path.write_bytes(content)
    with pytest.raises(WorkbenchError, match=r"student\.safetensors cannot be used .*Delete it and distil again"):
        Trained.load(path)


def test_a_process_that_is_killed_while_it_saves_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    trained().save(path)
    before = path.read_bytes()
    killed = subprocess.run([sys.executable, "-c", SAVE_AND_DIE, str(path)], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert path.read_bytes() == before
    trained(3.0).save(path)
    assert Trained.load(path).student_state["0.weight"].max() == 3


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "student.safetensors"
    trained().save(path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trained(3.0).save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["student.safetensors"]
    assert Trained.load(path).student_state["0.weight"].max() == 1
