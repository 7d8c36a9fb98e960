"""Trains a student from a teacher's outputs and, beside it, the same student from the targets alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from workbench.checkpoints import CheckpointFile
from workbench.distillation.augmenting import Augmentation
from workbench.distillation.checking import require_counts, require_data, require_outputs
from workbench.distillation.feature_teaching import FeatureTeaching
from workbench.distillation.goal import CLASSES, Goal
from workbench.distillation.learner import BATCH, Examples, Learner, Look
from workbench.distillation.objective import Lesson, Teaching
from workbench.distillation.pair import Pair
from workbench.distillation.progress import DivergenceError, Progress
from workbench.distillation.scaling import Scale, ScaledScore, scale_of
from workbench.distillation.students import Own, make_student
from workbench.distillation.teacher import TeacherLogits, mean_of, outputs_of, teacher_logits
from workbench.distillation.trained import Trained
from workbench.errors import WorkbenchError
from workbench.recipe import Distillation

__all__ = ["DivergenceError", "Progress", "TeacherLogits", "Trained", "distil", "teacher_logits"]

SECONDS_BETWEEN = 0.2
PAUSE_SECONDS = 0.05
"""Between two looks whether a pause is over."""
NO_LABELS = "The control has no labelled example to learn from and stays at its initial accuracy."


def distil(
    model: nn.Module,
    example: Tensor,
    settings: Distillation,
    inputs: Tensor,
    labels: Tensor,
    teacher_logits: TeacherLogits | Sequence[TeacherLogits],
    validation: tuple[Tensor, Tensor],
    cancel: threading.Event | None = None,
    teacher: nn.Module | None = None,
    own: Mapping[str, Own] | None = None,
    *,
    others: Sequence[nn.Module] = (),
    goal: Goal = CLASSES,
    pause: threading.Event | None = None,
    checkpoint: CheckpointFile | None = None,
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
        labels: Class indices, shape (n,), or numbers, shape (n, ...). Only `settings.labels` of them, chosen by the
            seed, are looked at.
        teacher_logits: Of exactly these inputs in this order; where augmented views are kept, of each view of them.
        validation: Inputs and targets that are neither trained on nor part of the test data.
        cancel: Stops before the next step.
        teacher: Whose logits these are. Needed where `settings.features` are learned, or images are augmented anew
            in every epoch.
        own: Students that are no form of the model, by name.
        others: Teachers beside it, needed where images are augmented anew in every epoch.
        goal: What the outputs are and how they are measured.
        pause: While it is set, the training holds before the next step.
        checkpoint: Where the training is kept every few seconds, and gone on from. The caller removes it.

    Yields:
        At least five times a second where a step is no longer than that, also in a pause. The last one has
        ``done=True``, also after a cancel.

    Returns:
        The last weights, with `settings.patience` the best on the validation data; after a cancel, the best until
        then. The same settings, data and thread count give the same bits, also where it was interrupted in between.

    Raises:
        RecipeError: More images or labels than there are, an unknown loss or layer, or a loss or augmentation that
            is none for these data.
        TaskError: Data that do not belong together.
        WorkbenchError: The model cannot be made smaller as asked, or its outputs are not the teacher's classes.
        DivergenceError: While training, a loss became NaN or infinite.
    """
    known = [teacher_logits] if isinstance(teacher_logits, TeacherLogits) else list(teacher_logits)
    require_counts(settings, inputs)
    n = settings.images
    augmentation = None if settings.augmentation == "none" else Augmentation(settings, inputs)
    width = require_data(settings, inputs, labels, known, validation, augmentation, goal)
    labelled = torch.zeros(n, dtype=torch.bool)
    labelled[torch.randperm(n, generator=torch.Generator().manual_seed(settings.seed))[: settings.labels]] = True
    logits = known[0].logits[:n] if len(known) == 1 else torch.stack([each.logits[:n] for each in known], 1)
    everything = Examples(inputs[:n], labels[:n], logits, labelled, torch.arange(n))
    networks = [make_student(model, example, settings, own).module for _ in range(2)]
    require_outputs(networks[0], inputs[:1], width, goal)
    scale = scale_of(networks[0], inputs, logits) if not goal.classes and settings.loss == "mse" else None
    if scale is not None:
        said = scale.standardised(logits.reshape(-1, width)).view(logits.shape)
        everything = everything._replace(targets=_scaled(scale, labels[:n]), logits=said)
        goal = replace(goal, score=ScaledScore(goal.score, scale))
        if settings.student is not None or settings.initial == "model":  # they begin with numbers of that size
            for network in networks:
                network.load_state_dict(scale.unfolded(network.state_dict()))
    features = _features(settings, networks[0], teacher, everything.inputs)
    teaching = Teaching(settings, features, classes=goal.classes)
    steps = -(-settings.epochs * n // BATCH)
    asked = () if teacher is None else (teacher, *others)
    looks = _looks(augmentation, asked, settings.temperature if goal.classes else None)
    student = Learner(networks[0], teaching, everything, steps, settings.seed, _parameters(features), looks[0])
    told = Examples(*(part[labelled] for part in everything))
    lesson = Lesson(classes=goal.classes)
    control = Learner(networks[1], lesson, told, steps, settings.seed, look=looks[1])
    held_out, targets = validation
    if held_out.dim() == 4:
        held_out = held_out.contiguous(memory_format=torch.channels_last)
    notes = () if control.steps else (NO_LABELS,)
    pair = Pair(student, control, teaching, goal, (held_out, targets), notes, settings.patience, checkpoint, scale)
    return _in_turns(pair, cancel, pause)


def _in_turns(
    pair: Pair, cancel: threading.Event | None, pause: threading.Event | None
) -> Generator[Progress, None, Trained]:
    student, control = pair.student, pair.control
    spoken = 0.0
    while not pair.over:
        due = pair.due
        if due and not _is_set(cancel):
            pair.go_on()
            pair.evaluate()
            if pair.over:
                break
        if due or time.perf_counter() - spoken >= SECONDS_BETWEEN:
            spoken = time.perf_counter()
            yield pair.progress(student.accuracy, control.accuracy)
        if _is_set(cancel):
            pair.keep()
            ours, theirs = student.best, control.best if control.steps else control.accuracy
            yield pair.progress(ours, theirs, done=True, cancelled=True)
            return pair.best()
        if _is_set(pause):
            yield from _held(pair, cancel, pause)
            continue
        pair.step()
        pair.keep_if_due()
    trained, *reached = pair.finished()
    yield pair.progress(*reached, done=True)
    return trained


def _held(pair: Pair, cancel: threading.Event | None, pause: threading.Event | None) -> Generator[Progress]:
    pair.hold()
    pair.keep()
    spoken = 0.0
    while _is_set(pause) and not _is_set(cancel):
        if time.perf_counter() - spoken >= SECONDS_BETWEEN:
            spoken = time.perf_counter()
            yield pair.progress(pair.student.accuracy, pair.control.accuracy, paused=True)
        time.sleep(PAUSE_SECONDS)


def _features(
    settings: Distillation, student: nn.Module, teacher: nn.Module | None, inputs: Tensor
) -> FeatureTeaching | None:
    if settings.features is None:
        return None
    if teacher is None:
        raise WorkbenchError("distillation.features: the teacher itself is needed, not its logits alone; pass it.")
    kept = settings.augmentation == "none"
    return FeatureTeaching(settings.features, student, teacher, inputs, settings.seed, kept=kept)


def _scaled(scale: Scale, targets: Tensor) -> Tensor:
    """Targets like the standardised outputs; where there are none, none."""
    return scale.standardised(targets) if targets.numel() else targets


def _parameters(features: FeatureTeaching | None) -> list[nn.Parameter]:
    return [] if features is None else list(features.parameters())


def _looks(
    augmentation: Augmentation | None, teachers: Sequence[nn.Module], temperature: float | None
) -> tuple[Look | None, Look | None]:
    """How student and control look at a batch: both at the same versions, the control without a teacher's outputs."""
    if augmentation is None:
        return None, None
    made = augmentation

    def kept(batch: Examples, came: Tensor, _: int) -> Examples:
        view = came % made.views
        logits = batch.logits if batch.logits.dim() == 2 else batch.logits[torch.arange(len(view)), view]
        return batch._replace(inputs=made.view(batch.inputs, batch.rows, view), logits=logits)

    def fresh(batch: Examples, _: Tensor, step: int) -> Examples:
        return batch._replace(inputs=made.fresh(batch.inputs, step))

    def taught(batch: Examples, came: Tensor, step: int) -> Examples:
        batch = fresh(batch, came, step)
        return batch._replace(logits=mean_of([outputs_of(each, batch.inputs) for each in teachers], temperature))

    if made.views:
        return kept, kept
    if not teachers:
        raise WorkbenchError("distillation.views = 0: the teacher itself is needed, not its logits alone; pass it.")
    return taught, fresh


def _is_set(event: threading.Event | None) -> bool:
    return event is not None and event.is_set()
