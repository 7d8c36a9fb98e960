"""Putting the channels of one network in the order of another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from workbench.fusion.symmetries import State, Symmetry

ROUNDS = 100
GAIN = 1e-9
"""Share of the agreement by which a new order must be better: less is rounding."""


def aligned(
    state: Mapping[str, Tensor], reference: Mapping[str, Tensor], found: Sequence[Symmetry], seed: int = 0
) -> State:
    """The same network with its channels where those of another network that are most like them are.

    Weight matching: Ainsworth et al., "Git Re-Basin: Merging Models modulo Permutation Symmetries", 2023, algorithm 1.
    One set of channels after the other is put in the order in which the inner product of both networks' weights is
    largest, a linear assignment problem, until no set changes any more.

    Args:
        state: Of the network; left as it is.
        reference: Of one of the same form.
        found: The `symmetries` of this form.
        seed: Of the order in which the sets are looked at.

    Returns:
        The state of the same function.
    """
    from scipy.optimize import linear_sum_assignment

    made = dict(state)
    learned = [name for name in made if not name.endswith(("running_mean", "running_var"))]
    theirs = [each.rows(reference, learned) for each in found]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(ROUNDS):
        changed = False
        for number in torch.randperm(len(found), generator=generator).tolist():
            each, wanted = found[number], theirs[number]
            own = each.rows(made, learned)
            _, order = linear_sum_assignment((wanted @ own.T).numpy(), maximize=True)
            tried = each.permuted(made, torch.as_tensor(order))
            before, after = ((wanted * rows).sum() for rows in (own, each.rows(tried, learned)))
            if after > before + GAIN * before.abs():
                made, changed = tried, True
        if not changed:
            break
    return made
