"""Running a network over a task, batch by batch, and what was right of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from workbench import statistics
from workbench.errors import Cancelled, TaskError
from workbench.inputs import Inputs
from workbench.metrics import Metric
from workbench.network import Network
from workbench.outputs import selected
from workbench.quantization.quantizer import LayerSpec
from workbench.remembered import Remembered
from workbench.report import Estimate, Flips, Score
from workbench.statistics import Resampling
from workbench.task import Task

REMEMBERED_OUTCOMES = 256
REMEMBER_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What the first n examples, in the order of evaluation, contributed to every metric."""

    metrics: tuple[Metric, ...]
    statistics: tuple[Tensor, ...]
    """For each metric, shape (n, p)."""
    resampling: Resampling
    order: Tensor
    """Of the task's examples, shape (total,)."""

    def __len__(self) -> int:
        return len(self.statistics[0])

    def first(self, n: int) -> Outcomes:
        """The first n examples alone."""
        return Outcomes(self.metrics, tuple(s[:n] for s in self.statistics), self.resampling, self.order)

    def accuracy(self) -> Estimate:
        """The value of the first metric: a share with Wilson's interval, anything else with its bootstrap's."""
        return self._value(0)

    def scores(self) -> tuple[Score, ...]:
        """The other metrics; those that compare examples with each other once all were seen."""
        found = []
        for index, metric in enumerate(self.metrics[1:], start=1):
            if not metric.whole or len(self) == len(self.order):
                found.append(Score(metric=metric.info, value=self._value(index)))
        return tuple(found)

    def flips(self, baseline: Outcomes) -> Flips:
        """Against the baseline on the same examples, of which it may have seen more."""
        metric = self.metrics[0]
        ours, theirs = (metric.scores(o.statistics[0][: len(self)]) for o in (self, baseline))
        lost, gained = int((ours < theirs).sum()), int((ours > theirs).sum())
        return statistics.flips(lost, gained, len(self))

    def drop(self, baseline: Outcomes) -> Estimate:
        """What was lost against the baseline, paired."""
        metric = self.metrics[0]
        if metric.info.counted:
            flips = self.flips(baseline)
            return statistics.paired_difference(flips.lost, flips.gained, flips.n, "simulated")
        return contrast([(1, baseline.first(len(self))), (-1, self)])

    def _value(self, index: int) -> Estimate:
        metric, found = self.metrics[index], self.statistics[index]
        if metric.whole:
            in_order = torch.empty_like(found)
            in_order[self.order] = found
            found = metric.resolved(in_order)
        if metric.info.counted:
            return statistics.proportion(int(found.sum()), len(found), "simulated")
        resampled = self._resampled if index == 0 else self.resampling.means(found)
        return statistics.resampled(
            metric.value(found.double().mean(0)), metric.value(resampled), metric.info.unit, "simulated"
        )

    def _means(self, index: int) -> Tensor:
        return self.statistics[index].double().mean(0)

    @cached_property
    def _resampled(self) -> Tensor:
        return self.resampling.means(self.statistics[0])


def contrast(parts: Sequence[tuple[int, Outcomes]]) -> Estimate:
    """A sum of accuracies on the same examples, paired; an error counts as an accuracy below 0.

    Args:
        parts: How often each is added, below 0 where it is subtracted, and what came out.
    """
    metric = parts[0][1].metrics[0]
    if metric.info.counted:
        sums = sum(times * metric.scores(outcomes.statistics[0]) for times, outcomes in parts)
        return statistics.paired_sum(torch.as_tensor(sums), "simulated")
    sign = 1 if metric.info.higher_is_better else -1
    at = sum(sign * times * metric.value(outcomes._means(0)) for times, outcomes in parts)
    spread = sum(sign * times * metric.value(outcomes._resampled) for times, outcomes in parts)
    return statistics.resampled(torch.as_tensor(at), torch.as_tensor(spread), metric.info.unit, "simulated")


class Evaluation:
    """The examples of a task in a fixed random order, so that the first thousand speak for all."""

    def __init__(self, task: Task, batch: int, seed: int = 0) -> None:
        """
        Args:
            task: What is evaluated.
            batch: Examples that run at once.
            seed: Of the order.
        """
        order = torch.randperm(len(task), generator=torch.Generator().manual_seed(seed))
        self.task = task
        self.parts = task.inputs.batches(order, batch)
        """Indices of the examples of each batch."""
        self.order = torch.cat(self.parts)
        self._finished: OrderedDict[Hashable, Outcomes] = OrderedDict()
        self._wanted = Remembered(REMEMBER_BYTES)
        """The reference's own outputs, where they are what is right."""
        self._given = Remembered(REMEMBER_BYTES)
        """Outputs of quantized networks, with which what runs is compared."""
        self._lock = threading.Lock()

    @cached_property
    def resampling(self) -> Resampling:
        """Of the task's examples."""
        return Resampling(len(self.task))

    def stream(
        self,
        network: Network,
        asked: Mapping[str, LayerSpec],
        reference: Network,
        cancel: threading.Event | None = None,
    ) -> Iterator[Outcomes]:
        """Outcomes after every batch, until all examples were seen; from memory if they were seen before.

        Args:
            network: What runs.
            asked: How its layers are quantized.
            reference: Whose fp32 output counts as right where the task has no targets.
            cancel: Checked before every batch.

        Raises:
            Cancelled: `cancel` was set.
            TaskError: The network's output does not fit the task, or is NaN.
        """
        key = (network.key, tuple(asked.items()))
        with self._lock:
            finished = self._finished.get(key)
        if finished is not None:
            yield finished
            return
        metrics: Sequence[Metric] = ()
        collected: list[list[Tensor]] = []
        for index, part in enumerate(self.parts):
            if cancel is not None and cancel.is_set():
                raise Cancelled
            batch = self.task.inputs[part].channels_last()
            outputs = self.outputs(network, asked, index)
            wanted = self._targets(reference, batch, index, part)
            if not collected:
                metrics = self.task.metrics_for(outputs)
                collected = [[] for _ in metrics]
            for metric, rows in zip(metrics, collected, strict=True):
                rows.append(metric.statistics(outputs, wanted))
            outcomes = Outcomes(tuple(metrics), tuple(map(torch.cat, collected)), self.resampling, self.order)
            if index + 1 == len(self.parts):
                with self._lock:
                    self._finished[key] = outcomes
                    while len(self._finished) > REMEMBERED_OUTCOMES:
                        self._finished.popitem(last=False)
            yield outcomes

    def all(
        self,
        network: Network,
        asked: Mapping[str, LayerSpec],
        reference: Network,
        cancel: threading.Event | None = None,
    ) -> Outcomes:
        """Outcomes of every example."""
        *_, last = self.stream(network, asked, reference, cancel)
        return last

    def outputs(self, network: Network, asked: Mapping[str, LayerSpec], index: int) -> Tensor:
        """What the simulation gives for a batch; from memory where it is there.

        Args:
            network: What runs.
            asked: How its layers are quantized.
            index: Of the batch in `parts`.

        Raises:
            TaskError: The network's output does not fit the task, or is NaN.
        """
        key = (network.key, tuple(asked.items()), index)
        return self._given.made(key, lambda: self._outputs(network, asked, index))

    @torch.inference_mode()
    def _outputs(self, network: Network, asked: Mapping[str, LayerSpec], index: int) -> Tensor:
        batch = self.task.inputs[self.parts[index]].channels_last()
        outputs = selected(network.simulation.run(batch, asked, index), self.task.output)
        if outputs.dim() == 0 or len(outputs) != len(batch):
            raise TaskError(
                f"The model returned shape {tuple(outputs.shape)} for {len(batch)} examples; "
                "the first dimension must be one entry per example."
            )
        if index == 0 and outputs.is_floating_point() and torch.isnan(outputs).any():
            quantized = any(any(spec) for spec in asked.values())
            raise TaskError(
                "The quantized model's output holds NaN; give more bits to the layers that overflow."
                if quantized
                else "The model's output holds NaN in fp32; look at its inputs and weights before comparing anything."
            )
        return outputs

    def _targets(self, reference: Network, batch: Inputs, index: int, part: Tensor) -> Tensor:
        if self.task.targets is not None:
            return self.task.targets[part]
        return self._wanted.made((reference.key, index), lambda: reference.call(batch))
