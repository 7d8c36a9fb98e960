"""The grid of a layer's weights: its units are cut out, a range or a codebook is found for each, or the best of all."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from workbench.grids import AnyGrid, CodebookGrid
from workbench.grids.base import as_rows
from workbench.grids.codebook import halved
from workbench.quantization.codebooks import k_means
from workbench.quantization.ranges import RANGES, spanned
from workbench.quantization.rounding.problem import DAMPING, TINY
from workbench.quantization.schemes import grid_over


class Asked(Protocol):
    """What a recipe says of a weight's grid; see `Quantization`."""

    @property
    def bits(self) -> int:
        """1 to 8."""

    @property
    def scheme(self) -> str:
        """One of `SCHEMES`, or ``codebook``."""

    @property
    def granularity(self) -> str:
        """``tensor``, ``channel`` or ``group``."""

    @property
    def range(self) -> str:
        """One of `RANGES`, ``hessian`` or ``auto``."""

    @property
    def group_size(self) -> int:
        """Where the granularity is ``group``."""


def weight_grid(weight: Tensor, asked: Asked, axis: int | None, moments: Tensor | None = None) -> AnyGrid:
    """The grid that a recipe asks for.

    Args:
        weight: Any shape.
        asked: Scheme, granularity and range.
        axis: Along which the output channels run; None where they cannot be told.
        moments: Second moments of what the rows are multiplied with, shape (groups, n, n); the outputs then run
            along axis 0. Without them, ``hessian`` and ``auto`` are ``mse``.
    """
    if asked.range != "auto":
        return _ranged(weight, asked, axis, asked.range, moments)
    if moments is None:
        return _ranged(weight, asked, axis, "mse", None)
    ways = ("mse", "hessian") if asked.scheme == "codebook" else (*RANGES, "hessian")
    tried = [_ranged(weight, asked, axis, how, moments) for how in ways]
    losses = torch.stack([_output_change(weight, grid, moments) for grid in tried])
    return tried[int(losses.nan_to_num(torch.inf).argmin())]


def _output_change(weight: Tensor, grid: AnyGrid, moments: Tensor) -> Tensor:
    """The mean squared change of the layer's output when its weights go to the nearest grid points."""
    change = (grid.fake_quantize(weight) - weight).reshape(len(moments), -1, moments.shape[-1])
    return ((change @ moments) * change).sum()


def _ranged(weight: Tensor, asked: Asked, axis: int | None, how: str, moments: Tensor | None) -> AnyGrid:
    counts = None
    if how == "hessian":
        how = "mse"
        if moments is not None:
            # a diagonal Hessian of the layer's squared error: a weight's error counts as its input's power does
            power = moments.diagonal(dim1=-2, dim2=-1).clamp(min=0)
            power = power + DAMPING * power.mean(-1, keepdim=True) + TINY  # an input that never came can come yet
            counts = power.repeat_interleave(len(weight) // len(power), 0)
    whole = asked.granularity == "tensor" or axis is None
    axis = None if whole else axis
    rows = as_rows(weight.float(), axis)
    counts = counts.reshape(rows.shape) if counts is not None else None
    group = asked.group_size if asked.granularity == "group" else 0
    if not group:
        found = _fitted(rows, counts, asked, how)
        found = found[0] if whole else found
    else:
        found = _fitted_groups(rows, counts, group, asked, how)
    if asked.scheme == "codebook":
        return CodebookGrid(halved(found), asked.bits, axis, group)
    return grid_over(found[..., 0], found[..., 1], asked.bits, asked.scheme, axis, group)


def _fitted_groups(rows: Tensor, counts: Tensor | None, group: int, asked: Asked, how: str) -> Tensor:
    """As `_fitted`, shape (channels, groups, k); the groups that are whole at once, then what is left."""
    channels, n = rows.shape
    cut = n // group * group
    made = []
    for part, size in ((slice(0, cut), group), (slice(cut, n), n - cut)):
        units = rows[:, part]
        if units.numel():
            own = counts[:, part].reshape(-1, size) if counts is not None else None
            made.append(_fitted(units.reshape(-1, size), own, asked, how).reshape(channels, units.shape[1] // size, -1))
    return torch.cat(made, 1)


def _fitted(rows: Tensor, counts: Tensor | None, asked: Asked, how: str) -> Tensor:
    """What describes the grid of each row, shape (rows, k): its values, or the ends of its range."""
    if asked.scheme == "codebook":
        return k_means(rows, counts, asked.bits)
    return torch.stack(spanned(rows, counts, asked.bits, asked.scheme, how), -1)
