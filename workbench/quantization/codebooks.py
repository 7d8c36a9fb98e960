"""Values that suit the weights themselves: k-means in one dimension."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.quantization.ranges import spanned
from workbench.quantization.schemes import grid_over

ROUNDS = 100
"""Of Lloyd's algorithm at most; most rows stand still after 20."""
AT_ONCE = 2**22
"""Numbers of a batch of rows."""


def k_means(rows: Tensor, counts: Tensor | None, bits: int) -> Tensor:
    """The 2^bits values of each row that its members are nearest to, in least squares.

    Lloyd, "Least squares quantization in PCM", 1982, from two starts of which the better end is kept row by row:
    the rows' quantiles, and the even grid with the least squared error, so that it is never worse than that one.
    With counts it is the weighted k-means of Kim et al., "SqueezeLLM: Dense-and-Sparse Quantization", 2023.

    Args:
        rows: Shape (rows, n).
        counts: How much each value's error counts, shape (rows, n); None: equally.
        bits: 1 to 8.

    Returns:
        float32 in rising order, shape (rows, 2^bits); with fewer different values some are there twice.
    """
    size = max(1, AT_ONCE // rows.shape[1])
    parts = counts.split(size) if counts is not None else [None] * -(-len(rows) // size)
    return torch.cat([_of_rows(part, own, bits) for part, own in zip(rows.split(size), parts, strict=True)])


def _of_rows(rows: Tensor, counts: Tensor | None, bits: int) -> Tensor:
    levels = 2**bits
    ordered, order = rows.double().contiguous().sort(1)
    weight = torch.ones_like(ordered) if counts is None else counts.double().gather(1, order)
    places = ((torch.arange(levels) + 0.5) / levels * rows.shape[1]).long()
    low, high = spanned(rows, counts, bits, "affine", "mse")
    even = grid_over(low, high, bits, "affine", axis=0)
    codes = torch.arange(levels, dtype=torch.int32).expand(len(rows), -1).to(even.dtype)
    starts = ordered[:, places], even.dequantize(codes).double()
    one, other = (_lloyd(ordered, weight, start) for start in starts)
    first = (_lost(ordered, weight, one) <= _lost(ordered, weight, other))[:, None]
    return torch.where(first, one, other).float()


def _lloyd(ordered: Tensor, weight: Tensor, values: Tensor) -> Tensor:
    """By turns each value's members and their mean; members are neighbours, so that sums up to a place suffice."""
    sums = [torch.nn.functional.pad(each.cumsum(1), (1, 0)) for each in (weight, weight * ordered)]
    for _ in range(ROUNDS):
        ends = torch.searchsorted(ordered, ((values[:, 1:] + values[:, :-1]) / 2).contiguous(), right=True)
        ends = torch.nn.functional.pad(ends, (1, 0))
        ends = torch.nn.functional.pad(ends, (0, 1), value=ordered.shape[1])
        mass, total = (each.gather(1, ends).diff(dim=1) for each in sums)
        moved = torch.where(mass > 0, total / mass.clamp(min=1e-300), values)
        moved = moved.cummax(1).values  # a mean outside its cell by a rounding error
        if torch.equal(moved, values):
            break
        values = moved
    return values


def _lost(ordered: Tensor, weight: Tensor, values: Tensor) -> Tensor:
    """Weighted squared error of each row."""
    middle = ((values[:, 1:] + values[:, :-1]) / 2).contiguous()
    near = values.gather(1, torch.searchsorted(middle, ordered))
    return ((near - ordered).square() * weight).sum(1)
