"""What every rounding method solves: rows of weights, each to be put on a grid so that its products change least."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.errors import Cancelled
from workbench.grid import Grid

DAMPING = 0.01
"""Of the mean second moment, added to every input's own: what the calibration data never moved must not be free."""
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer's rows, the second moments of what they are multiplied with, and the grid of each row.

    A row w that becomes v changes the layer's output by a mean square of ``(v - w) H (v - w)^T``. Values of the
    grid are ``steps * scale`` for whole steps from ``low - zero`` to ``high - zero``, every `stride`-th of them.
    """

    rows: Tensor
    """Shape (groups, rows, n)."""
    moments: Tensor
    """Shape (groups, n, n): the mean of x x^T over calibration inputs, or their covariance."""
    scale: Tensor
    """Shape (groups, rows, 1), above 0."""
    zero: Tensor
    """float32, shape (groups, rows, 1)."""
    low: int
    high: int
    stride: int = 1
    shared: bool = False
    """Whether all rows have one scale."""

    @classmethod
    def of(cls, weight: Tensor, grid: Grid, moments: Tensor) -> Problem:
        """A layer's problem.

        Args:
            weight: Shape (outputs, ...), the outputs of a convolution's first group first.
            grid: Of the weight, along axis 0 or for all.
            moments: Shape (groups, n, n).
        """
        rows = weight.float().reshape(len(moments), -1, moments.shape[-1])
        scale, zero = (
            (each.float() if grid.axis == 0 else each.float().expand(len(weight))).reshape(*rows.shape[:2], 1)
            for each in (grid.scale, grid.zero_point)
        )
        return cls(
            rows,
            moments,
            scale,
            zero,
            grid.quant_min,
            grid.quant_max,
            grid.stride,
            grid.axis is None and len(weight) > 1,
        )

    def nearest(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """The steps nearest to values of shape (groups, rows, k), as float32."""
        steps = x / (self.scale if scale is None else scale)
        if self.stride == 2:
            return (2 * torch.floor(steps / 2) + 1).clamp_(self.low, self.high)
        return torch.clamp(steps.round_(), self.low - self.zero, self.high - self.zero)

    def loss(self, steps: Tensor) -> Tensor:
        """The mean squared change of each row's output, shape (groups, rows)."""
        change = steps * self.scale - self.rows
        return ((change @ self.moments) * change).sum(-1)

    def damped(self, share: float = DAMPING) -> Problem:
        """With moments that can be inverted."""
        own = self.moments.diagonal(dim1=-2, dim2=-1)
        added = share * own.mean(-1, keepdim=True).clamp(min=0) + TINY
        return replace(self, moments=self.moments + torch.diag_embed(added.expand_as(own)))

    def order(self) -> Tensor:
        """The inputs from the largest second moment to the smallest, shape (groups, n)."""
        return self.moments.diagonal(dim1=-2, dim2=-1).argsort(-1, descending=True)

    def ordered(self, order: Tensor) -> Problem:
        """The same problem with its inputs in another order, of shape (groups, n)."""
        moments = self.moments.gather(1, order[:, :, None].expand_as(self.moments))
        moments = moments.gather(2, order[:, None, :].expand_as(moments))
        return replace(self, rows=self.rows.gather(-1, order[:, None].expand_as(self.rows)), moments=moments)

    def better(self, one: Tensor, other: Tensor) -> Tensor:
        """Of two roundings, row by row the one that changes the output less."""
        return torch.where((self.loss(one) <= self.loss(other))[..., None], one, other)


class Rounded(NamedTuple):
    """A solution."""

    steps: Tensor
    """Whole numbers as float32, shape (groups, rows, n)."""
    scale: Tensor
    """Shape (groups, rows, 1)."""


class Watch(NamedTuple):
    """How a method that takes long is followed and stopped."""

    cancel: threading.Event | None = None
    tell: Callable[[float], None] | None = None
    """Hears the share that is done, 0 to 1."""

    def look(self, done: float) -> None:
        """Say how far it is.

        Raises:
            Cancelled: It is not wanted any more.
        """
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled
        if self.tell is not None:
            self.tell(done)

    def part(self, start: float, stop: float) -> Watch:
        """Of a step that goes from one share of the whole to another."""
        tell = self.tell
        return Watch(self.cancel, None if tell is None else lambda done: tell(start + (stop - start) * done))


def on_grid(found: Rounded, grid: Grid, weight: Tensor) -> tuple[Tensor, Grid]:
    """A solution as whole numbers in the shape of the weight, and their grid.

    Args:
        found: The solution of `Problem.of` these.
        grid: The problem's.
        weight: As in `Problem.of`.
    """
    scale = found.scale.flatten() if grid.axis == 0 else found.scale.flatten()[0]
    made = replace(grid, scale=scale)
    steps = found.steps.reshape(weight.shape)
    whole = steps + made.along(made.zero_point, steps)
    return torch.empty_like(weight, dtype=made.dtype).copy_(whole), made  # in the weight's layout: convolutions run so


Rounding = Callable[[Problem, Watch], Rounded]
