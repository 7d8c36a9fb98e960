"""A teacher's logits, computed once and bound to the inputs that they belong to."""

from __future__ import annotations

import copy
import hashlib
import threading
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.errors import Cancelled, TaskError, WorkbenchError
from workbench.tracing import running


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

    def require(self, inputs: Tensor) -> None:
        """Refuse logits of other inputs, or of the same in another order, which would teach nonsense silently.

        Raises:
            TaskError: They do not belong together.
        """
        if self.logits.dim() != 2 or len(self.logits) != len(inputs):
            raise TaskError(
                f"teacher logits: shape ({len(inputs)}, classes) is needed, one row per training input; "
                f"these are {tuple(self.logits.shape)}."
            )
        if self.inputs != fingerprint(inputs):
            raise TaskError(
                "teacher logits: they were computed from other inputs than those to train on, or from the same in "
                "another order. Compute them again: teacher_logits(teacher, inputs)."
            )
        if not torch.isfinite(self.logits).all():
            bad = int((~torch.isfinite(self.logits)).any(1).nonzero()[0])
            raise TaskError(f"teacher logits: those of input {bad} hold NaN or infinity; this teacher cannot teach.")


def teacher_logits(
    teacher: nn.Module, inputs: Tensor, batch: int = 500, cancel: threading.Event | None = None
) -> TeacherLogits:
    """What a teacher says about each input.

    Args:
        teacher: Takes a batch of inputs and returns logits, shape (k, classes). One in training mode is copied,
            and the copy is asked in evaluation mode.
        inputs: Shape (n, ...).
        batch: Inputs per call.
        cancel: Stops between calls.

    Raises:
        TaskError: There are no inputs, or they hold NaN.
        WorkbenchError: The teacher does not return one row of logits per input.
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
                logits = teacher(part)
            if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(part):
                shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise WorkbenchError(
                    f"The teacher returns {shape} for {len(part)} inputs; logits (n, classes) are needed."
                )
            said.append(logits)
    with torch.inference_mode(False):  # a plain tensor, which training may read
        known = TeacherLogits(torch.cat(said).float().clone(), fingerprint(inputs))
        known.require(inputs)
    return known
