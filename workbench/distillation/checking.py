"""Whether data, a teacher's outputs and a student belong together; asked before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workbench.distillation.augmenting import Augmentation
from workbench.distillation.goal import Goal
from workbench.distillation.teacher import TeacherLogits
from workbench.errors import RecipeError, TaskError, WorkbenchError
from workbench.recipe import Distillation
from workbench.tracing import running


def require_counts(settings: Distillation, inputs: Tensor) -> None:
    """Refuse more images or labels than there are.

    Raises:
        RecipeError: There are fewer.
    """
    if settings.images > len(inputs):
        raise RecipeError(
            f"distillation.images = {settings.images}: allowed are 1 to {len(inputs)}, as many as there are."
        )
    if settings.labels > settings.images:
        raise RecipeError(
            f"distillation.labels = {settings.labels}: allowed are 0 to {settings.images}, the number of images."
        )


def require_data(
    settings: Distillation,
    inputs: Tensor,
    labels: Tensor,
    known: Sequence[TeacherLogits],
    validation: tuple[Tensor, Tensor],
    augmentation: Augmentation | None,
    goal: Goal,
) -> int:
    """Refuse targets and a teacher's outputs that are of other data, or of other classes.

    Args:
        settings: The loss counts.
        inputs: Training inputs, shape (n, ...).
        labels: Of these.
        known: The teacher's outputs: of the inputs, or of each kept view of them.
        validation: Inputs and targets.
        augmentation: Makes the views.
        goal: What the outputs are.

    Returns:
        The width of the outputs.

    Raises:
        TaskError, RecipeError: See above.
    """
    views = augmentation.views if augmentation else 0
    if len(known) != max(1, views):
        raise TaskError(f"teacher logits: one set for each of {views} views is needed; these are {len(known)}.")
    for view, each in enumerate(known):
        each.require(augmentation.whole(inputs, view) if augmentation and views else inputs)
    width = known[0].logits.shape[1]
    if not goal.classes and settings.loss == "cosine" and width == 1:
        raise RecipeError("distillation.loss = 'cosine': one number has no direction. Choose 'mse'.")
    if goal.classes:
        _require_classes("training", inputs, labels, width)
        _require_classes("validation", *validation, width)
    elif len(labels) != len(inputs) or len(validation[0]) != len(validation[1]) or not len(validation[0]):
        raise TaskError("training and validation: one target per example and at least one example are needed.")
    return width


def require_outputs(student: nn.Module, inputs: Tensor, width: int, goal: Goal) -> None:
    """Refuse a student that does not return what its teacher does.

    Raises:
        WorkbenchError: Its outputs have another width.
    """
    with torch.inference_mode(), running():
        made = tuple(student.eval()(inputs).shape[1:])
    if made != (width,) if goal.classes else math.prod(made) != width:
        what = "logits" if goal.classes else "numbers"
        raise WorkbenchError(f"The model returns {made} per example, the teacher {width} {what}; both need the same.")


def _require_classes(what: str, inputs: Tensor, targets: Tensor, classes: int) -> None:
    if len(inputs) == 0 or targets.shape != (len(inputs),):
        raise TaskError(
            f"{what}: one class index per example and at least one example are needed; "
            f"these are {len(inputs)} examples and targets of shape {tuple(targets.shape)}."
        )
    if int(targets.min()) < 0 or int(targets.max()) >= classes:
        raise TaskError(
            f"{what}: label {int(targets.min() if targets.min() < 0 else targets.max())} is out of range; "
            f"the teacher knows the classes 0 to {classes - 1}."
        )
