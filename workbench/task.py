"""What a model is measured on: examples, what is right for them, and data to calibrate and train with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from workbench.errors import TaskError
from workbench.inputs import Inputs, update
from workbench.metrics import (
    Cosine,
    ExactMatch,
    MeanAbsoluteError,
    MeanIoU,
    Metric,
    MultiLabelF1,
    OwnScore,
    Recall,
    RootMeanSquaredError,
    RSquared,
    Sqnr,
    TokenAccuracy,
    TopK,
)
from workbench.outputs import Output
from workbench.report import MetricInfo
from workbench.sources import Examples, examples

CALIBRATION_EXAMPLES = 512
CALIBRATION_SHARE = 10
"""Where no calibration data is given, one example in as many is set aside for it and not evaluated."""


HELD_OUT = 2000
"""Training examples at most, and a tenth of them at most, that nothing is learned from."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Examples to learn from, read when a student is first trained: most viewers never train one."""

    size: int
    """How many examples there are."""
    read: Callable[[], tuple[Tensor, Tensor]]
    """Gives inputs, shape (size, ...), and what is right for them: class indices, shape (size,), or numbers, shape
    (size, ...); of shape (size, 0) where nothing is."""

    @property
    def held_out(self) -> int:
        """How many of the last examples nothing is learned from: curves and the choice of the best weights rest on
        them, never on test examples."""
        return min(HELD_OUT, -(-self.size // 10))

    @cached_property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets; read once."""
        inputs, targets = self.read()
        if len(inputs) != self.size:
            raise TaskError(f"training inputs: {self.size:,} examples were announced, {len(inputs):,} came.")
        return inputs, targets


@dataclass(frozen=True, eq=False)
class Task:
    """Evaluation, calibration and training data, and a score per example.

    Made by `classification`, `multi_label`, `regression`, `token_classification`, `embedding`,
    `segmentation`, `fidelity` or `scored`. All of them take as `inputs` a tensor or array, a tuple of
    arguments, a dict of named arguments, a `Dataset`, a `DataLoader`, an iterable of dicts, or what
    `workbench.sources.folder` and `table` return; targets that come with the data need not be given.
    """

    name: str
    inputs: Inputs
    """Evaluation inputs of n examples."""
    targets: Tensor | None
    """What is right, shape (n, ...); None where the model's own fp32 output is."""
    calibration: Inputs
    """Inputs that set activation ranges; never taken from what is evaluated."""
    metrics: tuple[Metric, ...] = (TopK(),)
    """The first one is what a recipe is judged by. Empty: chosen by the form of the output."""
    training: TrainingData | None = None
    """For distillation, or None."""
    classes: tuple[str, ...] = ()
    description: str = field(default="", compare=False)
    noun: str = "examples"
    """What one example is called on the page: ``images``."""
    output: Output = None
    """Which part of the model's output counts; None: the logits, or the first tensor."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a reader of the numbers has to know of the data."""

    def __post_init__(self) -> None:
        _check_inputs("inputs", self.inputs, None)
        _check_inputs("calibration", self.calibration, self.inputs)
        for name in ("inputs", "calibration"):
            object.__setattr__(self, name, getattr(self, name).single())

    @classmethod
    def classification(
        cls,
        inputs: Any,
        targets: Any = None,
        *,
        calibration: Any = None,
        top_k: Sequence[int] = (),
        training: tuple[Tensor, Tensor] | TrainingData | None = None,
        classes: Sequence[str] | int = (),
        name: str = "classification",
        description: str = "",
        noun: str = "examples",
        output: Output = None,
    ) -> Task:
        """Top-1 accuracy over labelled examples.

        Args:
            inputs: See `Task`.
            targets: Class indices, shape (n,).
            calibration: Inputs like `inputs`, but not among them; the first 512 are used. Without them a
                tenth of `inputs` is set aside for it and not evaluated.
            top_k: Further accuracies to report, such as ``(5,)``.
            training: Inputs and class indices for distillation, or `TrainingData` that reads them later.
            classes: Names of the classes, or how many there are.
            name: A short name.
            description: Half a sentence for the page.
            noun: What an example is called, in the plural.
            output: Which part of the model's output holds the logits.

        Raises:
            TaskError: Empty, NaN-holding or wrongly shaped data, targets outside the classes, or of one class only.
        """
        data = examples(inputs, targets)
        names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes) or data.classes
        _check_classes("targets", data.targets, data.inputs, len(names))
        if isinstance(training, tuple):
            given = training
            _check_inputs("training inputs", Inputs.of(given[0]), data.inputs)
            _check_classes("training targets", given[1], Inputs.of(given[0]), len(names))
            training = TrainingData(len(given[0]), lambda: given)
        metrics = (TopK(), *(TopK(k) for k in top_k))
        task = _task(cls, data, calibration, metrics, name, description, noun, output, classes=names, training=training)
        if len(task) > 1 and len(torch.unique(task.targets)) == 1:
            raise TaskError(
                f"targets: all {len(task):,} examples have class {int(task.targets[0])}; "  # type: ignore[index]
                "accuracy would say nothing about the others. Shuffle before a part is taken."
            )
        return task

    @classmethod
    def multi_label(
        cls,
        inputs: Any,
        targets: Any = None,
        *,
        calibration: Any = None,
        classes: Sequence[str] = (),
        name: str = "multi-label",
        description: str = "",
        noun: str = "examples",
        output: Output = None,
    ) -> Task:
        """F1 over labels that can hold together; a logit above 0 predicts one.

        Args:
            inputs: See `Task`.
            targets: 0 or 1 (or booleans), shape (n, labels).
            calibration: As in `classification`.
            classes: As in `classification`.
            name: As in `classification`.
            description: As in `classification`.
            noun: As in `classification`.
            output: As in `classification`.

        Raises:
            TaskError: Empty, NaN-holding or wrongly shaped data.
        """
        data = examples(inputs, targets)
        _check_targets(data, "one 0 or 1 per label, shape (n, labels)", lambda t: t.dim() == 2)
        given = data.targets.float()  # type: ignore[union-attr]
        if not bool(((given == 0) | (given == 1)).all()):
            raise TaskError("targets: labels are 0 or 1; there are other values among them.")
        metrics = (MultiLabelF1(), ExactMatch())
        return _task(cls, data, calibration, metrics, name, description, noun, output, classes=tuple(classes))

    @classmethod
    def regression(
        cls,
        inputs: Any,
        targets: Any = None,
        *,
        calibration: Any = None,
        training: tuple[Tensor, Tensor] | TrainingData | None = None,
        unit: str = "",
        name: str = "regression",
        description: str = "",
        noun: str = "examples",
        output: Output = None,
    ) -> Task:
        """Mean absolute error, with root mean squared error and R² beside it.

        Args:
            inputs: See `Task`.
            targets: Numbers, shape (n,) or (n, outputs).
            unit: Of the targets, for the page.
            calibration: As in `classification`.
            training: Inputs and numbers for distillation, or `TrainingData` that reads them later.
            name: As in `classification`.
            description: As in `classification`.
            noun: As in `classification`.
            output: As in `classification`.

        Raises:
            TaskError: Empty, NaN-holding or wrongly shaped data.
        """
        data = examples(inputs, targets)
        _check_targets(data, "one number or more per example", lambda t: t.dim() >= 1)
        data = data.with_targets(data.targets.float())  # type: ignore[union-attr]
        if isinstance(training, tuple):
            training = _numbers_to_learn(training, data)
        metrics = (MeanAbsoluteError(unit), RootMeanSquaredError(unit), RSquared())
        return _task(cls, data, calibration, metrics, name, description, noun, output, training=training)

    @classmethod
    def token_classification(
        cls,
        inputs: Any,
        targets: Any = None,
        *,
        calibration: Any = None,
        ignored: int = -100,
        classes: Sequence[str] = (),
        name: str = "token classification",
        description: str = "",
        noun: str = "examples",
        output: Output = None,
    ) -> Task:
        """Share of tokens with the right class; intervals are over examples, whose tokens hang together.

        Args:
            inputs: See `Task`.
            targets: Class indices, shape (n, tokens).
            ignored: The target of tokens that do not count.
            calibration: As in `classification`.
            classes: As in `classification`.
            name: As in `classification`.
            description: As in `classification`.
            noun: As in `classification`.
            output: As in `classification`.

        Raises:
            TaskError: Empty, NaN-holding or wrongly shaped data.
        """
        data = examples(inputs, targets)
        _check_targets(data, "one class index per token, shape (n, tokens)", lambda t: t.dim() == 2 and _whole(t))
        metrics = (TokenAccuracy(ignored),)
        return _task(cls, data, calibration, metrics, name, description, noun, output, classes=tuple(classes))

    @classmethod
    def segmentation(
        cls,
        inputs: Any,
        targets: Any = None,
        *,
        classes: Sequence[str] | int,
        ignored: int = 255,
        calibration: Any = None,
        name: str = "segmentation",
        description: str = "",
        noun: str = "images",
        output: Output = None,
    ) -> Task:
        """Mean intersection over union.

        Args:
            inputs: See `Task`.
            targets: Class indices, shape (n, H, W).
            classes: Names of the classes, or how many there are.
            ignored: The target of pixels that do not count.
            calibration: As in `classification`.
            name: As in `classification`.
            description: As in `classification`.
            noun: As in `classification`.
            output: As in `classification`.

        Raises:
            TaskError: Empty, NaN-holding or wrongly shaped data.
        """
        names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
        data = examples(inputs, targets)
        _check_targets(data, "one class index per pixel, shape (n, H, W)", lambda t: t.dim() == 3 and _whole(t))
        counted = data.targets[data.targets != ignored]  # type: ignore[index]
        if not len(counted) or int(counted.min()) < 0 or int(counted.max()) >= len(names):
            raise TaskError(
                f"targets: with {len(names)} classes they go from 0 to {len(names) - 1}, and {ignored} does not count; "
                f"there are {sorted(torch.unique(data.targets).tolist())[-5:]} among them."
            )
        metrics = (MeanIoU(len(names), ignored),)
        return _task(cls, data, calibration, metrics, name, description, noun, output, classes=names)

    @classmethod
    def embedding(
        cls,
        inputs: Any,
        *,
        reference: Tensor | None = None,
        queries: Sequence[int] = (),
        documents: Sequence[int] = (),
        relevant: Sequence[int] = (),
        recall_at: Sequence[int] = (1,),
        calibration: Any = None,
        training: Tensor | TrainingData | None = None,
        name: str = "embedding",
        description: str = "",
        noun: str = "examples",
        output: Output = None,
    ) -> Task:
        """Cosine between each vector and the same model's in fp32, and recall of a search where one is given.

        Args:
            inputs: See `Task`.
            reference: Vectors to be near to, shape (n, d), instead of the model's own.
            queries: Which examples ask.
            documents: Which examples are searched.
            relevant: For each query, the example among `documents` that should be found.
            recall_at: How many of the nearest documents count as found.
            calibration: As in `classification`.
            training: Inputs for distillation, or `TrainingData` that reads them later.
            name: As in `classification`.
            description: As in `classification`.
            noun: As in `classification`.
            output: As in `classification`.

        Raises:
            TaskError: Empty, NaN-holding or wrongly shaped data; a query or document that is not there.
        """
        given = examples(inputs, reference)
        data = given if reference is not None else given.with_targets(None)
        metrics: list[Metric] = [Cosine()]
        if len(queries):
            if calibration is None:
                raise TaskError(
                    "embedding: a search needs `calibration` inputs of its own: no document can be set aside."
                )
            place = {int(document): index for index, document in enumerate(documents)}
            outside = [i for i in (*queries, *documents) if not 0 <= int(i) < len(data.inputs)]
            lost = [i for i in relevant if int(i) not in place]
            if outside or lost or len(relevant) != len(queries):
                raise TaskError(
                    f"embedding: every query needs one relevant example among the documents, and indices go from 0 "
                    f"to {len(data.inputs) - 1}; wrong: {(outside or lost or [len(relevant)])[:5]}."
                )
            truth = torch.tensor([place[int(i)] for i in relevant])
            spots = torch.tensor(queries), torch.tensor(documents)
            metrics += [Recall(*spots, truth, k) for k in recall_at]
        if isinstance(training, Tensor):
            inputs = training
            _check_inputs("training inputs", Inputs.of(inputs), data.inputs)
            training = TrainingData(len(inputs), lambda: (inputs, inputs.new_empty(len(inputs), 0)))
        return _task(cls, data, calibration, tuple(metrics), name, description, noun, output, training=training)

    @classmethod
    def fidelity(
        cls,
        inputs: Any,
        *,
        calibration: Any = None,
        name: str = "fidelity",
        noun: str = "examples",
        output: Output = None,
    ) -> Task:
        """Agreement with the model's own fp32 output, for a model without labels.

        Outputs of shape (k, classes) are compared by their top-1 answer, others by cosine; the signal to
        quantization noise is reported beside it.

        Args:
            inputs: See `Task`; targets that come with the data are not used.
            calibration: As in `classification`.
            name: As in `classification`.
            noun: As in `classification`.
            output: As in `classification`.

        Raises:
            TaskError: Empty or NaN-holding data.
        """
        data = examples(inputs).with_targets(None)
        task = _task(cls, data, calibration, (), name, "", noun, output)
        object.__setattr__(task, "description", f"agreement with fp32 on {len(task):,} {noun}")
        return task

    @classmethod
    def scored(
        cls,
        inputs: Any,
        targets: Any = None,
        *,
        score: Callable[[Tensor, Tensor], Tensor],
        metric: str = "score",
        unit: str = "",
        share: bool = False,
        higher_is_better: bool = True,
        calibration: Any = None,
        name: str = "own score",
        description: str = "",
        noun: str = "examples",
        output: Output = None,
    ) -> Task:
        """A score of your own.

        Args:
            inputs: See `Task`.
            targets: Shape (n, ...); without them the model's own fp32 output is what is passed.
            score: Takes a batch's outputs and targets, returns one number per example, shape (k,).
            metric: What the score is called; part of what a report is kept under, so name another one differently.
            unit: Of the score.
            share: Whether it is a fraction that people read in percent.
            higher_is_better: False for errors.
            calibration: As in `classification`.
            name: As in `classification`.
            description: As in `classification`.
            noun: As in `classification`.
            output: As in `classification`.

        Raises:
            TaskError: Empty, NaN-holding or wrongly shaped data.
        """
        data = examples(inputs, targets)
        info = MetricInfo(name=metric, unit=unit, share=share, higher_is_better=higher_is_better)
        return _task(cls, data, calibration, (OwnScore(score, info),), name, description, noun, output)

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {len(self):,} {self.noun}: {self.inputs!r})"

    def metrics_for(self, outputs: Tensor) -> tuple[Metric, ...]:
        """The task's metrics, or for outputs of this form what says most about their fidelity."""
        if self.metrics:
            return self.metrics
        if outputs.dim() == 2 and outputs.shape[1] > 1:
            return TopK(noun="agreement"), Cosine(), Sqnr()
        return Cosine(), Sqnr()

    @cached_property
    def key(self) -> str:
        """SHA-256 over all that a measurement depends on, 64 hex digits."""
        output = getattr(self.output, "__qualname__", repr(self.output))
        digest = hashlib.sha256(f"{self.name} {output}".encode())
        for metric in self.metrics:
            metric.update(digest)
        self.inputs.update(digest)
        if self.targets is not None:
            update(digest, self.targets)
        self.calibration.update(digest)
        return digest.hexdigest()

    @cached_property
    def training_key(self) -> str:
        """SHA-256 over the training data, 64 hex digits."""
        digest = hashlib.sha256()
        for tensor in self.training.tensors if self.training else ():
            update(digest, tensor)
        return digest.hexdigest()


def _task(
    cls: type[Task],
    data: Examples,
    calibration: Any,
    metrics: tuple[Metric, ...],
    name: str,
    description: str,
    noun: str,
    output: Output,
    **others: Any,
) -> Task:
    inputs, targets = data.inputs, data.targets
    _check_inputs("inputs", inputs, None)
    if targets is not None:
        if len(targets) != len(inputs):
            raise TaskError(f"targets: one per example is needed; there are {len(targets):,} for {len(inputs):,}.")
        _check_finite("targets", targets)
    if calibration is not None:
        calibrated = examples(calibration, limit=CALIBRATION_EXAMPLES, what="calibration").inputs
    elif len(inputs) == 1:
        calibrated = inputs
    else:
        aside = min(CALIBRATION_EXAMPLES, max(1, len(inputs) // CALIBRATION_SHARE))
        # at random: files are often sorted by class, and their end would be one class
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
        kept = order[aside:].sort().values
        inputs, calibrated = inputs[kept], inputs[order[:aside]]
        targets = None if targets is None else targets[kept]
    return cls(
        name=name,
        inputs=inputs,
        targets=targets,
        calibration=calibrated,
        metrics=metrics,
        description=description,
        noun=noun,
        output=output,
        notes=data.notes,
        **others,
    )


def _numbers_to_learn(given: tuple[Tensor, Tensor], data: Examples) -> TrainingData:
    inputs, targets = given[0], given[1].float()
    _check_inputs("training inputs", Inputs.of(inputs), data.inputs)
    if len(targets) != len(inputs) or targets.shape[1:] != data.targets.shape[1:]:  # type: ignore[union-attr]
        raise TaskError(
            f"training targets: {tuple(data.targets.shape[1:])} for each of {len(inputs):,} "  # type: ignore[union-attr]
            f"examples are needed, as in the evaluation; these have shape {tuple(targets.shape)}."
        )
    _check_finite("training targets", targets)
    return TrainingData(len(inputs), lambda: (inputs, targets))


def _check_inputs(what: str, inputs: Inputs, like: Inputs | None) -> None:
    if len(inputs) == 0:
        raise TaskError(f"{what}: at least one example is needed; there is none.")
    if len(inputs.columns) == 1 and any(tensor.dim() < (2 if inputs.uniform else 1) for _, tensor in inputs.rows()):
        shape = tuple(next(inputs.rows())[1].shape)
        raise TaskError(f"{what}: at least one example is needed, as shape (n, ...); this has shape {shape}.")
    if like is not None and list(inputs.columns) != list(like.columns):
        raise TaskError(
            f"{what}: its arguments are {', '.join(inputs.columns)}, "
            f"those of the evaluation {', '.join(like.columns)}; "
            "both go into the same model."
        )
    for name, column in inputs.columns.items():
        other = None if like is None else like.columns[name]
        if isinstance(column, Tensor) and isinstance(other, Tensor) and column.dim() != other.dim():
            raise _unlike(what, column, other)
        # padded token sequences may be longer or shorter, real-valued examples may not
        stacked = isinstance(column, Tensor) and isinstance(other, Tensor) and column.is_floating_point()
        if stacked and column.shape[1:] != other.shape[1:]:  # type: ignore[union-attr]
            raise _unlike(what, column, other)  # type: ignore[arg-type]
        _check_finite(what, column)


def _unlike(what: str, column: Tensor, other: Tensor) -> TaskError:
    return TaskError(
        f"{what}: examples have shape {tuple(column.shape[1:])}, "
        f"but those of the evaluation have {tuple(other.shape[1:])}; both go into the same model."
    )


def _check_finite(what: str, column: Tensor | tuple[Tensor, ...]) -> None:
    stacked = (column,) if isinstance(column, Tensor) else column
    for place, tensor in enumerate(stacked):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            inside = (~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1).nonzero()[0]
            bad = int(inside) if isinstance(column, Tensor) else place
            raise TaskError(f"{what}: example {bad} holds NaN or infinity; leave it out or fill it in.")


def _check_targets(data: Examples, needed: str, fits: Callable[[Tensor], bool]) -> None:
    targets = data.targets
    if targets is None:
        raise TaskError(f"targets: {needed} is needed; there are none. Pass `targets`, or use Task.fidelity.")
    if len(targets) != len(data.inputs) or not fits(targets):
        raise TaskError(
            f"targets: {needed} is needed for {len(data.inputs):,} examples; these have shape {tuple(targets.shape)}."
        )
    if targets.is_floating_point() and not torch.isfinite(targets).all():
        bad = int((~torch.isfinite(targets)).reshape(len(targets), -1).any(1).nonzero()[0])
        raise TaskError(f"targets: example {bad} holds NaN or infinity; leave it out or fill it in.")


def _whole(targets: Tensor) -> bool:
    return not targets.is_floating_point()


def _check_classes(what: str, targets: Any, inputs: Inputs, classes: int) -> None:
    if not isinstance(targets, Tensor) or targets.shape != (len(inputs),) or targets.is_floating_point():
        shape = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise TaskError(
            f"{what}: one whole class index per example is needed, shape ({len(inputs)},); this is {shape}."
        )
    if not len(targets):
        return
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or (classes and high >= classes):
        wrong = low if low < 0 else high
        allowed = f"with {classes} classes they go from 0 to {classes - 1}" if classes else "they start at 0"
        raise TaskError(f"{what}: label {wrong} is out of range; {allowed}.")
