"""Grids whose step is learned, and what a gradient makes of rounding.

Esser et al., "Learned Step Size Quantization", 2020: rounding passes a gradient on as if it were not there, within
the range of the grid, and the step has a gradient of its own. It is held as its logarithm, so that it stays above
zero and an optimizer step moves it by a share of itself (Jain et al., "Trained Quantization Thresholds", 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from workbench.grid import AnyGrid, Grid

REACH = 0.5 * (1 + 1e-5)
"""Of the distance of two values: what is rounded further lies outside the range."""
SMALLEST = torch.finfo(torch.float32).eps
"""Of a step, as of those that a range gives."""


class _Stepped(torch.autograd.Function):
    """Fake quantization with gradients for the values and, by equation 3 of the paper, for the step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, grid: Grid, factor: float) -> Tensor:
        if step.dim() == 0 and grid.stride == 1:
            how = float(step), int(grid.zero_point), grid.quant_min, grid.quant_max
            made, inside = torch.ops.aten.fake_quantize_per_tensor_affine_cachemask(x, *how)  # one pass over the values
        else:
            made = grid.fake_quantize(x)
            inside = (made - x).abs() <= step * (REACH * grid.stride)
        ctx.save_for_backward(x, step, made, inside)
        ctx.factor = factor
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, step, made, inside = ctx.saved_tensors
        (gradient,) = gradients
        through = gradient * inside
        # d made / d step: round(x / step) - x / step inside, the end of the range outside
        share = torch.where(inside, made - x, made).mul_(gradient)
        return through, share.sum_to_size(step.shape) / step * ctx.factor, None, None


class _Straight(torch.autograd.Function):
    """Any change of values that a gradient passes as it is."""

    @staticmethod
    def forward(_: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        return change(x)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`change` of x, whose gradient is that of x (Bengio et al. 2013)."""
    return _Straight.apply(x, change)


def stepped(x: Tensor, step: Tensor, grid: Grid, factor: float = 1.0) -> Tensor:
    """`grid.fake_quantize(x)` with gradients for both.

    Args:
        x: Any shape.
        step: The grid's scale as it broadcasts against x.
        grid: Evenly spaced, with this scale.
        factor: What the gradient of the step is multiplied by.
    """
    return _Stepped.apply(x, step, grid, factor)


class FixedGrid(nn.Module):
    """A grid that stays as it is, while what is rounded to it learns: values that are not evenly spaced."""

    def __init__(self, grid: AnyGrid) -> None:
        super().__init__()
        self.grid = grid

    def made(self) -> AnyGrid:
        """The grid."""
        return self.grid

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Each value moved to the nearest point of the grid, straight through."""
        return straight_through(x, self.grid.fake_quantize)


class LearnedGrid(nn.Module):
    """A grid whose step learns, from the one that a range gave; its zero point, a whole number, stays."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self._like = replace(grid, scale=grid.scale.detach().clone(), zero_point=grid.zero_point.clone())
        self.log_step = nn.Parameter(self._like.scale.clamp(min=SMALLEST).log())

    def step(self) -> Tensor:
        """The step, in the shape of the grid's scale.

        One of 2^k stays one: k is rounded, and learns straight through (Jain et al. 2020, section 3.1). Steps of
        groups are kept in two bytes, and learn so.
        """
        if self._like.power_of_two:
            return torch.exp2(straight_through(self.log_step / math.log(2), torch.round)).clamp(min=SMALLEST)
        step = self.log_step.exp().clamp(min=SMALLEST)
        return straight_through(step, _halved) if self._like.group else step

    def made(self) -> Grid:
        """The grid as it is now."""
        return replace(self._like, scale=self.step().detach().clone())

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Each value moved to the nearest point of the grid.

        The gradient of the step is divided by sqrt(values of a step * largest whole number), section 2.2 of the
        paper: it is then about as large as that of the weights.
        """
        step = self.step()
        grid = replace(self._like, scale=step.detach())
        factor = 1 / math.sqrt(max(1, x.numel() // step.numel()) * max(1, grid.quant_max))
        return stepped(x, grid.along(step, x), grid, factor)


def _halved(step: Tensor) -> Tensor:
    return step.to(torch.bfloat16).to(torch.float32)


TrainedGrid = FixedGrid | LearnedGrid
"""What rounds a weight or an activation while a network learns."""


def trained(grid: AnyGrid) -> TrainedGrid:
    """What rounds to a grid, and learns its steps where it has any."""
    return LearnedGrid(grid) if isinstance(grid, Grid) else FixedGrid(grid)
