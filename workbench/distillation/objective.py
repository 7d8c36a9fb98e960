"""What student and control make smaller, and what it consists of."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.distillation import losses
from workbench.distillation.feature_teaching import FeatureTeaching
from workbench.distillation.learner import Examples
from workbench.errors import RecipeError
from workbench.recipe import Distillation

OF_NUMBERS = ("mse", "cosine")
"""Losses of outputs that are no classes."""


class Lesson:
    """A control's loss: how far its outputs are from the targets."""

    def __init__(self, *, classes: bool) -> None:
        """
        Args:
            classes: Whether targets are class indices; else numbers, and their squared distance counts.
        """
        self._right = right_class if classes else right_numbers
        self._rows = as_they_are if classes else in_rows

    def __call__(self, outputs: Tensor, batch: Examples) -> Tensor:
        """The mean over a batch, all of which have targets."""
        return self._right(self._rows(outputs), batch.targets).mean()


class Teaching:
    """A student's loss: what the teacher says and, on labelled examples, by a share the targets."""

    def __init__(self, settings: Distillation, features: FeatureTeaching | None, *, classes: bool) -> None:
        """
        Args:
            settings: Loss, temperature and shares.
            features: What hidden layers learn as well.
            classes: As in `Lesson`.

        Raises:
            RecipeError: There is no such loss, or none for these outputs.
        """
        require_loss(settings, classes=classes)
        self._loss = losses.get(settings.loss)
        self._right = right_class if classes else right_numbers
        self._rows = as_they_are if classes else in_rows
        self._settings = settings
        self._features = features
        self._latest: tuple[Tensor, Tensor, Tensor, Tensor | None] | None = None

    def __call__(self, outputs: Tensor, batch: Examples) -> Tensor:
        """The mean over a batch."""
        outputs, weight = self._rows(outputs), self._settings.weight
        taught = self._loss(outputs, batch.logits, self._settings.temperature)
        if batch.targets.numel():
            some = batch.labelled.view(-1, *[1] * (batch.targets.dim() - 1))
            told = self._right(outputs, batch.targets.where(some, 0))
        else:
            told = torch.zeros_like(taught)
        hidden = None if self._features is None else self._features(batch.inputs, batch.rows).mean()
        self._latest = (taught.detach(), told.detach(), batch.labelled, None if hidden is None else hidden.detach())
        total = losses.mixed(taught, told, batch.labelled, weight).mean()
        return total if hidden is None else total + hidden

    def parts(self) -> dict[str, float]:
        """What the latest loss is the sum of."""
        if self._latest is None:
            return {}
        taught, told, labelled, hidden = self._latest
        weight = self._settings.weight
        parts = {
            "teacher": float(torch.where(labelled, weight * taught, taught).mean()),
            "labels": float(torch.where(labelled, (1 - weight) * told, 0.0).mean()),
        }
        return parts if hidden is None else {**parts, "hidden layers": float(hidden)}

    def broken(self) -> list[str]:
        """Which parts of the latest loss are no finite numbers."""
        return [name for name, value in self.parts().items() if not math.isfinite(value)]


def require_loss(settings: Distillation, *, classes: bool) -> None:
    """Refuse losses that are none, or none for the outputs.

    Args:
        settings: With a loss.
        classes: As in `Lesson`.

    Raises:
        RecipeError: See above; the text names what can be chosen.
    """
    losses.get(settings.loss)
    if not classes and settings.loss not in OF_NUMBERS:
        raise RecipeError(
            f"distillation.loss = {settings.loss!r}: it compares probabilities of classes, and the outputs here are no "
            "classes. Choose 'mse' (numbers) or 'cosine' (embeddings: their direction)."
        )


def as_they_are(outputs: Tensor) -> Tensor:
    """Logits."""
    return outputs


def in_rows(outputs: Tensor) -> Tensor:
    """All numbers of an output in one row, shape (n, d)."""
    return outputs.reshape(len(outputs), -1)


def right_class(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, shape (n,).

    Args:
        outputs: Logits, shape (n, classes).
        targets: Class indices, shape (n,).
    """
    return F.cross_entropy(outputs, targets, reduction="none")


def right_numbers(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference, shape (n,).

    Args:
        outputs: Shape (n, d).
        targets: As many numbers, shape (n, d), or (n,) where d is 1.
    """
    return losses.mse(outputs, targets.reshape(outputs.shape).to(outputs.dtype))
