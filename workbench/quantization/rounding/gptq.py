"""GPTQ: column by column, what a rounding broke is repaired in the columns that are not rounded yet."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.quantization.rounding.problem import DAMPING, TINY, Problem, Rounded, Watch

BLOCK = 128
"""Columns whose repairs are gathered before the rest of the matrix is touched (section 3.3 of the paper)."""
MORE_DAMPING = (DAMPING, 10 * DAMPING, 100 * DAMPING)


def gptq(problem: Problem, watch: Watch = Watch()) -> Rounded:  # noqa: B008 - a Watch cannot be changed
    """Optimal brain quantization in one order for all rows.

    Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022,
    algorithm 1, with inputs in the order of falling second moments ("act-order" in the authors' code). Where a
    row comes out worse than rounded to nearest, it is rounded to nearest.

    Args:
        problem: Rows, moments and grids.
        watch: Looked at once a block.
    """
    nearest = problem.nearest(problem.rows)
    order = problem.order()
    inverse = _inverse_factor(problem, order)
    if inverse is None:
        return Rounded(nearest, problem.scale)
    ordered = problem.ordered(order)
    rows = ordered.rows.clone()
    steps = torch.empty_like(rows)
    n = rows.shape[-1]
    for start in range(0, n, BLOCK):
        watch.look(start / n)
        stop = min(start + BLOCK, n)
        block, factor = rows[..., start:stop].clone(), inverse[:, start:stop]
        errors = torch.empty_like(block)
        for column in range(stop - start):
            own = factor[:, column, start + column, None, None]  # (groups, 1, 1)
            grid = ordered.column(start + column)
            found = grid.nearest(block[..., column, None])
            error = (block[..., column, None] - found * grid.scale) / own
            block[..., column:] -= error * factor[:, None, column, start + column : stop]
            steps[..., start + column], errors[..., column] = found[..., 0], error[..., 0]
        rows[..., stop:] -= errors @ factor[..., stop:]
    found = torch.empty_like(steps).scatter_(-1, order[:, None].expand_as(steps), steps)
    return Rounded(problem.better(found, nearest), problem.scale)


def _inverse_factor(problem: Problem, order: Tensor) -> Tensor | None:
    """The upper Cholesky factor of the inverse moments, made in float64.

    Moments that rounding errors keep from being positive definite are damped more; None where nothing helps,
    as with infinite ones.
    """
    for share in MORE_DAMPING:
        double = problem.damped(share).ordered(order).moments.double()
        size = double.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None].clamp(min=TINY)
        lower, failed = torch.linalg.cholesky_ex(double / size)
        if not bool(failed.any()) and bool(torch.isfinite(lower).all()):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not bool(failed.any()):
                return upper.float()
    return None
