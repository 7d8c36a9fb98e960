from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from workbench import TaskError, WorkbenchError, zoo
from workbench.zoo import checkpoints, fashion_mnist
from workbench.zoo.models import ARCHITECTURES

FOLDER = checkpoints.data_folder()


def test_seed_cnn_is_the_surveys_network() -> None:
    assert sum(p.numel() for p in zoo.model("seed-cnn").parameters()) == 93_322


@pytest.mark.parametrize(("name", "least"), [("seed-cnn", 0.915), ("teacher-cnn", 0.925)])
def test_checkpoints_reach_what_their_header_says(name: str, least: float) -> None:
    task, model = zoo.task(), zoo.model(name)
    with torch.inference_mode():
        right = torch.cat([model(x).argmax(1) for x in task.inputs.tensors[0].split(500)]) == task.targets
    reached = right.float().mean().item()
    header = json.loads((FOLDER / "checkpoints" / f"{name}.json").read_text())
    assert reached >= least
    assert reached == pytest.approx(header["accuracy"], abs=5e-4)
    assert header["command"].startswith("python -m workbench.zoo.train")


def test_calibration_comes_from_the_training_part() -> None:
    task = zoo.task()
    tested = {hashlib.sha256(x.contiguous().numpy().tobytes()).digest() for x in task.inputs.tensors[0]}
    used = {hashlib.sha256(x.contiguous().numpy().tobytes()).digest() for x in task.calibration.tensors[0]}
    assert len(task) == 10_000
    assert len(task.training.tensors[0]) == task.training.size == 20_000
    assert len(task.calibration) == 512
    assert not tested & used


def test_every_data_file_has_its_checksum_in_the_readme() -> None:
    told = (FOLDER / "README.md").read_text()
    files = [p for p in FOLDER.rglob("*") if p.is_file() and p.name != "README.md"]
    assert sum(p.stat().st_size for p in files) < 25e6
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in told, path.name


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for ending in ("safetensors", "json"):
        shutil.copy(FOLDER / "checkpoints" / f"seed-cnn.{ending}", tmp_path)
    return tmp_path


def truncate(folder: Path) -> None:
    path = folder / "seed-cnn.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def alter(folder: Path) -> None:
    path = folder / "seed-cnn.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)


def swap(folder: Path) -> None:
    """Another network's weights, with a checksum that fits them."""
    checkpoints.save(ARCHITECTURES["teacher-cnn"](), "seed-cnn", {}, folder)


def remove(folder: Path) -> None:
    (folder / "seed-cnn.json").unlink()


def garble(folder: Path) -> None:
    (folder / "seed-cnn.json").write_text("{")


@pytest.mark.parametrize("harm", [truncate, alter, swap, remove, garble])
def test_a_harmed_checkpoint_is_refused_in_words(copied: Path, harm) -> None:
    harm(copied)
    with pytest.raises(ValueError, match=r"(?s)seed-cnn.*cannot be used.*git checkout"):
        checkpoints.load(ARCHITECTURES["seed-cnn"](), "seed-cnn", copied)


def test_save_and_load(tmp_path: Path) -> None:
    model = ARCHITECTURES["seed-cnn"]()
    checkpoints.save(model, "mine", {"seed": 1}, tmp_path)
    again = ARCHITECTURES["seed-cnn"]()
    assert checkpoints.load(again, "mine", tmp_path)["seed"] == 1
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(WorkbenchError, match="'seed-cnn'"):
        zoo.load("seed_cnn")


@pytest.mark.parametrize("raw", [b"", b"\x1f\x8b", b"garbage" * 50])
def test_a_harmed_data_file_is_refused_in_words(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"t10k.*cannot be read"):
        fashion_mnist.read_idx(path)


def test_a_truncated_data_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes((FOLDER / "fashion-mnist" / path.name).read_bytes()[:2000])
    with pytest.raises(ValueError, match="cannot be read"):
        fashion_mnist.labels(path)


def test_task_errors_are_workbench_errors() -> None:
    assert issubclass(TaskError, WorkbenchError)
