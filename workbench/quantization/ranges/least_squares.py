"""The range that gives the least squared rounding error."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from workbench.grids import Grid
from workbench.quantization.schemes import SCHEMES, Scheme, grid_over

AT_ONCE = 2**17  # values that the search holds at once, so that they stay in the cache
Error = Callable[[Tensor], Tensor]


def least_squares(values: Tensor, counts: Tensor | None, bits: int, scheme: str) -> tuple[Tensor, Tensor]:
    """The share of the full range with the least squared error, row by row, coarse to fine; see `spanned`.

    Two values of either sign need no search: the mean magnitude is best (Rastegari et al., "XNOR-Net", 2016, eq. 6).
    """
    if bits == 1 and SCHEMES[scheme].signed:
        mean = _mean_magnitude(values, counts)
        return -mean, mean
    low, high = values.amin(1).clamp(max=0.0), values.amax(1).clamp(min=0.0)
    size = max(1, AT_ONCE // values.shape[1])
    of_rows = counts.split(size) if counts is not None and counts.dim() == 2 else [counts] * -(-len(values) // size)
    best = torch.cat(
        [
            _best_shares(SCHEMES[scheme], _error(rows, own, (rows_low, rows_high), bits, scheme))
            for rows, rows_low, rows_high, own in zip(
                *(tensor.split(size) for tensor in (values, low, high)), of_rows, strict=True
            )
        ]
    )
    return low * best, high * best


def _mean_magnitude(values: Tensor, counts: Tensor | None) -> Tensor:
    if counts is None:
        return values.abs().mean(1)
    return (values.abs() * counts).sum(1) / counts.expand_as(values).sum(1)


def _best_shares(scheme: Scheme, error: Error) -> Tensor:
    """Shares of shape (rows,), by the errors of shape (rows,) of a share of shape () or (rows, 1)."""
    shares = scheme.shares[torch.stack([error(share) for share in scheme.shares]).argmin(0)]
    if len(scheme.around) == 1:
        return shares
    tried = (shares + scheme.around[:, None]).clamp(0.02, 1.0)
    errors = torch.stack([error(share[:, None]) for share in tried])
    return tried.gather(0, errors.argmin(0, keepdim=True))[0]


def _error(values: Tensor, counts: Tensor | None, full: tuple[Tensor, Tensor], bits: int, scheme: str) -> Error:
    grid = grid_over(*full, bits, scheme, axis=0)
    if isinstance(grid, Grid) and not grid.power_of_two:
        return _even_error(values, counts, grid)
    return _any_error(values, counts, full, bits, scheme)


def _even_error(values: Tensor, counts: Tensor | None, full: Grid) -> Error:
    """Squared errors of each row for shares of a range, in squares of the full range's step.

    A share shrinks the steps and moves no zero point, so values are divided by the full range's step once, and
    a share then costs one multiplication, a rounding and a clamp by numbers. Counts have shape (n,) or (rows, n).
    """
    steps = values * full.scale[:, None].reciprocal()
    # numbers where all rows have one zero point, which is faster
    zero = full.zero_point[:, None].float() if full.quant_min == 0 else 0.0
    least, most = full.quant_min - zero, full.quant_max - zero
    parts = steps.split(AT_ONCE, 1)
    often = counts.split(AT_ONCE, -1) if counts is not None else (None,) * len(parts)

    def error(share: Tensor) -> Tensor:
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

    return error


def _any_error(values: Tensor, counts: Tensor | None, full: tuple[Tensor, Tensor], bits: int, scheme: str) -> Error:
    """As `_even_error`, by rounding to the grid itself, in squares of the values' unit."""

    def error(share: Tensor) -> Tensor:
        low, high = (end * share.flatten() for end in full)
        squares = (grid_over(low, high, bits, scheme, axis=0).fake_quantize(values) - values).square_()
        if counts is None:
            return squares.sum(1)
        return (squares * counts).sum(1) if counts.dim() == 2 else squares @ counts

    return error
