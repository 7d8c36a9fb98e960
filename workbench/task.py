"""What a model is measured on: examples, what is right for them, and data to calibrate and train with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from workbench.errors import TaskError

CALIBRATION_EXAMPLES = 512


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Examples to learn from, read when a student is first trained: most viewers never train one."""

    size: int
    """How many examples there are."""
    read: Callable[[], tuple[Tensor, Tensor]]
    """Gives inputs, shape (size, ...), and class indices, shape (size,)."""

    @cached_property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Inputs and class indices; read once."""
        inputs, targets = self.read()
        if len(inputs) != self.size:
            raise TaskError(f"training inputs: {self.size:,} examples were announced, {len(inputs):,} came.")
        return inputs, targets


@dataclass(frozen=True, eq=False)
class Task:
    """Evaluation, calibration and training data, and a score per example.

    Make one with `Task.classification` or `Task.fidelity`.
    """

    name: str
    inputs: Tensor
    """Evaluation inputs, shape (n, ...), float32."""
    targets: Tensor | None
    """Class indices, shape (n,), int64; None where the model's own fp32 output is what counts as right."""
    calibration: Tensor
    """Inputs that set activation ranges, shape (m, ...); never taken from the evaluation part."""
    training: TrainingData | None = None
    """For distillation, or None."""
    classes: tuple[str, ...] = ()
    description: str = field(default="", compare=False)
    noun: str = "examples"
    """What one example is called on the page: ``images``."""

    def __post_init__(self) -> None:
        _check_inputs("inputs", self.inputs, None)
        _check_inputs("calibration", self.calibration, self.inputs)
        _check_targets("targets", self.targets, self.inputs, len(self.classes))

    @classmethod
    def classification(
        cls,
        inputs: Tensor,
        targets: Tensor,
        *,
        calibration: Tensor,
        training: tuple[Tensor, Tensor] | TrainingData | None = None,
        classes: Sequence[str] | int = (),
        name: str = "classification",
        description: str = "",
        noun: str = "examples",
    ) -> Task:
        """Top-1 accuracy over labelled examples.

        Args:
            inputs: Shape (n, ...).
            targets: Class indices, shape (n,).
            calibration: Shape (m, ...), like inputs but not among them; the first 512 are used.
            training: Inputs and class indices for distillation, or `TrainingData` that reads them later.
            classes: Names of the classes, or how many there are.
            name: A short name.
            description: Half a sentence for the page.
            noun: What an example is called, in the plural.

        Raises:
            TaskError: Empty, NaN-holding or wrongly shaped data, or targets outside the classes.
        """
        names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
        calibration = calibration[:CALIBRATION_EXAMPLES]
        if isinstance(training, tuple):
            given = training
            _check_inputs("training inputs", given[0], inputs)
            _check_targets("training targets", given[1], given[0], len(names))
            training = TrainingData(len(given[0]), lambda: given)
        return cls(name, inputs, targets, calibration, training, names, description, noun)

    @classmethod
    def fidelity(cls, inputs: Tensor, *, calibration: Tensor | None = None, name: str = "fidelity") -> Task:
        """Top-1 agreement with the model's own fp32 output, for a model without labels.

        Args:
            inputs: Shape (n, ...).
            calibration: Inputs that set activation ranges. Without them a tenth of `inputs`, at most 512,
                is set aside for it and not evaluated.
            name: A short name.

        Raises:
            TaskError: Empty or NaN-holding data.
        """
        if calibration is None:
            _check_inputs("inputs", inputs, None)
            aside = min(CALIBRATION_EXAMPLES, max(1, len(inputs) // 10))
            inputs, calibration = (inputs[:-aside], inputs[-aside:]) if len(inputs) > 1 else (inputs, inputs)
        return cls(name, inputs, None, calibration, description=f"agreement with fp32 on {len(inputs):,} inputs")

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {len(self):,} {self.noun} of shape {tuple(self.inputs.shape[1:])})"

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The score per example.

        Args:
            outputs: Logits, shape (k, classes).
            targets: Class indices, shape (k,).

        Returns:
            Booleans of shape (k,).
        """
        return outputs.argmax(1) == targets

    @cached_property
    def key(self) -> str:
        """SHA-256 over all that a measurement depends on, 64 hex digits."""
        digest = hashlib.sha256(self.name.encode())
        for tensor in (self.inputs, self.targets, self.calibration):
            _update(digest, tensor)
        return digest.hexdigest()

    @cached_property
    def training_key(self) -> str:
        """SHA-256 over the training data, 64 hex digits."""
        digest = hashlib.sha256()
        for tensor in self.training.tensors if self.training else ():
            _update(digest, tensor)
        return digest.hexdigest()


def _update(digest: hashlib._Hash, tensor: Tensor | None) -> None:
    if tensor is not None:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)


def _check_inputs(what: str, tensor: Tensor, like: Tensor | None) -> None:
    if not isinstance(tensor, Tensor):
        raise TaskError(f"{what}: a torch.Tensor is needed, this is a {type(tensor).__name__}.")
    if tensor.dim() < 2 or len(tensor) == 0:
        raise TaskError(
            f"{what}: at least one example is needed, as shape (n, ...); this has shape {tuple(tensor.shape)}."
        )
    if like is not None and tensor.shape[1:] != like.shape[1:]:
        raise TaskError(
            f"{what}: examples have shape {tuple(tensor.shape[1:])}, "
            f"but those of the evaluation have {tuple(like.shape[1:])}; both go into the same model."
        )
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).flatten(1).any(1).nonzero()[0])
        raise TaskError(f"{what}: example {bad} holds NaN or infinity; leave it out or fill it in.")


def _check_targets(what: str, targets: Tensor | None, inputs: Tensor, classes: int) -> None:
    if targets is None:
        return
    if not isinstance(targets, Tensor) or targets.shape != inputs.shape[:1] or targets.is_floating_point():
        shape = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise TaskError(
            f"{what}: one whole class index per example is needed, shape ({len(inputs)},); this is {shape}."
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or (classes and high >= classes):
        wrong = low if low < 0 else high
        allowed = f"with {classes} classes they go from 0 to {classes - 1}" if classes else "they start at 0"
        raise TaskError(f"{what}: label {wrong} is out of range; {allowed}.")
