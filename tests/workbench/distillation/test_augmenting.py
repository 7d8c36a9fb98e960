"""Versions of images: what they may be, and that they are the same again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.distillation.augmenting import Augmentation
from workbench.errors import RecipeError
from workbench.recipe import Distillation


def images(n: int, height: int, width: int) -> torch.Tensor:
    """No two pixels alike, none zero."""
    return torch.arange(1.0, 1 + n * 2 * height * width).view(n, 2, height, width)


def allowed(image: np.ndarray, kind: str) -> set[bytes]:
    """Every version that an image may have, moved by numpy."""
    _, height, width = image.shape
    high, wide = (-(-height // 14), -(-width // 14)) if "crop" in kind else (0, 0)
    padded = np.pad(image, ((0, 0), (high, high), (wide, wide)))
    moved = [padded[:, y : y + height, x : x + width] for y in range(2 * high + 1) for x in range(2 * wide + 1)]
    mirrored = [each[:, :, ::-1] for each in moved] if "flip" in kind else []
    return {np.ascontiguousarray(each).tobytes() for each in (*moved, *mirrored)}


@given(st.sampled_from(["crop", "flip", "crop_flip"]), st.integers(2, 16), st.integers(2, 16), st.integers(0, 5))
def test_every_version_is_one_of_those_that_are_promised(kind: str, height: int, width: int, seed: int) -> None:
    settings = Distillation(augmentation=kind, views=3, seed=seed)
    given_images = images(4, height, width)
    augmentation = Augmentation(settings, given_images)
    made = [augmentation.whole(given_images, view) for view in range(3)] + [augmentation.fresh(given_images, 7)]
    for version in made:
        for one, original in zip(version, given_images, strict=True):
            assert np.ascontiguousarray(one.numpy()).tobytes() in allowed(original.numpy(), kind)


def test_all_versions_come_and_depend_on_seed_image_and_view_alone() -> None:
    settings = Distillation(augmentation="crop_flip", views=4, seed=3)
    given_images = images(300, 14, 14)
    augmentation, again = (Augmentation(settings, given_images) for _ in range(2))
    views = [augmentation.whole(given_images, view) for view in range(4)]
    assert len({view.numpy().tobytes() for view in views}) == 4
    rows, which = torch.tensor([5, 299, 5]), torch.tensor([2, 0, 1])
    some = again.view(given_images[rows], rows, which)
    expected = torch.stack([views[view][row] for row, view in zip(rows.tolist(), which.tolist(), strict=True)])
    assert torch.equal(some, expected)
    assert torch.equal(augmentation.fresh(given_images, 9), again.fresh(given_images, 9))
    assert not torch.equal(augmentation.fresh(given_images, 9), augmentation.fresh(given_images, 10))
    other = Augmentation(settings.replace(seed=4), given_images).whole(given_images, 0)
    assert not torch.equal(other, views[0])
    same = torch.ones(1, 2, 14, 14).expand(300, 2, 14, 14)
    assert len({each.numpy().tobytes() for each in augmentation.whole(same, 0)}) == 9  # flipped ones look alike


def test_what_is_no_image_is_not_augmented() -> None:
    with pytest.raises(RecipeError, match=r"augmentation = 'crop': images .* these inputs have shape \(10,\)"):
        Augmentation(Distillation(augmentation="crop"), torch.zeros(3, 10))
