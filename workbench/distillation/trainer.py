"""Trains a student from a teacher's logits and, beside it, the same student from the labels alone."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.distillation import losses
from workbench.distillation.feature_teaching import FeatureTeaching
from workbench.distillation.learner import BATCH, Examples, Learner, accuracy
from workbench.distillation.students import Own, make_student
from workbench.distillation.teacher import TeacherLogits, teacher_logits
from workbench.distillation.trained import Trained
from workbench.errors import RecipeError, TaskError, WorkbenchError
from workbench.recipe import Distillation
from workbench.report import Estimate
from workbench.tracing import running

__all__ = ["DivergenceError", "Progress", "TeacherLogits", "Trained", "distil", "teacher_logits"]

EVALUATED = 1000
"""Validation examples of each point of the curves; the last point rests on all of them."""
TRAINED_BETWEEN = 2 * EVALUATED
"""Examples that each network sees between two evaluations. A training step costs about three forward passes, so
evaluation takes about a seventh of the time. Counted in examples, not in seconds: the weights that are kept must
not depend on the speed of the machine."""
SECONDS_BETWEEN = 0.2
NO_LABELS = "The control has no labelled example to learn from and stays at its initial accuracy."


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int
    """Optimizer steps that each of the two has taken."""
    steps: int
    """Optimizer steps of each in all."""
    seconds: float
    """Since the start."""
    samples_per_second: float
    """Training examples that both together have learned from."""
    student: Estimate | None
    """Accuracy on held-out training examples; None where nothing was learned."""
    control: Estimate | None
    loss: float
    """Of the student's latest batch; NaN before the first one."""
    done: bool = False
    cancelled: bool = False
    note: str = ""
    """A sentence that a reader of the curves has to know, or nothing."""


class DivergenceError(WorkbenchError):
    """A loss became NaN or infinite."""

    def __init__(self, text: str, trained: Trained) -> None:
        super().__init__(text)
        self.trained = trained
        """The best weights until then."""


def distil(
    model: nn.Module,
    example: Tensor,
    settings: Distillation,
    inputs: Tensor,
    labels: Tensor,
    teacher_logits: TeacherLogits,
    validation: tuple[Tensor, Tensor],
    cancel: threading.Event | None = None,
    teacher: nn.Module | None = None,
    own: Mapping[str, Own] | None = None,
) -> Generator[Progress, None, Trained]:
    """Train a student and its control in turns, one optimizer step each.

    Both begin with the same weights and take as many steps of the same size and schedule. The student learns from
    the teacher on all images and from the labels on some; the control learns from these labelled images alone,
    which come round more often.

    Args:
        model: Gives the student its form; left as it is.
        example: A batch of its inputs.
        settings: What was chosen. The first `settings.images` of the inputs are trained on.
        inputs: Training inputs, shape (n, ...).
        labels: Class indices, shape (n,). Only `settings.labels` of them, chosen by the seed, are looked at.
        teacher_logits: Of exactly these inputs in this order.
        validation: Inputs and class indices that are neither trained on nor part of the test data.
        cancel: Stops before the next step.
        teacher: Whose logits these are. Needed where `settings.features` are learned.
        own: Students that are no form of the model, by name.

    Yields:
        At least five times a second where a step is no longer than that. The last one has ``done=True``, also
        after a cancel.

    Returns:
        The last weights; after a cancel, the best on the validation data until then. The same settings, data and
        thread count give the same bits.

    Raises:
        RecipeError: More images or labels than there are, or an unknown loss or layer.
        TaskError: Data that do not belong together.
        WorkbenchError: The model cannot be made smaller as asked, or its outputs are not the teacher's classes.
        DivergenceError: While training, a loss became NaN or infinite.
    """
    classes = _checked(settings, inputs, labels, teacher_logits, validation)
    loss = losses.get(settings.loss)
    n = settings.images
    labelled = torch.zeros(n, dtype=torch.bool)
    labelled[torch.randperm(n, generator=torch.Generator().manual_seed(settings.seed))[: settings.labels]] = True
    everything = Examples(inputs[:n], labels[:n], teacher_logits.logits[:n], labelled, torch.arange(n))
    networks = [make_student(model, example, settings, own).module for _ in range(2)]
    with torch.inference_mode(), running():
        made = tuple(networks[0].eval()(inputs[:1]).shape[1:])
    if made != (classes,):
        raise WorkbenchError(f"The model returns {made} per example, the teacher {classes} logits; both need the same.")
    teaching = _teaching(settings, networks[0], teacher, everything.inputs)

    def taught(logits: Tensor, batch: Examples) -> Tensor:
        outputs = losses.combined(
            loss,
            logits,
            batch.logits,
            batch.targets,
            batch.labelled,
            weight=settings.weight,
            temperature=settings.temperature,
        )
        return outputs if teaching is None else outputs + teaching(batch.inputs, batch.rows).mean()

    def told(logits: Tensor, batch: Examples) -> Tensor:
        return F.cross_entropy(logits, batch.targets, reduction="none").mean()

    steps = -(-settings.epochs * n // BATCH)
    beside = () if teaching is None else teaching.parameters()
    student = Learner(networks[0], taught, everything, steps, settings.seed, beside)
    control = Learner(networks[1], told, Examples(*(part[labelled] for part in everything)), steps, settings.seed)
    return _in_turns(_Pair(student, control, validation), cancel)


def _teaching(
    settings: Distillation, student: nn.Module, teacher: nn.Module | None, inputs: Tensor
) -> FeatureTeaching | None:
    if settings.features is None:
        return None
    if teacher is None:
        raise WorkbenchError("distillation.features: the teacher itself is needed, not its logits alone; pass it.")
    return FeatureTeaching(settings.features, student, teacher, inputs, settings.seed)


def _in_turns(pair: _Pair, cancel: threading.Event | None) -> Generator[Progress, None, Trained]:
    student, control = pair.student, pair.control
    between = -(-TRAINED_BETWEEN // BATCH)
    spoken = 0.0
    while student.taken < student.steps:
        due = student.taken % between == 0
        if due and not _is_set(cancel):
            pair.evaluate()
        if due or time.perf_counter() - spoken >= SECONDS_BETWEEN:
            spoken = time.perf_counter()
            yield pair.progress(student.accuracy, control.accuracy)
        if _is_set(cancel):
            best = pair.best()
            ours, theirs = student.best, control.best if control.steps else control.accuracy
            yield pair.progress(ours, theirs, done=True, cancelled=True)
            return best
        pair.step()
    last = pair.last()
    yield pair.progress(*(accuracy(each.network, *pair.validation) for each in (student, control)), done=True)
    return last


class _Pair:
    """Student and control side by side, and the clock that they share."""

    def __init__(self, student: Learner, control: Learner, validation: tuple[Tensor, Tensor]) -> None:
        inputs, targets = validation
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        self.student = student
        self.control = control
        self.validation = inputs, targets
        self._started = time.perf_counter()
        self._loss = float("nan")

    def step(self) -> None:
        """One optimizer step of each."""
        self._loss = self.student.step()
        _require_finite(self, "student", self._loss)
        if self.control.steps:
            _require_finite(self, "control", self.control.step())

    def evaluate(self) -> None:
        """Measure both on the first validation examples; one that never learns, once."""
        inputs, targets = self.validation
        for learner in (self.student, self.control):
            if learner.steps or learner.accuracy is None:
                learner.evaluate(inputs[:EVALUATED], targets[:EVALUATED])

    def progress(
        self, student: Estimate | None, control: Estimate | None, *, done: bool = False, cancelled: bool = False
    ) -> Progress:
        """Where both are now, with these accuracies."""
        seconds = time.perf_counter() - self._started
        return Progress(
            step=self.student.taken,
            steps=self.student.steps,
            seconds=seconds,
            samples_per_second=BATCH * (self.student.taken + self.control.taken) / seconds,
            student=student,
            control=control,
            loss=self._loss,
            done=done,
            cancelled=cancelled,
            note="" if self.control.steps else NO_LABELS,
        )

    def best(self) -> Trained:
        """The best weights of each so far, of a training that was stopped."""
        return self._trained(self.student.best_state, self.control.best_state, cancelled=True)

    def last(self) -> Trained:
        """The weights as they are now."""
        return self._trained(self.student.state(), self.control.state(), cancelled=False)

    def _trained(self, student: dict[str, Tensor], control: dict[str, Tensor], *, cancelled: bool) -> Trained:
        return Trained(student, control, self.student.taken, time.perf_counter() - self._started, cancelled)


def _require_finite(pair: _Pair, who: str, loss: float) -> None:
    if not math.isfinite(loss):
        student = pair.student
        raise DivergenceError(
            f"The loss of the {who} became {loss} at step {student.taken} of {student.steps}; it learns no more. "
            "Look for extreme values in the training inputs and in the teacher's logits "
            f"(the largest is {float(student.examples.logits.abs().max()):.3g}).",
            pair.best(),
        )


def _is_set(cancel: threading.Event | None) -> bool:
    return cancel is not None and cancel.is_set()


def _checked(
    settings: Distillation, inputs: Tensor, labels: Tensor, known: TeacherLogits, validation: tuple[Tensor, Tensor]
) -> int:
    """The number of classes, once all is known to belong together."""
    if settings.images > len(inputs):
        raise RecipeError(
            f"distillation.images = {settings.images}: allowed are 1 to {len(inputs)}, as many as there are."
        )
    if settings.labels > settings.images:
        raise RecipeError(
            f"distillation.labels = {settings.labels}: allowed are 0 to {settings.images}, the number of images."
        )
    known.require(inputs)
    classes = known.logits.shape[1]
    _require_targets("training", inputs, labels, classes)
    _require_targets("validation", *validation, classes)
    return classes


def _require_targets(what: str, inputs: Tensor, targets: Tensor, classes: int) -> None:
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
