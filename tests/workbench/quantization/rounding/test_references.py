"""GPTQ and AdaRound against references that share no line with them: straight from the papers, in float64.

They look at the layer's inputs themselves, and at one row at a time.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.grid import Grid
from workbench.inputs import Inputs
from workbench.quantization.finding import find_layers
from workbench.quantization.moments import collected
from workbench.quantization.quantizer import WeightSpec
from workbench.quantization.rounding import DAMPING, ROUNDINGS, Problem, Watch, on_grid
from workbench.quantization.weight_grids import weight_grid

KINDS = ("linear", "convolution", "in groups")
SCHEMES = ("symmetric", "affine")
seeds = st.integers(0, 10**6)


class Case(NamedTuple):
    """A tiny layer with what arrives at it."""

    problem: Problem
    grid: Grid
    weight: Tensor
    seen: list[Tensor]
    """What each row of the weight is multiplied with, float64, shape (positions, n)."""

    def ours(self, method: str) -> Tensor:
        """Whole numbers, shape (outputs, n)."""
        q, grid = on_grid(ROUNDINGS[method](self.problem, Watch()), self.grid, self.weight)
        assert torch.equal(grid.scale, self.grid.scale)
        return q.flatten(1).double()

    def loss(self, q: Tensor) -> Tensor:
        """The mean squared change of each output."""
        change = self.values(q) - self.weight.flatten(1).double()
        return torch.stack([(x @ own).square().mean() for x, own in zip(self.seen, change, strict=True)])

    def values(self, q: Tensor) -> Tensor:
        return self.scale * (q - self.zero)

    @property
    def scale(self) -> Tensor:
        return self.grid.scale.double().reshape(-1, 1)

    @property
    def zero(self) -> Tensor:
        return self.grid.zero_point.double().reshape(-1, 1)


def case(seed: int, kind: str, bits: int, scheme: str, channels: int = 6, outputs: int = 4) -> Case:
    """Inputs are correlated, as those of a layer behind a ReLU are."""
    random = torch.Generator().manual_seed(seed)
    if kind == "linear":
        layer = nn.Linear(channels, outputs)
        x = torch.rand(60, 3, generator=random) @ torch.randn(3, channels, generator=random)
        x = (x + 0.3 * torch.randn(60, channels, generator=random)).relu()
        seen = [x.double()] * outputs
    else:
        groups = 2 if kind == "in groups" else 1
        layer = nn.Conv2d(2, outputs, (2, channels // 2), padding=(1, 0), groups=groups)
        x = F.avg_pool2d(torch.randn(8, 2, 9, 9, generator=random), 3, 1).relu()
        windows = F.unfold(x.double(), layer.kernel_size, padding=layer.padding)  # (examples, n of all groups, places)
        parts = windows.transpose(1, 2).flatten(0, 1).chunk(groups, 1)
        seen = [part for part in parts for _ in range(outputs // groups)]
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=random))
    net = nn.Sequential(layer).eval()
    inputs = Inputs(x)
    (found,) = find_layers(net, inputs[:2])[0].values()
    weight = layer.weight.detach()
    grid = weight_grid(weight, WeightSpec("0", bits, "nearest", scheme, "channel", "mse"), 0)
    assert isinstance(grid, Grid)
    problem = Problem.of(weight, grid, collected(net, [found], inputs, len(x))["0"].second)
    return Case(problem, grid, weight, seen)


def obq(made: Case) -> tuple[Tensor, float]:
    """Optimal brain quantization (Frantar & Alistarh 2022, equations 3 and 4) with an explicit inverse.

    Returns:
        Whole numbers; and how near the nearest decision was to the other way, in steps.
    """
    found, close = [], 1.0
    per_group = len(made.weight) // len(made.problem.moments)
    for row, (x, weight) in enumerate(zip(made.seen, made.weight.flatten(1).double(), strict=True)):
        hessian = x.T @ x / len(x)
        hessian += DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian))
        inverse, w, q = torch.linalg.inv(hessian), weight.clone(), torch.zeros_like(weight)
        for at in made.problem.order()[row // per_group].tolist():
            wanted = w[at] / made.scale[row, 0] + made.zero[row, 0]
            q[at] = wanted.round().clamp(made.grid.quant_min, made.grid.quant_max)
            if made.grid.quant_min < wanted < made.grid.quant_max:
                close = min(close, abs(float(wanted - wanted.floor()) - 0.5))
            error = (w[at] - made.scale[row, 0] * (q[at] - made.zero[row, 0])) / inverse[at, at]
            w = w - error * inverse[:, at]
            inverse = inverse - torch.outer(inverse[:, at], inverse[at]) / inverse[at, at]
            inverse[at, at] = 1.0  # its row and column are 0 now: it takes no part any more
        found.append(q)
    return torch.stack(found), close


def nearest(made: Case) -> Tensor:
    wanted = made.weight.flatten(1).double() / made.scale + made.zero
    return wanted.round().clamp(made.grid.quant_min, made.grid.quant_max)


@settings(deadline=None, max_examples=60)
@given(
    seeds,
    st.sampled_from(KINDS),
    st.sampled_from(SCHEMES),
    st.integers(2, 5),
    st.sampled_from([4, 6, 10]),
    st.sampled_from([2, 4, 6]),
)
def test_gptq_takes_the_steps_of_brain_quantization_with_an_explicit_inverse(
    seed: int, kind: str, scheme: str, bits: int, channels: int, outputs: int
) -> None:
    made = case(seed, kind, bits, scheme, channels, outputs)
    expected, close = obq(made)
    lost, plain = made.loss(expected), made.loss(nearest(made))
    assume(close > 1e-4)  # else float32 may decide otherwise
    assume(not ((lost - plain).abs() < 1e-4 * plain).any() or torch.equal(expected, nearest(made)))
    expected = torch.where((lost <= plain)[:, None], expected, nearest(made))  # ours is never worse than nearest
    assert torch.equal(made.ours("gptq"), expected)


def plain_adaround(made: Case, iterations: int = 2000) -> Tensor:
    """AdaRound with autograd on the outputs, row by row in one batch: Nagel et al. 2020, equations 21 to 25.

    Activation functions (equation 25) have no part in it: the layer stands alone.
    """
    gamma, zeta, weighted, warm_up = -0.1, 1.1, 0.01, 0.2
    weight, x = made.weight.flatten(1).double(), torch.stack(made.seen)  # (outputs, n), (outputs, positions, n)
    floor = (weight / made.scale).floor() + made.zero
    rest = weight / made.scale + made.zero - floor
    v = torch.logit(((rest - gamma) / (zeta - gamma)).clamp(1e-6, 1 - 1e-6)).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=1e-2)

    def h() -> Tensor:
        return (torch.sigmoid(v) * (zeta - gamma) + gamma).clamp(0, 1)

    def outputs(of: Tensor) -> Tensor:
        return (x @ of[..., None])[..., 0]

    for iteration in range(iterations):
        soft = made.values((floor + h()).clamp(made.grid.quant_min, made.grid.quant_max))
        loss = (outputs(soft) - outputs(weight)).square().mean(1).sum()
        done = iteration / iterations
        if done >= warm_up:
            beta = 20 + (2 - 20) * (done - warm_up) / (1 - warm_up)
            loss = loss + weighted * (1 - (2 * h() - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (floor + (h() >= 0.5)).clamp(made.grid.quant_min, made.grid.quant_max).detach()


def least(made: Case) -> Tensor:
    """The least loss of each row, over every point of its grid."""
    best = []
    levels = range(made.grid.quant_min, made.grid.quant_max + 1)
    every = torch.tensor(list(itertools.product(levels, repeat=made.weight[0].numel())), dtype=torch.float64)
    for row, x in enumerate(made.seen):
        change = made.scale[row] * (every - made.zero[row]) - made.weight[row].flatten().double()
        best.append(((change @ (x.T @ x / len(x))) * change).sum(1).min())
    return torch.stack(best)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_adaround_is_no_worse_than_autograd_on_the_papers_equations(kind: str, scheme: str) -> None:
    ours, theirs, bound, plain = [], [], [], []
    for seed in range(6):
        made = case(seed, kind, 2, scheme, channels={"linear": 7, "convolution": 4, "in groups": 7}[kind])
        ours.append(made.loss(made.ours("adaround")))
        theirs.append(made.loss(plain_adaround(made)))
        bound.append(least(made))
        plain.append(made.loss(nearest(made)))
    ours, theirs, bound, plain = map(torch.cat, (ours, theirs, bound, plain))
    assert (ours >= bound * (1 - 1e-5)).all()
    assert (theirs >= bound * (1 - 1e-5)).all()
    assert (ours <= 1.02 * theirs).double().mean() >= 0.9
    assert ours.sum() <= 1.02 * theirs.sum()
    assert theirs.sum() < 0.8 * plain.sum()  # else there would be nothing to match
