"""What every rounding method solves: rows of weights, each to be put on a grid so that its products change least."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.errors import Cancelled
from workbench.grid import AnyGrid, CodebookGrid, FloatGrid, Grid

DAMPING = 0.01
"""Of the mean second moment, added to every input's own: what the calibration data never moved must not be free."""
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer's rows, the second moments of what they are multiplied with, and the grid of each row.

    A row w that becomes v changes the layer's output by a mean square of ``(v - w) H (v - w)^T``. Values of the
    grid are ``steps * scale``: of an even grid, for whole steps from ``low - zero`` to ``high - zero``, every
    `stride`-th of them; of any other, for the steps in `levels`. Scales and zero points have shape
    (groups, rows, 1), or (groups, rows, n) where a row has several.
    """

    rows: Tensor
    """Shape (groups, rows, n)."""
    moments: Tensor
    """Shape (groups, n, n): the mean of x x^T over calibration inputs, or their covariance."""
    scale: Tensor
    """Above 0."""
    zero: Tensor
    """float32."""
    low: int
    high: int
    stride: int = 1
    shared: bool = False
    """Whether all rows have one scale."""
    fixed: bool = False
    """Whether the scales have to stay as they are: those of groups, powers of two, and what codebooks do not have."""
    levels: Tensor | None = None
    """The steps of a grid that is not even, in rising order; shape (groups, rows, sets, k)."""
    sets: Tensor | None = None
    """Which of its row's sets of `levels` each weight has, shape (groups, n)."""

    @classmethod
    def of(cls, weight: Tensor, grid: AnyGrid, moments: Tensor) -> Problem:
        """A layer's problem.

        Args:
            weight: Shape (outputs, ...), the outputs of a convolution's first group first.
            grid: Of the weight, along axis 0 or for all.
            moments: Shape (groups, n, n).

        Raises:
            ValueError: A grid of another kind.
        """
        rows = weight.float().reshape(len(moments), -1, moments.shape[-1])

        def of_rows(values: Tensor) -> Tensor:
            if grid.group:
                return grid.along(values, weight).float().reshape(rows.shape)
            return (values.float() if grid.axis == 0 else values.float().expand(len(weight))).reshape(
                *rows.shape[:2], 1
            )

        shared = grid.axis is None and len(weight) > 1
        if isinstance(grid, Grid):
            ends = grid.quant_min, grid.quant_max, grid.stride
            fixed = bool(grid.group) or grid.power_of_two
            return cls(rows, moments, of_rows(grid.scale), of_rows(grid.zero_point), *ends, shared, fixed)
        one = torch.zeros(len(moments), rows.shape[-1], dtype=torch.long)
        if isinstance(grid, FloatGrid):
            scale = of_rows(grid.scale)
            fixed = bool(grid.group) or grid.power_of_two
            return cls(
                rows,
                moments,
                scale,
                torch.zeros_like(scale),
                0,
                0,
                1,
                shared,
                fixed,
                grid.levels[None, None, None],
                one,
            )
        if isinstance(grid, CodebookGrid) and (grid.axis == 0 or not grid.group):
            ones = torch.ones(*rows.shape[:2], 1)
            levels = grid.values.reshape(1, 1, 1, -1)
            if grid.axis == 0:
                levels = grid.values.reshape(*rows.shape[:2], -1, grid.values.shape[-1])
            place = torch.arange(rows.shape[-1]) // (grid.group or rows.shape[-1])
            zeros = torch.zeros_like(ones)
            return cls(rows, moments, ones, zeros, 0, 0, 1, shared, True, levels, place.expand(len(moments), -1))
        raise ValueError(f"no rounding method knows a {type(grid).__name__} along axis {grid.axis}")

    def column(self, at: int) -> Problem:
        """Of one weight of each row; its moments are left out of account."""
        part = slice(at, at + 1)
        scale, zero = (each if each.shape[-1] == 1 else each[..., part] for each in (self.scale, self.zero))
        levels, sets = self.levels, None
        if levels is not None and self.sets is not None:
            if levels.shape[2] > 1:
                levels = levels.gather(2, self.sets[:, None, part, None].expand(*levels.shape[:2], 1, levels.shape[3]))
            sets = torch.zeros_like(self.sets[:, part])
        return replace(self, rows=self.rows[..., part], scale=scale, zero=zero, levels=levels, sets=sets)

    def nearest(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """The steps nearest to values of shape (groups, rows, k), as float32.

        Where weights of one row have grids of their own, k is n, or 1 for a `column`.
        """
        steps = x / (self.scale if scale is None else scale)
        if self.levels is not None:
            below, above = self._between(steps)
            return torch.where(steps - below <= above - steps, below, above)
        if self.stride == 2:
            return (2 * torch.floor(steps / 2) + 1).clamp_(self.low, self.high)
        return torch.clamp(steps.round_(), self.low - self.zero, self.high - self.zero)

    def neighbours(self) -> tuple[Tensor, Tensor]:
        """The steps below and above each weight, shape (groups, rows, n); beyond the grid's ends, its last two."""
        steps = self.rows / self.scale
        if self.levels is not None:
            return self._between(steps)
        if self.stride == 2:
            below = (2 * torch.floor((steps - 1) / 2) + 1).clamp(self.low, self.high - 2)
        else:
            below = torch.clamp(steps.floor(), self.low - self.zero, self.high - 1 - self.zero)
        return below, below + self.stride

    def _between(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """The levels below and above."""
        levels, sets = self.levels, self.sets
        assert levels is not None and sets is not None  # noqa: S101 - asked for uneven grids alone
        most = levels.shape[-1] - 2
        if levels.shape[:3].numel() == 1:
            flat = levels.flatten()
            at = (torch.bucketize(steps.contiguous(), flat) - 1).clamp_(0, most)
            return flat[at], flat[at + 1]
        below, above = torch.empty_like(steps), torch.empty_like(steps)
        for index in range(levels.shape[2]):
            own = levels[:, :, index].expand(*steps.shape[:2], -1).contiguous()
            at = (torch.searchsorted(own, steps.contiguous()) - 1).clamp_(0, most)
            mine = (sets == index)[:, None]
            below = torch.where(mine, own.gather(-1, at), below)
            above = torch.where(mine, own.gather(-1, at + 1), above)
        return below, above

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
        each = order[:, None].expand_as(self.rows)
        rows, scale, zero = (
            x if x.shape[-1] < order.shape[-1] else x.gather(-1, each) for x in (self.rows, self.scale, self.zero)
        )
        sets = None if self.sets is None else self.sets.gather(-1, order)
        return replace(self, rows=rows, moments=moments, scale=scale, zero=zero, sets=sets)

    def better(self, one: Tensor, other: Tensor) -> Tensor:
        """Of two roundings, row by row the one that changes the output less."""
        return torch.where((self.loss(one) <= self.loss(other))[..., None], one, other)


class Rounded(NamedTuple):
    """A solution."""

    steps: Tensor
    """As in `Problem`, float32, shape (groups, rows, n)."""
    scale: Tensor
    """As in `Problem`."""


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


def on_grid(found: Rounded, grid: AnyGrid, weight: Tensor) -> tuple[Tensor, AnyGrid]:
    """A solution as whole numbers in the shape of the weight, and their grid.

    Args:
        found: The solution of `Problem.of` these.
        grid: The problem's.
        weight: As in `Problem.of`.
    """
    made = grid
    if isinstance(grid, Grid | FloatGrid) and not grid.group and not grid.power_of_two:
        made = replace(grid, scale=found.scale.flatten() if grid.axis == 0 else found.scale.flatten()[0])
    if not isinstance(made, Grid):
        values = (found.steps * found.scale).reshape(weight.shape)
        return torch.empty_like(weight, dtype=made.dtype).copy_(made.quantize(values)), made
    steps = found.steps.reshape(weight.shape)
    whole = steps + made.along(made.zero_point, steps)
    return torch.empty_like(weight, dtype=made.dtype).copy_(whole), made  # in the weight's layout: convolutions run so


Rounding = Callable[[Problem, Watch], Rounded]
