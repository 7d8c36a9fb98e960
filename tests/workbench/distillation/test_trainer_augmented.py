"""Training on versions of images: student and control see the same, the teacher is asked about what is seen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from workbench.distillation.augmenting import Augmentation
from workbench.distillation.teacher import teacher_logits
from workbench.errors import TaskError, WorkbenchError
from workbench.recipe import Distillation, Features

sys.path.insert(0, str(Path(__file__).parent))
from small_training import run, same, training

IMAGES = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = (IMAGES[:, 0, :4].sum((1, 2)) > 0).long() + 2 * (IMAGES[:, 0, 4:].sum((1, 2)) > 0).long()
SETTINGS = Distillation(images=160, labels=40, epochs=4, augmentation="crop_flip", views=2)


class Seen(nn.Module):
    """Remembers what it was shown in training."""

    log: ClassVar[list[Tensor]] = []

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.log.append(x.detach().clone())
        return self.body(x)


def network(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 4)).eval()


def arguments(settings: Distillation, **changes: Any) -> dict[str, Any]:
    inputs, teacher = IMAGES[:160], network(6)
    augmentation = Augmentation(settings, inputs)
    shown = [augmentation.whole(inputs, view) for view in range(settings.views)] or [inputs]
    return {
        "model": network(4),
        "example": inputs[:2],
        "settings": settings,
        "inputs": inputs,
        "labels": LABELS[:160],
        "teacher_logits": [teacher_logits(teacher, each) for each in shown],
        "validation": (IMAGES[160:], LABELS[160:]),
        "teacher": teacher,
        **changes,
    }


@pytest.mark.parametrize("views", [2, 0])
def test_student_and_control_see_the_same_versions(views: int) -> None:
    """Without a teacher's share and with all labels they are one, to the last bit."""
    settings = SETTINGS.replace(views=views, labels=160, weight=0)
    _, trained = run(training(**arguments(settings)))
    pairs = zip(trained.student_state.values(), trained.control_state.values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not same(trained, run(training(**arguments(settings.replace(seed=1))))[1])


@pytest.mark.parametrize("views", [2, 0])
def test_kept_views_come_in_turn_and_new_ones_in_every_step(views: int) -> None:
    Seen.log.clear()
    settings = SETTINGS.replace(views=views, student="own", labels=0, epochs=8)
    run(training(**arguments(settings, own={"own": Seen})))
    seen = {image.numpy().tobytes() for batch in Seen.log for image in batch}
    augmentation = Augmentation(settings, IMAGES[:160])
    if views:
        kept = [augmentation.whole(IMAGES[:160], view) for view in range(views)]
        assert seen == {image.contiguous().numpy().tobytes() for each in kept for image in each}
    else:
        assert len(seen) > 3 * 160


@pytest.mark.parametrize("features", [None, Features(loss="hints", pairs={"0": "0"})], ids=["logits", "features"])
def test_asked_again_for_each_batch_the_answers_are_about_what_is_seen(features: Features | None) -> None:
    """A single view that changes nothing is the same training, however the teacher is asked."""
    square = torch.ones(160, 1, 8, 8) * torch.arange(160.0)[:, None, None, None] / 80 - 1  # a mirror shows the same
    settings = SETTINGS.replace(augmentation="flip", features=features, views=1)
    kept, fresh = (
        run(
            training(
                **arguments(
                    settings.replace(views=views),
                    inputs=square,
                    teacher_logits=[teacher_logits(network(6), square)],
                )
            )
        )[1]
        for views in (1, 0)
    )
    for a, b in zip(kept.student_state.values(), fresh.student_state.values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_answers_about_other_versions_and_absent_teachers_are_refused() -> None:
    given = arguments(SETTINGS)
    with pytest.raises(TaskError, match="other inputs"):
        training(**{**given, "teacher_logits": given["teacher_logits"][::-1]})
    with pytest.raises(TaskError, match="one set for each of 2 views"):
        training(**{**given, "teacher_logits": given["teacher_logits"][:1]})
    with pytest.raises(WorkbenchError, match="views = 0: the teacher itself is needed"):
        training(**arguments(SETTINGS.replace(views=0), teacher=None))
