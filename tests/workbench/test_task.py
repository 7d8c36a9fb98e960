from __future__ import annotations

import pytest
import torch

from workbench import Task, TaskError

IMAGES = torch.rand(20, 1, 8, 8)
LABELS = torch.arange(20) % 4


def holding(value: float) -> torch.Tensor:
    data = IMAGES.clone()
    data[7, 0, 3, 3] = value
    return data


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"calibration": IMAGES[:0]}, "calibration: at least one example"),
        ({"calibration": holding(float("nan"))}, "calibration: example 7 holds NaN"),
        ({"calibration": holding(float("inf"))}, "calibration: example 7"),
        ({"calibration": torch.rand(4, 3, 8, 8)}, r"calibration: examples have shape \(3, 8, 8\)"),
        ({"calibration": [1, 2]}, "calibration: a torch.Tensor"),
        ({"inputs": IMAGES[:0]}, "inputs: at least one example"),
        ({"inputs": holding(float("nan"))}, "inputs: example 7"),
        ({"targets": LABELS[:5]}, r"targets: one whole class index per example.*\(20,\)"),
        ({"targets": LABELS.float()}, "targets: one whole class index"),
        ({"targets": LABELS - 1}, "targets: label -1 is out of range"),
        ({"targets": LABELS + 1}, "targets: label 4 is out of range"),
        ({"training": (IMAGES, LABELS + 9)}, "training targets: label 12"),
        ({"training": (IMAGES[:, :, :4], LABELS)}, "training inputs: examples have shape"),
    ],
)
def test_bad_data_is_named(changes: dict[str, object], words: str) -> None:
    data = {"inputs": IMAGES, "targets": LABELS, "calibration": IMAGES, "classes": 4} | changes
    with pytest.raises(TaskError, match=words):
        Task.classification(**data)


def test_calibration_is_capped_and_the_key_follows_the_data() -> None:
    task = Task.classification(IMAGES, LABELS, calibration=torch.rand(900, 1, 8, 8), classes=4)
    assert len(task.calibration) == 512
    changed = Task.classification(holding(0.5), LABELS, calibration=task.calibration, classes=4)
    same = Task.classification(IMAGES.clone(), LABELS.clone(), calibration=task.calibration.clone(), classes=4)
    assert task.key != changed.key
    assert task.key == same.key


def test_fidelity_sets_calibration_aside() -> None:
    task = Task.fidelity(IMAGES)
    assert len(task) + len(task.calibration) == len(IMAGES)
    assert task.targets is None
    with pytest.raises(TaskError, match="at least one example"):
        Task.fidelity(IMAGES[:0])
