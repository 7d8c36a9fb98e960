"""From values to a grid: which range it spans, and the scale and zero point that follow.

Weights come as rows, one per scale; activations as a histogram. Both are samples with a count, so
that one search serves them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.grid import Grid

OUTERMOST = 0.001  # share of values outside a percentile range
COARSE = torch.linspace(0.2, 1.0, 21)  # shares of the full range that the MSE search tries first
FINE = torch.linspace(-0.032, 0.032, 9)  # and then round the best of these
AT_ONCE = 2**17  # values that the search holds at once, so that they stay in the cache


def grid_over(low: Tensor, high: Tensor, bits: int, scheme: str, axis: int | None = None) -> Grid:
    """The grid that spans a range, with torch's observers' formulas for scale and zero point.

    Args:
        low: Smallest values, shape () or (channels,).
        high: Largest values, the same shape.
        bits: 2 to 8.
        scheme: ``symmetric`` (signed, zero point 0), ``affine`` (unsigned, zero inside the range) or ``midrise``
            (as many values above zero as below, none at it). The half steps of 8 bits fit into no 8-bit type:
            there, ``midrise`` is ``symmetric``.
        axis: The axis that the channels run along.
    """
    low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
    steps = 2**bits - 1
    smallest = torch.finfo(torch.float32).eps
    if scheme == "midrise" and bits < 8:
        scale = (torch.maximum(-low, high) / steps).clamp(min=smallest)
        return Grid(scale, torch.zeros_like(scale, dtype=torch.int32), -steps, steps, bits, axis, stride=2)
    if scheme in ("symmetric", "midrise"):
        scale = (torch.maximum(-low, high) / (steps / 2)).clamp(min=smallest)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return Grid(scale, zero, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, bits, axis)
    scale = ((high - low) / steps).clamp(min=smallest)
    zero = (-torch.round(low / scale)).clamp(0, steps).to(torch.int32)
    return Grid(scale, zero, 0, steps, bits, axis)


def naive_grid(bits: int) -> Grid:
    """The survey's ``clip(round(x * 2^(n-1)), 0, 2^(n-1)-1)``: steps of 2^(1-n), and nothing below zero."""
    return Grid(torch.tensor(2.0 ** (1 - bits)), torch.tensor(0, dtype=torch.int32), 0, 2 ** (bits - 1) - 1, bits)


def spanned(values: Tensor, counts: Tensor | None, bits: int, scheme: str, how: str) -> tuple[Tensor, Tensor]:
    """The range that a grid should span.

    Args:
        values: Shape (rows, n): one range per row.
        counts: How often each value occurs, shape (n,), or how much its error counts, shape (rows, n) (``mse``
            only); None: once each.
        bits: 2 to 8.
        scheme: ``symmetric``, ``affine`` or ``midrise``.
        how: ``minmax``, ``percentile`` or ``mse``.

    Returns:
        low and high, each of shape (rows,).
    """
    low, high = values.amin(1), values.amax(1)
    if how == "percentile":
        return _percentile(values, counts, scheme, low, high)
    if how == "mse":
        return _least_squares(values, counts, bits, scheme, low, high)
    return low, high


def _percentile(values: Tensor, counts: Tensor | None, scheme: str, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    if scheme != "affine":
        values = values.abs()
    ordered, order = values.sort(1)
    weight = torch.ones_like(ordered) if counts is None else counts.to(ordered.dtype)[order]
    reached = weight.cumsum(1) / weight.sum(1, keepdim=True)

    def at(share: float) -> Tensor:
        index = torch.searchsorted(reached, torch.full((len(ordered), 1), share)).clamp(max=ordered.shape[1] - 1)
        return ordered.gather(1, index).squeeze(1)

    if scheme != "affine":
        top = at(1 - OUTERMOST)
        return -top, top
    return torch.maximum(low, at(OUTERMOST / 2)), torch.minimum(high, at(1 - OUTERMOST / 2))


def _least_squares(
    values: Tensor, counts: Tensor | None, bits: int, scheme: str, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """The share of the full range with the least squared rounding error, row by row, coarse to fine.

    A share shrinks the steps and moves no zero point, so values are divided by the full range's step once, and
    a share then costs one multiplication, a rounding and a clamp by numbers.
    """
    size = max(1, AT_ONCE // values.shape[1])
    of_rows = counts.split(size) if counts is not None and counts.dim() == 2 else [counts] * -(-len(values) // size)
    best = torch.cat(
        [
            _best_shares(rows, own, grid_over(rows_low, rows_high, bits, scheme, axis=0))
            for rows, rows_low, rows_high, own in zip(
                *(tensor.split(size) for tensor in (values, low, high)), of_rows, strict=True
            )
        ]
    )
    return low * best, high * best


def _best_shares(values: Tensor, counts: Tensor | None, full: Grid) -> Tensor:
    """Shares of shape (rows,) for values of shape (rows, n) and the grid over their whole range.

    Counts have shape (n,) or (rows, n).
    """
    steps = values * full.scale[:, None].reciprocal()
    # numbers where all rows have one zero point, which is faster
    zero = full.zero_point[:, None].float() if full.quant_min == 0 else 0.0
    least, most = full.quant_min - zero, full.quant_max - zero
    parts = steps.split(AT_ONCE, 1)
    often = counts.split(AT_ONCE, -1) if counts is not None else (None,) * len(parts)

    def error(share: Tensor) -> Tensor:
        """Squared errors of each row, shape (rows,), in squares of a full step; the share is () or (rows, 1)."""
        total = torch.zeros(len(values))
        for part, times in zip(parts, often, strict=True):
            scaled = part * share.reciprocal()
            rounded = (scaled * 0.5).floor_().mul_(2).add_(1) if full.stride == 2 else scaled.round()
            residual = rounded.clamp_(least, most).sub_(scaled)
            if times is None:
                total += torch.linalg.vector_norm(residual, dim=1) ** 2
            elif times.dim() == 2:
                total += (residual.square_() * times).sum(1)
            else:
                total += residual.square_() @ times
        return total * share.flatten().square()

    shares = COARSE[torch.stack([error(share) for share in COARSE]).argmin(0)]
    tried = (shares + FINE[:, None]).clamp(0.02, 1.0)
    errors = torch.stack([error(share[:, None]) for share in tried])
    return tried.gather(0, errors.argmin(0, keepdim=True))[0]
