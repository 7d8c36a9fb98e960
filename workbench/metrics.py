"""What is measured on an example, and what it makes of all of them.

A metric gives a row of statistics per example; its value is a function of their means. So every
kind of score streams, is resampled and is paired in the same way.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.errors import TaskError
from workbench.inputs import update
from workbench.report import MetricInfo

TINY = 1e-30
CANCELLED = 1e-13
"""Differences of float64 sums that are smaller than this share of them are rounding."""


class Metric(ABC):
    """A score; subclasses say what an example contributes and what the means of it are worth."""

    info: MetricInfo

    @abstractmethod
    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What each example contributes.

        Args:
            outputs: Of the model for a batch, shape (k, ...).
            targets: What is right for them, shape (k, ...).

        Returns:
            Shape (k, p), float32; booleans of shape (k, 1) where an example is right or wrong.

        Raises:
            TaskError: Outputs of a shape that the metric cannot read.
        """

    def value(self, means: Tensor) -> Tensor:
        """The metric from means of the statistics, shape (..., p) to shape (...)."""
        return means[..., 0]

    def scores(self, statistics: Tensor) -> Tensor:
        """How good each example is by itself, shape (n,), larger is better: by it examples are compared."""
        values = self.value(statistics.double())
        return values if self.info.higher_is_better else -values

    def resolved(self, statistics: Tensor) -> Tensor:
        """From the statistics of all examples, in the task's own order, to those that are averaged."""
        return statistics

    def update(self, digest: hashlib._Hash) -> None:
        """Feed what the metric is set to into a hash; of functions nothing but their names in `info`."""
        digest.update(type(self).__name__.encode() + str(self.info).encode())
        for name, value in sorted(vars(self).items()):
            if isinstance(value, Tensor):
                update(digest, value)
            elif not callable(value):
                digest.update(f"{name}={value!r}".encode())

    whole = False
    """Whether the metric compares examples with each other, and so is known only when all were seen."""


@dataclass(frozen=True)
class TopK(Metric):
    """Share of examples whose label is among the k classes with the highest scores."""

    k: int = 1
    noun: str = "accuracy"
    """``agreement`` where the labels are another model's answers."""
    info: MetricInfo = field(init=False)

    def __post_init__(self) -> None:
        name = f"top-{self.k} {self.noun}" if self.k > 1 or self.noun != "accuracy" else "accuracy"
        object.__setattr__(self, "info", MetricInfo(name=name, counted=True))

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs of shape (k, classes), targets of shape (k,); or another model's outputs, whose answers count."""
        if targets.shape == outputs.shape and targets.is_floating_point():
            targets = targets.argmax(1)
        if outputs.dim() != 2 or outputs.shape[0] != targets.shape[0]:
            raise _unreadable(outputs, targets, "one row of scores each, shape (k, classes)")
        if self.k == 1:
            return (outputs.argmax(1) == targets)[:, None]
        best = outputs.topk(min(self.k, outputs.shape[1]), dim=1).indices
        return (best == targets[:, None]).any(1, keepdim=True)


class MultiLabelF1(Metric):
    """Micro-averaged F1 over labels that can hold together; a label is predicted where its logit is above 0."""

    info = MetricInfo(name="F1")

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets of shape (k, labels); true positives, and what was predicted or true."""
        _same_shape(outputs, targets, "one logit per label")
        predicted, true = outputs > 0, targets > 0.5
        return torch.stack([(predicted & true).sum(1), predicted.sum(1) + true.sum(1)], 1).float()

    def value(self, means: Tensor) -> Tensor:
        """2 TP / (predicted + true); nothing to find and nothing found is perfect."""
        return torch.where(means[..., 1] > 0, 2 * means[..., 0] / means[..., 1].clamp(min=TINY), 1.0)


class ExactMatch(Metric):
    """Share of examples with every label right."""

    info = MetricInfo(name="exact match", counted=True)

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets of shape (k, labels)."""
        _same_shape(outputs, targets, "one logit per label")
        return ((outputs > 0) == (targets > 0.5)).flatten(1).all(1, keepdim=True)


@dataclass(frozen=True)
class MeanAbsoluteError(Metric):
    """Mean of |output - target| over examples and outputs."""

    unit: str = ""
    info: MetricInfo = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "info", MetricInfo(name="MAE", unit=self.unit, share=False, higher_is_better=False))

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets of one shape."""
        return _error(outputs, targets).abs().mean(1, keepdim=True)


@dataclass(frozen=True)
class RootMeanSquaredError(Metric):
    """Root of the mean of (output - target)^2 over examples and outputs."""

    unit: str = ""
    info: MetricInfo = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "info", MetricInfo(name="RMSE", unit=self.unit, share=False, higher_is_better=False))

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets of one shape."""
        return _error(outputs, targets).square().mean(1, keepdim=True)

    def value(self, means: Tensor) -> Tensor:
        """Root of the mean square."""
        return means[..., 0].clamp(min=0).sqrt()


class RSquared(Metric):
    """Share of the targets' variance that is explained, averaged over outputs (scikit-learn's `r2_score`)."""

    info = MetricInfo(name="R²", share=False)

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets of one shape; squared error, target and squared target of each output."""
        error, target = _error(outputs, targets), _rows(_aligned(outputs, targets)[1]).double()
        return torch.cat([error.double().square(), target, target.square()], 1)

    def value(self, means: Tensor) -> Tensor:
        """1 - residual / variance; without variance 1 where nothing is wrong, else 0, as scikit-learn has it."""
        error, target, square = means.double().chunk(3, -1)
        variance = square - target.square()
        varies = variance > square * CANCELLED
        explained = torch.where(varies, 1 - error / variance.clamp(min=TINY), (error <= square * CANCELLED).double())
        return explained.mean(-1)

    def scores(self, statistics: Tensor) -> Tensor:
        """One example has no variance: its squared error says how good it is."""
        return -statistics.double().chunk(3, -1)[0].sum(-1)


@dataclass(frozen=True)
class TokenAccuracy(Metric):
    """Share of tokens with the right class; targets of `ignored`, or below 0, do not count."""

    ignored: int = -100
    info: MetricInfo = field(default=MetricInfo(name="token accuracy"), init=False)

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs of shape (k, tokens, classes); targets of shape (k, tokens), or longer by such as do not count."""
        if outputs.dim() == 3 and targets.dim() == 2 and not self._counted(targets[:, outputs.shape[1] :]).any():
            targets = targets[:, : outputs.shape[1]]
        if outputs.shape[:-1] != targets.shape:
            raise _unreadable(outputs, targets, "scores of shape (k, tokens, classes)")
        counted = self._counted(targets)
        right = (outputs.argmax(-1) == targets) & counted
        return torch.stack([right.flatten(1).sum(1), counted.flatten(1).sum(1)], 1).float()

    def _counted(self, targets: Tensor) -> Tensor:
        return (targets != self.ignored) & (targets >= 0)

    def value(self, means: Tensor) -> Tensor:
        """Right of all that count."""
        return means[..., 0] / means[..., 1].clamp(min=TINY)


@dataclass(frozen=True)
class MeanIoU(Metric):
    """Intersection over union, averaged over the classes that occur (Everingham et al. 2010)."""

    classes: int
    ignored: int = 255
    info: MetricInfo = field(default=MetricInfo(name="mIoU"), init=False)

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs of shape (k, classes, H, W), targets of shape (k, H, W)."""
        if outputs.dim() != 4 or outputs.shape[1] != self.classes or targets.dim() != 3:
            raise _unreadable(outputs, targets, f"scores of shape (k, {self.classes}, H, W)")
        if outputs.shape[2:] != targets.shape[1:]:
            outputs = F.interpolate(outputs, targets.shape[1:], mode="bilinear", align_corners=False)
        counted = targets != self.ignored
        guess = torch.where(counted, outputs.argmax(1), self.classes)
        truth = torch.where(counted, targets, self.classes)
        each = range(self.classes)
        both = [((guess == c) & (truth == c)).flatten(1).sum(1) for c in each]
        either = [((guess == c) | (truth == c)).flatten(1).sum(1) for c in each]
        return torch.stack([*both, *either], 1).float()

    def value(self, means: Tensor) -> Tensor:
        """Mean over classes with a union."""
        both, either = means.chunk(2, -1)
        occurs = either > 0
        return (torch.where(occurs, both / either.clamp(min=TINY), 0.0).sum(-1)) / occurs.sum(-1).clamp(min=1)


class Cosine(Metric):
    """Cosine between the output and the target, averaged; dense outputs are taken as one vector."""

    info = MetricInfo(name="cosine", share=False)

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets of one shape."""
        ours, theirs = _aligned(outputs, targets)
        return F.cosine_similarity(_rows(ours).double(), _rows(theirs).double())[:, None]


class Sqnr(Metric):
    """Signal to quantization noise of the output, in dB, capped at 200."""

    info = MetricInfo(name="SQNR", unit="dB", share=False)

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets of one shape; energy of the signal and of the noise."""
        ours, theirs = _aligned(outputs, targets)
        noise = _rows(ours.double() - theirs.double()).square().sum(1)
        return torch.stack([_rows(theirs).double().square().sum(1), noise], 1)

    def value(self, means: Tensor) -> Tensor:
        """10 log10 of signal over noise."""
        signal, noise = means.double().unbind(-1)
        return 10 * torch.log10(signal.clamp(min=TINY) / torch.maximum(noise, signal * 1e-20).clamp(min=TINY))


@dataclass(frozen=True, eq=False)
class Recall(Metric):
    """Share of queries whose document is among the k nearest by cosine; both are examples of the task."""

    queries: Tensor
    """Indices of examples, shape (q,)."""
    documents: Tensor
    """Indices of examples, shape (d,)."""
    relevant: Tensor
    """For each query, the place of its document in `documents`, shape (q,)."""
    k: int = 1
    whole = True
    info: MetricInfo = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "info", MetricInfo(name=f"recall@{self.k}", counted=True))

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002 - documents are what is right
        """The outputs as unit vectors, shape (k, d)."""
        return F.normalize(outputs.float().flatten(1), dim=1)

    def resolved(self, statistics: Tensor) -> Tensor:
        """Whether each query found its document, shape (q, 1)."""
        near = statistics[self.queries] @ statistics[self.documents].T
        best = near.topk(min(self.k, len(self.documents)), dim=1).indices
        return (best == self.relevant[:, None]).any(1, keepdim=True)


@dataclass(frozen=True)
class OwnScore(Metric):
    """A function of the user's: outputs and targets of a batch to one number per example."""

    score: Callable[[Tensor, Tensor], Tensor]
    info: MetricInfo

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What the function returns, checked."""
        made = self.score(outputs, targets)
        if not isinstance(made, Tensor) or made.shape != outputs.shape[:1]:
            shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise TaskError(f"score: one number per example is needed, shape ({len(outputs)},); it returned {shape}.")
        return made[:, None] if self.info.counted else made[:, None].float()


def _aligned(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one shape: a column of outputs and a vector of targets mean the same."""
    if outputs.shape == targets.shape:
        return outputs, targets
    if outputs.shape[:1] == targets.shape[:1] and outputs.numel() == targets.numel():
        return outputs, targets.reshape(outputs.shape)
    raise _unreadable(outputs, targets, f"the targets' shape {tuple(targets.shape)}")


def _error(outputs: Tensor, targets: Tensor) -> Tensor:
    ours, theirs = _aligned(outputs, targets)
    return _rows(ours - theirs)


def _rows(outputs: Tensor) -> Tensor:
    """A row for each example: a vector of outputs has one value each."""
    return outputs.reshape(len(outputs), -1)


def _same_shape(outputs: Tensor, targets: Tensor, needed: str) -> None:
    if outputs.shape != targets.shape:
        raise _unreadable(outputs, targets, f"{needed}, shape {tuple(targets.shape)}")


def _unreadable(outputs: Tensor, targets: Tensor, needed: str) -> TaskError:
    return TaskError(
        f"The model returned shape {tuple(outputs.shape)} for {len(targets)} examples; this task needs {needed}."
    )
