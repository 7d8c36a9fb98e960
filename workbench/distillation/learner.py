"""One network that learns: its batches, its optimizer, and the best weights it had."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from workbench import statistics
from workbench.report import Estimate
from workbench.tracing import running

BATCH = 64
LEARNING_RATE = 8e-3
WEIGHT_DECAY = 1e-2
EVALUATION_BATCH = 100


class Examples(NamedTuple):
    """What is learned from."""

    inputs: Tensor
    """Shape (n, ...)."""
    targets: Tensor
    """Class indices, shape (n,)."""
    logits: Tensor
    """The teacher's, shape (n, classes)."""
    labelled: Tensor
    """Which targets may be looked at, booleans of shape (n,)."""
    rows: Tensor
    """Which of all inputs these are, shape (n,)."""


Objective = Callable[[Tensor, Examples], Tensor]
"""(logits of a network, shape (batch, classes), and the examples of the batch) -> a scalar to make smaller."""


class Learner:
    """A network in training. Two of them with the same seed see the same randomness, step by step."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        examples: Examples,
        steps: int,
        seed: int,
        beside: Iterable[nn.Parameter] = (),
    ) -> None:
        """
        Args:
            network: Is trained in place.
            objective: What it makes smaller.
            examples: In random order, again and again, in full batches; with none of them it never learns.
            steps: Of the schedule.
            seed: Of the order, and of dropout and its like.
            beside: Parameters of the objective, which learn with the network.
        """
        self.network = network
        if examples.inputs.dim() == 4:
            self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps = steps if len(examples.inputs) else 0
        """Steps to take in all."""
        self.taken = 0
        self.accuracy: Estimate | None = None
        """At the latest evaluation."""
        self.best: Estimate | None = None
        """The highest so far, after at least one step."""
        self.best_state: dict[str, Tensor] = self.state()
        self._objective = objective
        self.examples = examples
        self._batches = batches(len(examples.inputs), BATCH, seed)
        self._seed = seed
        self._optimizer = torch.optim.AdamW(
            [*network.parameters(), *beside], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
        )
        # one-cycle (Smith and Topin 2018): it reaches most in a number of steps that is known before
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimizer, LEARNING_RATE, total_steps=steps)

    def state(self) -> dict[str, Tensor]:
        """A copy of the weights as they are now."""
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def step(self) -> float:
        """One optimizer step.

        Returns:
            The loss before it.
        """
        index = next(self._batches)
        batch = Examples(*(part[index] for part in self.examples))
        if batch.inputs.dim() == 4:
            batch = batch._replace(inputs=batch.inputs.contiguous(memory_format=torch.channels_last))
        self.network.train()
        with torch.random.fork_rng(devices=[]), running():
            torch.default_generator.manual_seed(self._seed + self.taken)
            loss = self._objective(self.network(batch.inputs), batch)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        self.taken += 1
        return loss.item()

    def evaluate(self, inputs: Tensor, targets: Tensor) -> Estimate:
        """Measure the accuracy, and remember the weights if none were better.

        Args:
            inputs: Shape (n, ...), channels-last where they are images.
            targets: Class indices, shape (n,).
        """
        self.accuracy = accuracy(self.network, inputs, targets)
        if self.taken and (self.best is None or self.accuracy.value >= self.best.value):
            self.best, self.best_state = self.accuracy, self.state()
        return self.accuracy


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


def batches(n: int, size: int, seed: int) -> Iterator[Tensor]:
    """Indices of full batches without end: one permutation of n after the other, cut into pieces.

    Where n is smaller than a batch, examples come more than once in it.
    """
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.long)
    while True:
        while len(waiting) < size:
            waiting = torch.cat((waiting, torch.randperm(n, generator=generator)))
        yield waiting[:size]
        waiting = waiting[size:]
