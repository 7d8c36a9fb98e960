"""What a teacher says to examples, and what its student makes of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from workbench.comparisons import fp32
from workbench.errors import Cancelled, RecipeError
from workbench.evaluation import Evaluation
from workbench.explaining.answers import named
from workbench.metrics import TopK
from workbench.network import Network
from workbench.quantization.quantizer import LayerSpec
from workbench.recipe import Distillation
from workbench.remembered import Remembered
from workbench.report import Estimate, Source
from workbench.statistics import proportion
from workbench.task import Task

REMEMBERED_BYTES = 8 * 2**20
LISTED = 1000
"""Examples on which student and teacher differ that a matrix names at most."""


class Softened(BaseModel):
    """Probabilities of the classes for one example, at a temperature."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    """Of the example, in the task."""
    temperature: float
    classes: tuple[str, ...]
    teacher: tuple[float, ...]
    """Of each class: of several teachers the mean, which the student learns."""
    student: tuple[float, ...] | None = None
    """None where it is not trained yet."""
    control: tuple[float, ...] | None = None
    target: int | None = None
    """The right class; None where nobody knows it."""


class Differing(BaseModel):
    """A test example to which a student answers otherwise than its teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    """In the task."""
    teacher: int
    """Place of the teacher's answer among the classes."""
    student: int
    probability: float
    """That the teacher gives its own answer, not softened."""


class AgreementMatrix(BaseModel):
    """What a student answers where its teacher answers what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """Test examples by the teacher's answer (row) and the student's (column)."""
    agreement: Estimate
    """Share of the test examples to which both answer the same."""
    differing: tuple[Differing, ...] = ()
    """Those to which they do not, at most `LISTED`, the surest of the teacher's answers first."""


class Listener:
    """Asks networks about single test examples, each question once."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._said = Remembered(REMEMBERED_BYTES)

    def softened(
        self,
        index: int,
        temperature: float,
        teachers: Sequence[Network],
        students: Mapping[str, Network],
    ) -> Softened:
        """What they say to an example.

        Args:
            index: Of the example, in the task.
            temperature: Divides the logits, above 0.
            teachers: One or more.
            students: ``student`` and ``control``, where they are there.

        Raises:
            RecipeError: There is no such example, or the task has no classes.
        """
        task = self._task
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(task):
            raise RecipeError(f"index = {index!r}: the task has the examples 0 to {len(task) - 1:,}.")
        said = [self._logits(teacher, index) for teacher in teachers]
        _require_classes(task, said[0])
        own = {who: _probabilities([self._logits(network, index)], temperature) for who, network in students.items()}
        return Softened(
            index=index,
            temperature=temperature,
            classes=_names(task, said[0]),
            teacher=tuple(_probabilities(said, temperature)[0].tolist()),
            target=None if task.targets is None else int(task.targets[index]),
            **{who: tuple(shares[0].tolist()) for who, shares in own.items()},
        )

    def _logits(self, network: Network, index: int) -> Tensor:
        """Shape (1, classes)."""
        example = self._task.inputs[torch.tensor([index])]
        return self._said.made((network.key, index), lambda: network.call(example.channels_last()))


def agreement_matrix(
    evaluation: Evaluation,
    settings: Distillation,
    teachers: Sequence[Network],
    student: tuple[Network, Mapping[str, LayerSpec]],
    cancel: threading.Event | None = None,
) -> AgreementMatrix:
    """Count both answers to every test example.

    Args:
        evaluation: The examples.
        settings: With the temperature at which several teachers agree on a mean.
        teachers: In fp32.
        student: With what is asked of its layers.
        cancel: Checked before every batch.

    Raises:
        RecipeError: The task has no classes.
        Cancelled: `cancel` was set.
    """
    network, asked = student
    counts = torch.zeros(0)
    differing: list[Differing] = []
    for index in range(len(evaluation.parts)):
        if cancel is not None and cancel.is_set():
            raise Cancelled
        said = [evaluation.outputs(teacher, fp32(teacher), index) for teacher in teachers]
        _require_classes(evaluation.task, said[0])
        wanted = _probabilities(said, settings.temperature).argmax(1)
        given = evaluation.outputs(network, asked, index).argmax(1)
        number = said[0].shape[1]
        pairs = torch.bincount(wanted * number + given, minlength=number**2).reshape(number, number)
        counts = pairs if not len(counts) else counts + pairs
        differing += _differing(evaluation.parts[index], said, wanted, given)
    source: Source = "simulated" if any(any(spec) for spec in asked.values()) else "measured"
    return AgreementMatrix(
        classes=_names(evaluation.task, said[0]),
        counts=tuple(map(tuple, counts.tolist())),
        agreement=proportion(int(counts.trace()), int(counts.sum()), source),
        differing=tuple(sorted(differing, key=lambda each: -each.probability)[:LISTED]),
    )


def _differing(places: Tensor, said: Sequence[Tensor], wanted: Tensor, given: Tensor) -> list[Differing]:
    """Those of a batch; its answers have shape (n,), as have the places of its examples in the task."""
    sure = _probabilities(said, 1.0).amax(1)
    apart = (wanted != given).nonzero().flatten()
    columns = (each[apart].tolist() for each in (places, wanted, given, sure))
    return [
        Differing(index=index, teacher=teacher, student=student, probability=probability)
        for index, teacher, student, probability in zip(*columns, strict=True)
    ]


def _probabilities(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Mean of the softened probabilities, shape (k, classes): You et al., "Learning from multiple teacher networks",
    2017, as the loss of several teachers has it."""
    return torch.stack([(each.double() / temperature).softmax(1) for each in logits]).mean(0)


def _require_classes(task: Task, outputs: Tensor) -> None:
    metric = task.metrics_for(outputs)[0]
    if outputs.dim() != 2 or not isinstance(metric, TopK):
        raise RecipeError(
            f"This task has no classes: its outputs have shape {tuple(outputs.shape[1:])} per example and are judged "
            f"by {metric.info.name}. Only answers that are one class each can be softened and counted."
        )


def _names(task: Task, outputs: Tensor) -> tuple[str, ...]:
    return tuple(named(task.classes, index) for index in range(outputs.shape[1]))
