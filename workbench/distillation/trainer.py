"""Trains a student and its control side by side.

Both start from the same weights and take the same number of steps. The student sees all images,
through the teacher's cached outputs; the control sees those with a label, as often as needed.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.distillation import losses
from workbench.distillation.students import scale_width
from workbench.errors import Cancelled, RecipeError, TaskError, WorkbenchError
from workbench.recipe import Distillation
from workbench.report import Estimate
from workbench.statistics import proportion

BATCH = 64
LEARNING_RATE = 4e-3
EVALUATIONS = 24
"""Points on each learning curve. They come at fixed steps, so that a run is the same every time."""
SECONDS_BETWEEN = 0.2


@dataclass(frozen=True)
class Progress:
    """Where a training stands."""

    step: int
    steps: int
    """Of each of the two networks."""
    seconds: float
    """Since the start."""
    samples_per_second: float
    """Images that both networks have learned from, per second."""
    student: Estimate | None
    """Accuracy on held-out training images; None before the first evaluation."""
    control: Estimate | None
    loss: float
    done: bool = False
    cancelled: bool = False


@dataclass(frozen=True, eq=False)
class TeacherLogits:
    """A teacher's outputs, and which inputs they belong to."""

    logits: Tensor
    """Shape (n, classes)."""
    inputs_key: str
    """SHA-256 over the inputs in their order."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training leaves."""

    student_state: dict[str, Tensor]
    control_state: dict[str, Tensor]
    steps: int
    seconds: float
    cancelled: bool = False

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all.

        Raises:
            OSError: It cannot be written; what was there before is left.
        """
        tensors = {f"student.{name}": t.contiguous() for name, t in self.student_state.items()}
        tensors |= {f"control.{name}": t.contiguous() for name, t in self.control_state.items()}
        about = json.dumps({"steps": self.steps, "seconds": self.seconds, "sha256": _tensors_key(tensors)})
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(safetensors.torch.save(tensors, {"trained": about}))
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Trained:
        """Read what `save` wrote.

        Raises:
            OSError: There is no such file, or it cannot be read.
            WorkbenchError: Truncated or altered.
        """
        if not path.exists():
            raise FileNotFoundError(path)
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["trained"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            if _tensors_key(tensors) != about["sha256"]:
                raise ValueError("its checksum is wrong")
            states: dict[str, dict[str, Tensor]] = {"student": {}, "control": {}}
            for name, tensor in tensors.items():
                who, _, rest = name.partition(".")
                states[who][rest] = tensor
            return cls(states["student"], states["control"], int(about["steps"]), float(about["seconds"]))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise WorkbenchError(f"The student in {path.name} cannot be used ({error}); train it again.") from error


def inputs_key(inputs: Tensor) -> str:
    """SHA-256 over inputs in their order, 64 hex digits."""
    return hashlib.sha256(inputs.detach().cpu().contiguous().numpy().data).hexdigest()


def _tensors_key(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().data)
    return digest.hexdigest()


@torch.inference_mode()
def teacher_logits(
    teacher: nn.Module, inputs: Tensor, batch: int = 100, cancel: threading.Event | None = None
) -> TeacherLogits:
    """Run a teacher once over its lesson.

    Args:
        teacher: In evaluation mode.
        inputs: Shape (n, ...).
        batch: Inputs at a time.
        cancel: Checked before every batch.

    Raises:
        Cancelled: `cancel` was set.
        WorkbenchError: The teacher's outputs are not finite.
    """
    rows = []
    for part in inputs.split(batch):
        if cancel is not None and cancel.is_set():
            raise Cancelled
        rows.append(teacher(part))
    logits = torch.cat(rows)
    if not torch.isfinite(logits).all():
        raise WorkbenchError("The teacher's outputs hold NaN or infinity; it cannot teach.")
    return TeacherLogits(logits, inputs_key(inputs))


class _Learner:
    """One of the two networks with its optimizer."""

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, LEARNING_RATE, total_steps=max(steps, 2))
        self.best: tuple[float, dict[str, Tensor]] = (-1.0, self.state())

    def state(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def learn(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    @torch.no_grad()
    def evaluate(self, inputs: Tensor, labels: Tensor) -> Estimate:
        self.model.eval()
        hits = sum(
            int((self.model(x).argmax(1) == y).sum()) for x, y in zip(inputs.split(200), labels.split(200), strict=True)
        )
        self.model.train()
        reached = proportion(hits, len(labels), "measured")
        if reached.value > self.best[0]:
            self.best = (reached.value, self.state())
        return reached


def distil(
    model: nn.Module,
    example: Tensor,
    settings: Distillation,
    inputs: Tensor,
    labels: Tensor,
    taught: TeacherLogits,
    validation: tuple[Tensor, Tensor],
    cancel: threading.Event | None = None,
) -> Generator[Progress, None, Trained]:
    """Train a student and its control.

    A training that ends keeps the last weights of both; one that is cancelled, the best so far on the
    validation examples. AdamW, one cycle, batch 64.

    Args:
        model: Whose form the student takes; left as it is.
        example: A batch of inputs.
        settings: The recipe's part.
        inputs: Shape (n, ...), n = ``settings.images``.
        labels: Class indices, shape (n,); ``settings.labels`` of them, chosen by the seed, are used.
        taught: The teacher's outputs for exactly these inputs.
        validation: Inputs and class indices for the curves.
        cancel: Checked before every step.

    Yields:
        Several times a second. The last one has ``done=True``.

    Returns:
        Both networks' weights.

    Raises:
        TaskError: `taught` belongs to other inputs, or to these in another order.
        RecipeError: More labels than images.
        WorkbenchError: The loss is no longer finite, or no student can be derived.
    """
    if taught.inputs_key != inputs_key(inputs) or len(taught.logits) != len(inputs):
        raise TaskError("The teacher's outputs belong to other inputs, or to these in another order; make them again.")
    if settings.labels > len(inputs):
        raise RecipeError(f"distillation.labels = {settings.labels}: there are {len(inputs):,} images.")
    loss = losses.get(settings.loss)
    draw = torch.Generator().manual_seed(settings.seed)
    labelled = torch.zeros(len(inputs), dtype=torch.bool)
    labelled[torch.randperm(len(inputs), generator=draw)[: settings.labels]] = True
    own = labelled.nonzero()[:, 0]
    per_epoch = math.ceil(len(inputs) / BATCH)
    steps = settings.epochs * per_epoch
    start = scale_width(model, example, settings.width, settings.seed).train()
    if inputs.dim() == 4:
        start = start.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    student, control = (_Learner(copy.deepcopy(start), steps) for _ in range(2))

    began = spoken = time.perf_counter()
    marks = {max(1, round(steps * index / EVALUATIONS)) for index in range(1, EVALUATIONS + 1)}
    reached: tuple[Estimate | None, Estimate | None] = (None, None)
    last, step, seen, stopped = math.nan, 0, 0, False

    def progress(done: bool = False) -> Progress:
        seconds = time.perf_counter() - began
        return Progress(step, steps, seconds, seen / max(seconds, 1e-9), *reached, last, done, done and stopped)

    order = torch.empty(0, dtype=torch.int64)
    rehearsed = torch.empty(0, dtype=torch.int64)
    while step < steps:
        if cancel is not None and cancel.is_set():
            stopped = True
            break
        if step % per_epoch == 0:
            order = torch.randperm(len(inputs), generator=draw)
        batch = order[step % per_epoch * BATCH :][:BATCH]
        while len(own) and len(rehearsed) < len(batch):
            rehearsed = torch.cat([rehearsed, own[torch.randperm(len(own), generator=draw)]])
        # a model's own random layers draw from the global state: give each step one, and the caller its own back
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed * 1_000_003 + step)
            outputs = student.model(inputs[batch])
            wanted = losses.combined(
                loss,
                outputs,
                taught.logits[batch],
                labels[batch],
                labelled[batch],
                settings.weight,
                settings.temperature,
            )
            last = float(wanted.detach())
            if not math.isfinite(last):
                raise WorkbenchError(
                    f"The loss became {last} at step {step + 1} of {steps}; nothing is kept. "
                    "Try a lower temperature or another loss."
                )
            student.learn(wanted)
            seen += len(batch)
            if len(own):
                lesson, rehearsed = rehearsed[: len(batch)], rehearsed[len(batch) :]
                control.learn(F.cross_entropy(control.model(inputs[lesson]), labels[lesson]))
                seen += len(lesson)
        step += 1
        now = time.perf_counter()
        if step in marks:
            reached = (student.evaluate(*validation), control.evaluate(*validation))
        if (step in marks or now - spoken > SECONDS_BETWEEN) and step < steps:
            spoken = now
            yield progress()
    states = (student.best[1], control.best[1]) if stopped else (student.state(), control.state())
    yield progress(done=True)
    return Trained(*states, step, time.perf_counter() - began, stopped)
