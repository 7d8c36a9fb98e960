"""Other versions of the images to learn from: moved, mirrored, the same whenever they are asked for again."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.errors import RecipeError
from workbench.recipe import Distillation

MOVED = 14
"""An image is moved by up to one in so many of its pixels, rounded up: 2 of 28, 3 of 32, 16 of 224."""
SEEDS = 1_000_003
"""Between the seeds of two trainings, so that their views and steps share none."""


def require_images(settings: Distillation, inputs: Tensor) -> None:
    """Refuse to augment what are no images.

    Args:
        settings: With or without an augmentation.
        inputs: Some of the inputs, shape (n, ...).

    Raises:
        RecipeError: There is one, and these are no images.
    """
    if settings.augmentation != "none" and inputs.dim() != 4:
        raise RecipeError(
            f"distillation.augmentation = {settings.augmentation!r}: images of shape (channels, height, width) can be "
            f"moved and mirrored; these inputs have shape {tuple(inputs.shape[1:])}. Choose 'none'."
        )


class Augmentation:
    """Versions of images, by the seed alone: which one comes in a step does not depend on what came before."""

    def __init__(self, settings: Distillation, inputs: Tensor) -> None:
        """
        Args:
            settings: Which versions, and how many are kept; not ``"none"``.
            inputs: All images that are learned from, shape (n, channels, height, width).

        Raises:
            RecipeError: The inputs are no images.
        """
        require_images(settings, inputs)
        self.views = settings.views
        self._seed = settings.seed
        self._mirrored = "flip" in settings.augmentation
        height, width = inputs.shape[2:]
        self._margins = (-(-height // MOVED), -(-width // MOVED)) if "crop" in settings.augmentation else (0, 0)
        draws = [self._draw(len(inputs), view) for view in range(self.views)]
        self._draws = torch.stack(draws, 1) if draws else None  # (n, views, 3)

    def view(self, inputs: Tensor, rows: Tensor, views: Tensor) -> Tensor:
        """Kept versions of some images.

        Args:
            inputs: These images, shape (k, channels, height, width).
            rows: Which of all images they are, shape (k,).
            views: Which version of each, shape (k,).
        """
        assert self._draws is not None  # noqa: S101 - narrows the type
        return self._made(inputs, self._draws[rows, views])

    def whole(self, inputs: Tensor, view: int) -> Tensor:
        """One version of all images."""
        rows = torch.arange(len(inputs))
        return torch.cat([self.view(inputs[part], part, torch.full_like(part, view)) for part in rows.split(1000)])

    def fresh(self, inputs: Tensor, step: int) -> Tensor:
        """Versions that no other step has.

        Args:
            inputs: A batch, shape (k, channels, height, width).
            step: Of the training.
        """
        return self._made(inputs, self._draw(len(inputs), step))

    def _draw(self, n: int, which: int) -> Tensor:
        """Down, right and mirrored or not, shape (n, 3)."""
        generator = torch.Generator().manual_seed(self._seed * SEEDS + which)
        down, right = (torch.randint(0, 2 * margin + 1, (n,), generator=generator) for margin in self._margins)
        mirrored = torch.randint(0, 2 if self._mirrored else 1, (n,), generator=generator)
        return torch.stack((down, right, mirrored), 1)

    def _made(self, inputs: Tensor, draws: Tensor) -> Tensor:
        k, (height, width), (high, wide) = len(inputs), inputs.shape[2:], self._margins
        padded = torch.nn.functional.pad(inputs, (wide, wide, high, high))
        y = draws[:, 0, None] + torch.arange(height)  # (k, height)
        x = torch.arange(width).expand(k, width)
        x = draws[:, 1, None] + torch.where(draws[:, 2, None] == 1, width - 1 - x, x)  # (k, width)
        found = padded.permute(0, 2, 3, 1)[torch.arange(k)[:, None, None], y[:, :, None], x[:, None, :]]
        return found.permute(0, 3, 1, 2)  # channels-last in memory
