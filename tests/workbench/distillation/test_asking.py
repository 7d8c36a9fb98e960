"""Teachers' answers: asked once, kept, never mistaken for those about other images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from workbench.distillation.asking import Answers, Teacher
from workbench.distillation.augmenting import Augmentation
from workbench.distillation.teacher import mean_of, outputs_of
from workbench.recipe import Distillation

IMAGES = torch.randn(30, 1, 6, 6, generator=torch.Generator().manual_seed(0))
SETTINGS = Distillation(images=30, labels=3)


class Counted(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))
        self.asked = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        return self.body(x)


@pytest.fixture
def teachers() -> list[Teacher]:
    return [Teacher("a", Counted(0).eval()), Teacher("b", Counted(1).eval())]


def test_a_teacher_is_asked_once_about_the_same_images_in_the_same_order(
    teachers: list[Teacher], tmp_path: Path
) -> None:
    first = teachers[:1]
    (said,) = Answers(tmp_path / "new").of(first, SETTINGS, IMAGES)
    torch.testing.assert_close(said.logits, first[0].module(IMAGES).detach())
    asked = first[0].module.asked
    (again,) = Answers(tmp_path / "new").of(first, SETTINGS, IMAGES.contiguous(memory_format=torch.channels_last))
    assert torch.equal(again.logits, said.logits)
    assert first[0].module.asked == asked
    (turned,) = Answers(tmp_path / "new").of(first, SETTINGS, IMAGES.flip(0))
    assert torch.equal(turned.logits, said.logits.flip(0))
    assert first[0].module.asked == asked + 30


@pytest.mark.parametrize("how", ["truncated", "of another teacher", "of other images"])
def test_what_was_kept_is_checked_when_it_is_read(teachers: list[Teacher], tmp_path: Path, how: str) -> None:
    (said,) = Answers(tmp_path).of(teachers[:1], SETTINGS, IMAGES)
    (path,) = tmp_path.iterdir()
    Answers(tmp_path).of(teachers[1:], SETTINGS, IMAGES)
    Answers(tmp_path).of(teachers[:1], SETTINGS, IMAGES.flip(0))
    own = path.read_bytes()
    others = [each for each in tmp_path.iterdir() if each != path]
    names = {True: "of another teacher", False: "of other images"}
    for each in others:
        if how == names[b'"b' in each.read_bytes()[:200] or b'\\"b\\"' in each.read_bytes()[:400]]:
            path.write_bytes(each.read_bytes())
    if how == "truncated":
        path.write_bytes(own[:-4])
    assert path.read_bytes() != own
    (again,) = Answers(tmp_path).of(teachers[:1], SETTINGS, IMAGES)
    assert torch.equal(again.logits, said.logits)


def test_a_full_disk_is_no_obstacle(teachers: list[Teacher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workbench.tensor_files.write_atomically", full)
    (said,) = Answers(tmp_path).of(teachers[:1], SETTINGS, IMAGES)
    said.require(IMAGES)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_several_teachers_are_one_with_the_mean_of_their_softened_probabilities(
    teachers: list[Teacher], tmp_path: Path, temperature: float
) -> None:
    (said,) = Answers(tmp_path).of(teachers, SETTINGS.replace(temperature=temperature), IMAGES)
    own = [outputs_of(each.module, IMAGES) for each in teachers]
    expected = sum((each / temperature).softmax(1) for each in own) / 2
    torch.testing.assert_close((said.logits / temperature).softmax(1), expected)
    torch.testing.assert_close(said.logits.mean(1), (own[0] + own[1]).mean(1) / 2)  # as large as theirs
    assert torch.equal(mean_of(own, None), (own[0] + own[1]) / 2)


def test_every_kept_view_is_shown_to_the_teacher(teachers: list[Teacher], tmp_path: Path) -> None:
    settings = SETTINGS.replace(augmentation="crop_flip", views=3)
    said = Answers(tmp_path).of(teachers[:1], settings, IMAGES)
    augmentation = Augmentation(settings, IMAGES)
    for view, each in enumerate(said):
        shown = augmentation.whole(IMAGES, view)
        each.require(shown)
        torch.testing.assert_close(each.logits, teachers[0].module(shown).detach())
    assert len(said) == 3
    assert len(Answers(tmp_path).of(teachers[:1], settings.replace(views=0), IMAGES)) == 1
