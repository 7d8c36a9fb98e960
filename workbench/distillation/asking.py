"""What teachers say about training images: asked once, kept on disk, bound to exactly these images."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from workbench.distillation.augmenting import Augmentation
from workbench.distillation.teacher import (
    TeacherLogits,
    fingerprint,
    mean_of,
    teacher_logits,
    teacher_numbers,
)
from workbench.recipe import Distillation


@dataclass(frozen=True)
class Teacher:
    """Who is asked."""

    key: str
    """Of its weights and code."""
    module: nn.Module


class Answers:
    """What teachers said, in a folder."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: A file for each teacher and set of images; it need not be there.
        """
        self._folder = folder

    def of(
        self,
        teachers: Sequence[Teacher],
        settings: Distillation,
        inputs: Tensor,
        cancel: threading.Event | None = None,
        *,
        classes: bool = True,
    ) -> list[TeacherLogits]:
        """What the teachers say together about all images, and about every kept view of them.

        Args:
            teachers: Of one student.
            settings: Which views there are, and at which temperature several teachers are averaged.
            inputs: All images that are learned from, shape (n, ...).
            cancel: Stops between batches.
            classes: Whether the outputs are logits of classes.

        Raises:
            Cancelled: `cancel` was set.
            TaskError, WorkbenchError: See `teacher_logits`.
        """
        temperature = settings.temperature if classes else None
        return [self.together(teachers, looked_at, temperature, cancel) for looked_at in _looks(settings, inputs)]

    def together(
        self,
        teachers: Sequence[Teacher],
        inputs: Tensor,
        temperature: float | None,
        cancel: threading.Event | None = None,
    ) -> TeacherLogits:
        """What the teachers say together about images as they are.

        Args:
            teachers: One or more.
            inputs: Shape (n, ...).
            temperature: At which logits of classes are averaged; None: the outputs are no classes.
            cancel: Stops between batches.

        Raises:
            Cancelled: `cancel` was set.
            TaskError, WorkbenchError: See `teacher_logits`.
        """
        data, classes = fingerprint(inputs), temperature is not None
        known = [self._one(teacher, inputs, data, cancel, classes=classes) for teacher in teachers]
        return TeacherLogits(mean_of([each.logits for each in known], temperature), data)

    def _one(
        self, teacher: Teacher, inputs: Tensor, data: str, cancel: threading.Event | None, *, classes: bool
    ) -> TeacherLogits:
        name = hashlib.sha256(f"{teacher.key} {data}".encode()).hexdigest()
        path = self._folder / f"{name}.safetensors"
        known = TeacherLogits.load(path, teacher.key)
        if known is None or known.inputs != data:
            known = (teacher_logits if classes else teacher_numbers)(teacher.module, inputs, cancel=cancel)
            with contextlib.suppress(OSError):  # a full or read-only disk: it is asked again next time
                known.save(path, teacher.key)
        return known


def _looks(settings: Distillation, inputs: Tensor) -> Iterator[Tensor]:
    """What the teachers are shown, one after the other: the kept views, or else the images as they are."""
    augmentation = None if settings.augmentation == "none" else Augmentation(settings, inputs)
    if augmentation is None or not augmentation.views:
        yield inputs
    else:
        yield from (augmentation.whole(inputs, view) for view in range(augmentation.views))
