"""What a changed output costs, told from calibration data alone, which has no labels.

The task's own metric is asked, with targets made up so that the fp32 outputs score on them what the fp32
network scores on the evaluation: each target is drawn from what the fp32 output itself holds likely
(a softmax at a temperature, its value plus noise), and the one number that sets how likely is found by
bisection. A network's confidence stands in for the labels, as in Guillory et al., "Predicting with confidence
on unseen distributions" (2021), with the temperature of Guo et al., "On calibration of modern neural networks" (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.errors import TaskError
from workbench.metrics import Cosine, MeanIoU, Metric, MultiLabelF1, TokenAccuracy, TopK

GROUPS = 16
"""Of the grouped jackknife (Quenouille 1949) that tells how far the loss would be off on other examples."""
STEPS = 40
SPREADS = (1e-3, 1e3)
TINY = 1e-30


class Effect(NamedTuple):
    """What putting something on a grid does to the outputs."""

    loss: float
    """In the metric's unit, positive: worse; of the made-up targets."""
    noise: float
    """KL divergence of the classes from the fp32 output's; where there are none, noise power over signal power."""
    error: float
    """Standard error of `loss` for the examples that were seen."""
    spread: float
    """Standard deviation of one example's share in the loss, so that of n examples' mean is spread / sqrt(n)."""


class OutputLoss:
    """Compares outputs of a quantized network with those of fp32."""

    def __init__(self, metric: Metric, reference: Sequence[Tensor], baseline: float, labelled: bool) -> None:
        """
        Args:
            metric: The task's first one.
            reference: Outputs in fp32, batch by batch.
            baseline: What fp32 scores on the evaluation.
            labelled: Whether the task has targets of its own; else the fp32 output is what is right.
        """
        self.metric = Cosine() if metric.whole else metric
        self.reference = list(reference)
        self._divergence = _divergence(self.metric)
        generator = torch.Generator().manual_seed(0)
        self._noise = [_noise(self.metric, each, generator) for each in self.reference]
        self._spread = 0.0
        self._targets: list[Tensor] = self.reference
        self._likely: list[Tensor] = []
        if labelled and not metric.whole:
            self._match(baseline)
        try:
            self._own = self._statistics(self.reference)
        except (TaskError, RuntimeError, ValueError, IndexError):
            # a score of the user's own that reads its targets in its own way: the noise alone has to tell
            self.metric = Cosine()
            self._targets, self._likely = self.reference, []
            self._own = self._statistics(self.reference)
        self._value = self.metric.value(self._own.double().mean(0))

    def effect(self, outputs: Sequence[Tensor]) -> Effect:
        """What these outputs lose against fp32's.

        Args:
            outputs: Of the same examples in the same batches.
        """
        found = self._statistics(outputs)
        sign = 1 if self.metric.info.higher_is_better else -1
        loss = sign * float(self._value - self.metric.value(found.double().mean(0)))
        n = len(found)
        divergences = [self._divergence(mine, theirs) for mine, theirs in zip(outputs, self.reference, strict=True)]
        noise = float(torch.cat([each.double() for each in divergences]).nan_to_num(0.0, 1e6, 1e6).mean())
        error = self._error(found)
        spread = error * n**0.5
        if self._likely:  # with real labels an example is right or wrong, which varies more than its expectation
            spread = float(torch.cat(list(map(self._changed, outputs, self.reference, self._likely))).mean().sqrt())
        return Effect(loss, max(noise, 0.0), error, spread)

    def _match(self, baseline: float) -> None:
        """Find the spread at which fp32 scores the baseline: larger spreads score worse."""
        better = 1 if self.metric.info.higher_is_better else -1
        low, high = SPREADS
        for _ in range(STEPS):
            middle = (low * high) ** 0.5
            self._draw(middle)
            try:
                reached = float(self.metric.value(self._statistics(self.reference).double().mean(0)))
            except (TaskError, RuntimeError, ValueError, IndexError):
                return
            if better * reached > better * baseline:
                low = middle
            else:
                high = middle

    def _draw(self, spread: float) -> None:
        if isinstance(self.metric, TopK):
            self._likely = [F.softmax(each.double() / spread, 1) for each in self.reference]
        elif isinstance(self.metric, TokenAccuracy | MeanIoU):
            axis = _class_axis(self.metric)
            pairs = zip(self.reference, self._noise, strict=True)
            self._targets = [(each + spread * noise).argmax(axis) for each, noise in pairs]
        elif isinstance(self.metric, MultiLabelF1):
            pairs = zip(self.reference, self._noise, strict=True)
            self._targets = [(each + spread * noise > 0).float() for each, noise in pairs]
        else:
            pairs = zip(self.reference, self._noise, strict=True)
            scale = max(float(torch.cat([each.flatten() for each in self.reference]).double().std(correction=0)), TINY)
            self._targets = [each + spread * scale * noise for each, noise in pairs]

    def _statistics(self, outputs: Sequence[Tensor]) -> Tensor:
        """Of all examples, shape (n, p); for accuracy, the probability that the answer is right."""
        if self._likely:
            return torch.cat([self._right(each, likely) for each, likely in zip(outputs, self._likely, strict=True)])
        return torch.cat(
            [self.metric.statistics(each, target) for each, target in zip(outputs, self._targets, strict=True)]
        )

    def _right(self, outputs: Tensor, likely: Tensor) -> Tensor:
        return likely.gather(1, self._answers(outputs)).sum(1, keepdim=True)

    def _changed(self, outputs: Tensor, reference: Tensor, likely: Tensor) -> Tensor:
        """Probability that an example changes between right and wrong, shape (k,)."""
        now, before = (torch.zeros_like(likely).scatter_(1, self._answers(each), 1.0) for each in (outputs, reference))
        return (likely * (now - before).abs()).sum(1)

    def _answers(self, outputs: Tensor) -> Tensor:
        k = self.metric.k if isinstance(self.metric, TopK) else 1
        return outputs.topk(min(k, outputs.shape[1]), dim=1).indices

    def _error(self, found: Tensor) -> float:
        """Standard error of the loss, by leaving out one group of examples after the other."""
        groups = min(GROUPS, len(found))
        if groups < 2:
            return 0.0
        mine, theirs = (
            self.metric.value(torch.stack([_without(each.double(), g, groups) for g in range(groups)]))
            for each in (found, self._own)
        )
        difference = theirs - mine
        return float(((groups - 1) / groups * (difference - difference.mean()).square().sum()).sqrt())


def _without(rows: Tensor, group: int, groups: int) -> Tensor:
    kept = torch.ones(len(rows), dtype=torch.bool)
    kept[group::groups] = False
    return rows[kept].mean(0)


def _class_axis(metric: Metric) -> int:
    return -1 if isinstance(metric, TokenAccuracy) else 1


def _noise(metric: Metric, like: Tensor, generator: torch.Generator) -> Tensor:
    """What makes the arg max of logits a draw from their softmax (Gumbel), a sign one from a sigmoid, a value noisy."""
    if isinstance(metric, TokenAccuracy | MeanIoU):
        uniform = torch.rand(like.shape, generator=generator).clamp(1e-7, 1 - 1e-7)
        return -torch.log(-torch.log(uniform))
    if isinstance(metric, MultiLabelF1):
        return torch.logit(torch.rand(like.shape, generator=generator).clamp(1e-7, 1 - 1e-7))
    return torch.randn(like.shape, generator=generator)


def _divergence(metric: Metric) -> Callable[[Tensor, Tensor], Tensor]:
    """Of outputs from their reference, one number per example."""
    if isinstance(metric, TopK | TokenAccuracy | MeanIoU):
        axis = 1 if isinstance(metric, TopK) else _class_axis(metric)

        def classes(outputs: Tensor, reference: Tensor) -> Tensor:
            ours, theirs = F.log_softmax(outputs.float(), axis), F.log_softmax(reference.float(), axis)
            return (theirs.exp() * (theirs - ours)).sum(axis).reshape(len(outputs), -1).mean(1)

        return classes

    def powers(outputs: Tensor, reference: Tensor) -> Tensor:
        signal = reference.double().square().mean().clamp(min=TINY)
        return (outputs.double() - reference.double()).square().reshape(len(outputs), -1).mean(1) / signal

    return powers
