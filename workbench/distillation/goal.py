"""What a training aims at: what the outputs are, and how good they are on held-out examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench import statistics
from workbench.evaluation import Outcomes
from workbench.metrics import Metric
from workbench.report import Estimate
from workbench.statistics import Resampling
from workbench.tracing import running

EVALUATION_BATCH = 100

Score = Callable[[nn.Module, Tensor, Tensor], Estimate]
"""(network, inputs, targets) -> how good it is, in evaluation mode."""


@dataclass(frozen=True)
class Goal:
    """What a network's outputs are."""

    classes: bool
    """Whether they are logits of classes that exclude each other; else numbers, taken as they are."""
    score: Score
    higher_is_better: bool = True

    def better(self, one: Estimate, other: Estimate) -> bool:
        """Whether one is better than the other."""
        return one.value > other.value if self.higher_is_better else one.value < other.value


@torch.inference_mode()
def accuracy(network: nn.Module, inputs: Tensor, targets: Tensor) -> Estimate:
    """Top-1 accuracy in evaluation mode."""
    network.eval()
    parts = zip(inputs.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True)
    hits = 0
    for x, y in parts:
        with running():
            hits += int((network(x).argmax(1) == y).sum())
    return statistics.proportion(hits, len(targets), "measured")


@dataclass(frozen=True)
class MetricScore:
    """A task's own metric."""

    metric: Metric

    @torch.inference_mode()
    def __call__(self, network: nn.Module, inputs: Tensor, targets: Tensor) -> Estimate:
        """Of a network on examples."""
        network.eval()
        rows = []
        for x, y in zip(inputs.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True):
            with running():
                rows.append(self.metric.statistics(network(x), y))
        everything = Outcomes((self.metric,), (torch.cat(rows),), Resampling(len(targets)), torch.arange(len(targets)))
        return everything.accuracy().model_copy(update={"source": "measured"})


CLASSES = Goal(classes=True, score=accuracy)
"""Top-1 accuracy."""
