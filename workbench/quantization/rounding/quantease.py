"""Coordinate descent over the grid: one weight of every row at a time goes where the output changes least."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from workbench.quantization.rounding.gptq import gptq
from workbench.quantization.rounding.problem import TINY, Problem, Rounded, Watch

BLOCK = 128
SWEEPS = 4
"""Over all inputs before the steps are fitted for the first time."""
FITS = 4
"""Of the steps' size, each followed by `SWEEPS_BETWEEN` sweeps."""
SWEEPS_BETWEEN = 2


def quantease(problem: Problem, watch: Watch = Watch()) -> Rounded:  # noqa: B008 - a Watch cannot be changed
    """Start from GPTQ, then by turns move single weights and fit the size of the steps.

    Behdin et al., "QuantEase: Optimization-based Quantization for Language Models", 2023, algorithm 1, which
    keeps the grid; the least-squares fit of the steps between the sweeps is that of alternating quantization
    (Xu et al. 2018). The loss never grows, so the result is never worse than GPTQ's. Steps that are fixed (those
    of groups, powers of two, codebooks) are not fitted; the sweeps go on in their place.

    Args:
        problem: Rows, moments and grids.
        watch: Looked at once a block.
    """
    order = problem.order()
    original, problem = problem, problem.ordered(order)  # what counts most is settled first
    damped = problem.damped()
    steps = gptq(problem, watch.part(0, 0.2)).steps
    steps = descend(damped, damped.better(steps, problem.nearest(problem.rows)), SWEEPS, watch.part(0.2, 0.4))
    for fit in range(FITS):
        if not damped.fixed:
            damped = replace(damped, scale=fitted_scale(damped, steps))
        start = 0.4 + 0.6 * fit / FITS
        steps = descend(damped, steps, SWEEPS_BETWEEN, watch.part(start, start + 0.6 / FITS))
    places = order[:, None].expand_as(steps)
    scale = original.scale if problem.fixed else damped.scale  # in the order of the inputs, where there are several
    return _kept(original, Rounded(torch.empty_like(steps).scatter_(-1, places, steps), scale))


def _kept(problem: Problem, found: Rounded) -> Rounded:
    """The solution, but where without damping it is worse than rounding to nearest, that."""
    nearest = problem.nearest(problem.rows)
    ours, theirs = (
        p.loss(steps) for p, steps in ((replace(problem, scale=found.scale), found.steps), (problem, nearest))
    )
    if problem.shared:
        ours, theirs = ours.sum().expand_as(ours), theirs.sum().expand_as(theirs)
    good = (ours <= theirs)[..., None]
    return Rounded(torch.where(good, found.steps, nearest), torch.where(good, found.scale, problem.scale))


def descend(problem: Problem, steps: Tensor, sweeps: int, watch: Watch = Watch()) -> Tensor:  # noqa: B008
    """Cyclic coordinate descent; every move lowers its row's loss.

    Args:
        problem: With moments whose diagonal is above 0.
        steps: Where it starts, shape (groups, rows, n).
        sweeps: Over all inputs at most; it ends early where nothing moves.
        watch: Looked at once a block.
    """
    moments, n = problem.moments, problem.rows.shape[-1]
    own = moments.diagonal(dim1=-2, dim2=-1)
    values = steps * problem.scale
    gradient = (values - problem.rows) @ moments  # half of it
    for sweep in range(sweeps):
        moved = False
        for start in range(0, n, BLOCK):
            watch.look((sweep + start / n) / sweeps)
            stop = min(start + BLOCK, n)
            inside, slope = moments[:, start:stop, start:stop], gradient[..., start:stop].clone()
            changes = torch.zeros_like(slope)
            for column in range(stop - start):
                at = start + column
                grid, value = problem.column(at), values[..., at, None]
                best = value - slope[..., column, None] / own[:, at, None, None]
                change = grid.nearest(best) * grid.scale - value
                changes[..., column] = change[..., 0]
                slope += change * inside[:, None, column]
            if bool(changes.any()):
                moved = True
                values[..., start:stop] += changes
                gradient += changes @ moments[:, start:stop]
        if not moved:
            break
    return problem.nearest(values)


def fitted_scale(problem: Problem, steps: Tensor) -> Tensor:
    """The sizes of the steps that change the output least, the steps themselves being kept."""
    projected = steps @ problem.moments
    wanted, held = ((projected * x).sum(-1, keepdim=True) for x in (problem.rows, steps))
    if problem.shared:
        wanted, held = (x.sum((0, 1), keepdim=True).expand_as(problem.scale) for x in (wanted, held))
    fitted = wanted / held.clamp(min=TINY)
    usable = (fitted > torch.finfo(torch.float32).eps) & (held > TINY)
    return torch.where(usable, fitted, problem.scale)
