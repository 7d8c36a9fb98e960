"""AdaRound: whether each weight is rounded up or down is learned by gradient descent."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from workbench.quantization.rounding.problem import TINY, Problem, Rounded, Watch

ITERATIONS = 1000
"""Each sees all calibration data through its moments, so that fewer are needed than the paper's 10,000 batches."""
RATE = 0.1
WARM_UP = 0.2
"""Share of the iterations without the term that drives to 0 or 1."""
SHARPNESS = (20.0, 2.0)
"""The exponent beta of that term, from the first to the last iteration."""
WEIGHT = 0.3
"""Of that term (lambda in the paper), beside a loss in squares of a row's mean step."""
STRETCH = (-0.1, 1.1)
"""Of the sigmoid, so that it reaches 0 and 1 (equation 23)."""


def adaround(problem: Problem, watch: Watch = Watch()) -> Rounded:  # noqa: B008 - a Watch cannot be changed
    """Minimise the change of the layer's output over soft roundings that harden.

    Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020, equations 21 to 24. The
    layer's loss is a quadratic form in its inputs' second moments, so that its gradient is known in closed form
    and rests on all calibration data. Where a row comes out worse than rounded to nearest, it is rounded to nearest.

    Args:
        problem: Rows, moments and grids.
        watch: Looked at in every iteration.
    """
    below, above = problem.neighbours()
    gap = ((above - below) * problem.scale).clamp(min=torch.finfo(torch.float32).tiny)  # of the values, not the steps
    typical = gap.mean(-1, keepdim=True)
    start = (below * problem.scale - problem.rows) / typical
    share = ((problem.rows - below * problem.scale) / gap).clamp(0.01, 0.99)
    gap = gap / typical
    low, high = STRETCH
    latent = torch.logit((share - low) / (high - low))
    first, second = torch.zeros_like(latent), torch.zeros_like(latent)
    own = problem.moments.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None].clamp(min=TINY)
    moments = problem.moments / own
    for iteration in range(ITERATIONS):
        watch.look(iteration / ITERATIONS)
        soft = torch.sigmoid(latent)
        up = (soft * (high - low) + low).clamp(0, 1)
        gradient = 2 * gap * ((start + up * gap) @ moments)
        done = iteration / ITERATIONS
        if done >= WARM_UP:
            gradient += WEIGHT * _hardening(up, (done - WARM_UP) / (1 - WARM_UP))
        inside = (up > 0) & (up < 1)
        gradient *= inside * soft * (1 - soft) * (high - low)
        # Adam (Kingma & Ba 2015)
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        step = RATE * math.sqrt(1 - 0.999 ** (iteration + 1)) / (1 - 0.9 ** (iteration + 1))
        latent -= step * first / (second.sqrt() + 1e-8)
    hard = torch.where(latent >= 0, above, below)
    return Rounded(problem.better(hard, problem.nearest(problem.rows)), problem.scale)


def _hardening(up: Tensor, done: float) -> Tensor:
    """The gradient of the sum of ``1 - |2 up - 1|^beta``."""
    start, stop = SHARPNESS
    beta = stop + (start - stop) * 0.5 * (1 + math.cos(done * math.pi))
    centred = 2 * up - 1
    return -2 * beta * centred.abs().pow(beta - 1) * centred.sign()
