"""A teacher's logits, computed once and bound to the inputs that they belong to."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from workbench import statistics, tensor_files
from workbench.distillation.losses import mean_of_teachers
from workbench.errors import Cancelled, TaskError, WorkbenchError
from workbench.tracing import running

ENOUGH = 20
"""Examples that a teacher is doubted from."""


def fingerprint(inputs: Tensor) -> str:
    """SHA-256 over shape, type and values in their order, whatever the memory format; 64 hex digits."""
    digest = hashlib.sha256(f"{tuple(inputs.shape)}{inputs.dtype}".encode())
    for part in inputs.detach().cpu().split(1000):
        digest.update(part.contiguous().view(-1).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class TeacherLogits:
    """What a teacher says about each of some inputs."""

    logits: Tensor
    """Shape (n, classes), float32."""
    inputs: str
    """`fingerprint` of the n inputs, in the order of the logits."""

    def save(self, path: Path, teacher: str) -> None:
        """Write the file, whole or not at all.

        Args:
            path: Its folder need not be there.
            teacher: Key of whose logits these are.

        Raises:
            OSError: It cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        tensor_files.save(path, {"inputs": self.inputs, "teacher": teacher}, {"logits": self.logits})

    @classmethod
    def load(cls, path: Path, teacher: str) -> TeacherLogits | None:
        """What `save` wrote; None where there is no file, or a damaged one, or another teacher's."""
        try:
            about, tensors = tensor_files.load(path)
            return cls(tensors["logits"], about["inputs"]) if about["teacher"] == teacher else None
        except (OSError, ValueError, KeyError):
            return None

    def require(self, inputs: Tensor) -> None:
        """Refuse logits of other inputs, or of the same in another order, which would teach nonsense silently.

        Raises:
            TaskError: They do not belong together.
        """
        self._require_rows(inputs)
        if self.inputs != fingerprint(inputs):
            raise TaskError(
                "teacher logits: they were computed from other inputs than those to train on, or from the same in "
                "another order. Compute them again: teacher_logits(teacher, inputs)."
            )
        self._require_finite()

    def _require_rows(self, inputs: Tensor) -> None:
        if self.logits.dim() != 2 or len(self.logits) != len(inputs):
            raise TaskError(
                f"teacher logits: shape ({len(inputs)}, classes) is needed, one row per training input; "
                f"these are {tuple(self.logits.shape)}."
            )

    def _require_finite(self) -> None:
        if not torch.isfinite(self.logits).all():
            bad = int((~torch.isfinite(self.logits)).any(1).nonzero()[0])
            raise TaskError(f"teacher logits: those of input {bad} hold NaN or infinity; this teacher cannot teach.")


def teacher_logits(
    teacher: nn.Module, inputs: Tensor, batch: int = 500, cancel: threading.Event | None = None
) -> TeacherLogits:
    """What a teacher of classes says about each input; for the arguments and errors see `outputs_of`.

    Raises:
        TaskError: The logits hold NaN.
        WorkbenchError: The teacher does not return one row of logits per input.
    """
    said = outputs_of(teacher, inputs, batch, cancel)
    if said.dim() != 2:
        raise WorkbenchError(
            f"The teacher returns {tuple(said.shape)} for {len(inputs)} inputs; logits (n, classes) are needed."
        )
    return _bound(said, inputs)


def teacher_numbers(
    teacher: nn.Module, inputs: Tensor, batch: int = 500, cancel: threading.Event | None = None
) -> TeacherLogits:
    """The same for a teacher whose outputs are no classes: all numbers of an output in one row."""
    return _bound(outputs_of(teacher, inputs, batch, cancel).reshape(len(inputs), -1), inputs)


def outputs_of(teacher: nn.Module, inputs: Tensor, batch: int = 500, cancel: threading.Event | None = None) -> Tensor:
    """What a network returns for each input, float32, shape (n, ...), as a tensor that training may read.

    Args:
        teacher: Takes a batch of inputs and returns a tensor with a row for each. One in training mode is copied,
            and the copy is asked in evaluation mode.
        inputs: Shape (n, ...).
        batch: Inputs per call.
        cancel: Stops between calls.

    Raises:
        TaskError: There are no inputs.
        WorkbenchError: The teacher does not return one row per input.
        Cancelled: `cancel` was set.
    """
    if len(inputs) == 0:
        raise TaskError("teacher logits: at least one input is needed.")
    if any(module.training for module in teacher.modules()):
        teacher = copy.deepcopy(teacher).eval()
    said = []
    with torch.inference_mode():
        for part in inputs.split(batch):
            if cancel is not None and cancel.is_set():
                raise Cancelled
            if part.dim() == 4:
                part = part.contiguous(memory_format=torch.channels_last)
            with running():
                returned = teacher(part)
            if not isinstance(returned, Tensor) or not returned.dim() or len(returned) != len(part):
                shape = tuple(returned.shape) if isinstance(returned, Tensor) else type(returned).__name__
                raise WorkbenchError(f"The teacher returns {shape} for {len(part)} inputs; one row each is needed.")
            said.append(returned)
    with torch.inference_mode(False):
        return torch.cat(said).float().clone()


def doubt(logits: Tensor, targets: Tensor) -> str:
    """What is said of a teacher that is right no more often than chance; nothing of another, or of a few examples.

    Args:
        logits: What it says about examples that nothing is learned from, shape (n, classes).
        targets: What is right for them, shape (n,).
    """
    n, classes = logits.shape
    if n < ENOUGH or targets.shape != (n,):  # who trains refuses targets that are no classes
        return ""
    right = statistics.proportion(int((logits.argmax(1) == targets).sum()), n, "measured")
    if right.low > 1 / classes:
        return ""
    return (
        f"The teacher is right for {right.value:.0%} of {n:,} held-out examples (95 % interval {right.low:.0%} to "
        f"{right.high:.0%}), not distinguishably more than chance, {1 / classes:.0%}: it may have nothing to teach."
    )


def mean_of(said: Sequence[Tensor], temperature: float | None) -> Tensor:
    """One teacher out of several.

    Args:
        said: What each says about the same inputs, shape (n, classes) or (n, d).
        temperature: Of the loss, where these are logits of classes: see `mean_of_teachers`. None: numbers, whose
            mean is taken.

    Returns:
        Of logits, those with the mean of the teachers' softened probabilities, and in the mean over the classes the
        mean of theirs: probabilities leave that open, and losses that take logits as numbers look at it.
    """
    if len(said) == 1:
        return said[0]
    mean = torch.stack(list(said)).mean(0)
    if temperature is None:
        return mean
    together = mean_of_teachers(said, temperature)
    return together + (mean - together).mean(1, keepdim=True)


def _bound(said: Tensor, inputs: Tensor) -> TeacherLogits:
    known = TeacherLogits(said, fingerprint(inputs))
    known._require_rows(inputs)  # what they were computed from is not asked: from these, a moment ago
    known._require_finite()
    return known
