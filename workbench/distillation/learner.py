"""One network that learns: its batches, its optimizer, and the best weights it had."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workbench.checkpoints import moments, set_moments
from workbench.distillation.goal import Goal
from workbench.randomness import seeded
from workbench.report import Estimate
from workbench.tracing import running

BATCH = 64
LEARNING_RATE = 8e-3
WEIGHT_DECAY = 1e-2


class Examples(NamedTuple):
    """What is learned from."""

    inputs: Tensor
    """Shape (n, ...)."""
    targets: Tensor
    """Class indices, shape (n,); or numbers, shape (n, ...)."""
    logits: Tensor
    """The teacher's outputs, shape (n, classes); where there are kept views, (n, views, classes)."""
    labelled: Tensor
    """Which targets may be looked at, booleans of shape (n,)."""
    rows: Tensor
    """Which of all inputs these are, shape (n,)."""


Objective = Callable[[Tensor, Examples], Tensor]
"""(outputs of a network, shape (batch, classes), and the examples of the batch) -> a scalar to make smaller."""
Look = Callable[[Examples, Tensor, int], Examples]
"""(a batch, how often each of its examples came before, the step) -> what is learned from in their place."""


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
        look: Look | None = None,
    ) -> None:
        """
        Args:
            network: Is trained in place.
            objective: What it makes smaller.
            examples: In random order, again and again, in full batches; with none of them it never learns.
            steps: Of the schedule.
            seed: Of the order, and of dropout and its like.
            beside: Parameters of the objective, which learn with the network.
            look: How the examples are looked at; as they are where None.
        """
        self.network = network
        if examples.inputs.dim() == 4:
            self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps = steps if len(examples.inputs) else 0
        """Steps to take in all."""
        self.taken = 0
        self.loss = float("nan")
        """Of the latest batch."""
        self.accuracy: Estimate | None = None
        """At the latest evaluation."""
        self.best: Estimate | None = None
        """The best so far, after at least one step."""
        self.best_state: dict[str, Tensor] = self.state()
        self._objective = objective
        self.examples = examples
        self._look = look
        self._batches = batches(len(examples.inputs), BATCH, seed)
        self._seed = seed
        self._parameters = dict(network.named_parameters()) | {f"beside {k}": p for k, p in enumerate(beside)}
        self._optimizer = torch.optim.AdamW(
            list(self._parameters.values()), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
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
        if self._look is not None:
            came = torch.arange(self.taken * BATCH, (self.taken + 1) * BATCH) // len(self.examples.inputs)
            batch = self._look(batch, came, self.taken)
        if batch.inputs.dim() == 4:
            batch = batch._replace(inputs=batch.inputs.contiguous(memory_format=torch.channels_last))
        if not self.network.training:
            self.network.train()
        with seeded(self._seed + self.taken), running():
            loss = self._objective(self.network(batch.inputs), batch)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        self.taken += 1
        self.loss = loss.item()
        return self.loss

    def evaluate(self, goal: Goal, inputs: Tensor, targets: Tensor) -> bool:
        """Measure how good it is, and remember the weights if they are numbers and none were better.

        Args:
            goal: How it is measured.
            inputs: Shape (n, ...), channels-last where they are images.
            targets: Of these.

        Returns:
            Whether it is better than ever before.
        """
        self.accuracy = goal.score(self.network, inputs, targets)
        if not self.taken or (self.best is not None and goal.better(self.best, self.accuracy)):
            return False
        now = self.state()
        if not all(bool(value.isfinite().all()) for value in now.values()):
            return False  # the loss before the latest step was finite, its gradient was not
        better = self.best is None or goal.better(self.accuracy, self.best)
        self.best, self.best_state = self.accuracy, now
        return better

    def return_to_best(self) -> None:
        """Have the best weights until now."""
        self.network.load_state_dict(self.best_state)

    def position(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """All that the next step depends on, and the best until now: what JSON can say of it, and tensors."""
        estimates = {"accuracy": self.accuracy, "best": self.best}
        about = {name: value and value.model_dump() for name, value in estimates.items()}
        tensors = {f"now.{name}": value for name, value in self._held().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_state.items()}
        tensors |= moments(self._optimizer, {id(p): name for name, p in self._parameters.items()})
        return {"taken": self.taken, **about}, tensors

    def resume(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from a `position` instead of the beginning.

        Raises:
            KeyError, TypeError, ValueError: It is one of another network; this one is then of no use any more.
        """
        held = self._held()
        best = {name: tensors[f"best.{name}"] for name in self.best_state}
        if any(tensors[f"now.{name}"].shape != value.shape for name, value in held.items()):
            raise ValueError("its tensors have other shapes")
        with torch.no_grad():
            for name, value in held.items():
                value.copy_(tensors[f"now.{name}"])
        set_moments(self._optimizer, self._parameters, tensors)
        self.taken, self.best_state = int(about["taken"]), best
        self.accuracy, self.best = (about[name] and Estimate(**about[name]) for name in ("accuracy", "best"))
        if self.taken:
            self._batches = islice(self._batches, self.taken, None)
            self._schedule.load_state_dict({"last_epoch": self.taken - 1, "_step_count": self.taken + 1})
            self._schedule.step()  # learning rate and momentum follow from the number alone

    def _held(self) -> dict[str, Tensor]:
        """Parameters, the objective's too, and all buffers, also those that a state leaves out."""
        return {**self._parameters, **dict(self.network.named_buffers())}


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
