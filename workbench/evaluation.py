"""Running a network over a task, batch by batch, and what was right of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench import statistics
from workbench.errors import Cancelled, TaskError
from workbench.network import Network
from workbench.quantization.quantizer import LayerSpec
from workbench.report import Estimate, Flips
from workbench.task import Task
from workbench.tracing import running

BATCH = 100  # activations of the widest layer stay in the cache; larger batches are slower
REMEMBERED_OUTCOMES = 256


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Which of the first n examples, in the order of evaluation, were right."""

    right: Tensor
    """Booleans, shape (n,)."""

    def accuracy(self) -> Estimate:
        """Share that was right, with Wilson's interval."""
        return statistics.proportion(int(self.right.sum()), len(self.right), "simulated")

    def flips(self, baseline: Tensor) -> Flips:
        """Against the baseline on the same examples, shape (n,) or longer."""
        baseline = baseline[: len(self.right)]
        lost, gained = int((baseline & ~self.right).sum()), int((~baseline & self.right).sum())
        return statistics.flips(lost, gained, len(self.right))

    def drop(self, baseline: Tensor) -> Estimate:
        """Baseline accuracy minus this one, paired."""
        flips = self.flips(baseline)
        return statistics.paired_difference(flips.lost, flips.gained, flips.n, "simulated")


class Evaluation:
    """The examples of a task in a fixed random order, so that the first thousand speak for all."""

    def __init__(self, task: Task, seed: int = 0) -> None:
        order = torch.randperm(len(task), generator=torch.Generator().manual_seed(seed))
        self.task = task
        self.order = order
        self._parts = order.split(BATCH)
        self._targets = None if task.targets is None else task.targets[order].split(BATCH)
        self._finished: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()

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
            TaskError: The network's output is not one row of scores per example, or is NaN.
        """
        key = (network.key, tuple(asked.items()))
        with self._lock:
            finished = self._finished.get(key)
        if finished is not None:
            yield Outcomes(finished)
            return
        right = torch.zeros(len(self.task), dtype=torch.bool)
        stop = 0
        for index, part in enumerate(self._parts):
            batch = self._batch(part)
            if cancel is not None and cancel.is_set():
                raise Cancelled
            start, stop = stop, stop + len(batch)
            outputs = self._outputs(network, asked, batch, index)
            right[start:stop] = self.task.right(outputs, self._wanted(reference, batch, index))
            if stop == len(right):
                with self._lock:
                    self._finished[key] = right
                    while len(self._finished) > REMEMBERED_OUTCOMES:
                        self._finished.popitem(last=False)
            yield Outcomes(right[:stop])

    def all(
        self,
        network: Network,
        asked: Mapping[str, LayerSpec],
        reference: Network,
        cancel: threading.Event | None = None,
    ) -> Tensor:
        """Which examples were right, shape (n,)."""
        *_, last = self.stream(network, asked, reference, cancel)
        return last.right

    def _batch(self, part: Tensor) -> Tensor:
        """Gathered when needed: a copy of all inputs in this order would take as much memory again."""
        batch = self.task.inputs[part]
        return batch.contiguous(memory_format=torch.channels_last) if batch.dim() == 4 else batch

    def _outputs(self, network: Network, asked: Mapping[str, LayerSpec], batch: Tensor, index: int) -> Tensor:
        outputs = network.simulation.run(batch, asked, index)
        if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(batch):
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise TaskError(
                f"The model returned {shape} for {len(batch)} examples; "
                f"classification needs one row of scores each, shape ({len(batch)}, classes)."
            )
        if index == 0 and torch.isnan(outputs).any():
            raise TaskError("The model's output holds NaN; look at its inputs and weights before comparing anything.")
        return outputs

    def _wanted(self, reference: Network, batch: Tensor, index: int) -> Tensor:
        if self._targets is not None:
            return self._targets[index]
        with torch.inference_mode(), running():
            wanted: Tensor = reference.module(batch).argmax(1)
        return wanted
