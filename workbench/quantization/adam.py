"""Adam without `torch.optim`, which imports torch's compiler when it is first used."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Adam:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1; to the bit `torch.optim.Adam`.

    That one takes two seconds of a new process for the import, in which no cancel is heard.
    """

    def __init__(self, parameters: Sequence[tuple[Tensor, float]]) -> None:
        """
        Args:
            parameters: Leaves, with their rates.
        """
        self._parameters = tuple(parameters)
        self._moments = [(torch.zeros_like(each), torch.zeros_like(each)) for each, _ in self._parameters]
        self._steps = [0] * len(self._parameters)

    def forget(self) -> None:
        """Clear the gradients."""
        for parameter, _ in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, share: float = 1.0) -> None:
        """Move what has a gradient.

        Args:
            share: Of the rates.
        """
        for at, (parameter, rate) in enumerate(self._parameters):
            gradient = parameter.grad
            if gradient is None:
                continue
            self._steps[at] += 1
            (first, second), step = self._moments[at], self._steps[at]
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            unbiased = math.sqrt(1 - BETAS[1] ** step)
            divisor = (second.sqrt() / unbiased).add_(EPSILON)
            parameter.addcdiv_(first, divisor, value=-(rate * share) / (1 - BETAS[0] ** step))
