"""Choosing one option for each layer: a multiple-choice knapsack, solved exactly as a mixed-integer programme."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[Sequence[float]]
"""One number for each option of each layer."""

COSTS = 1e4
"""Costs are scaled to as much at most: the solver takes differences below 1e-6 for none."""


class Choice(NamedTuple):
    """One option of each layer."""

    options: tuple[int, ...]
    cost: float
    weight: float


def least_cost(costs: Numbers, weights: Numbers, budget: float) -> Choice | None:
    """The choice of least cost whose weight is within a budget; of equal costs, one of least weight.

    Args:
        costs: What each option costs, finite.
        weights: What each option weighs, finite, at least 0.
        budget: What a choice may weigh.

    Returns:
        None where even the lightest choice is too heavy.
    """
    if not fits(weights, budget):
        return None
    best = _solved(costs, weights, budget)
    lightest = _solved(weights, costs, best.cost)
    options = lightest.options
    found = Choice(options, _sum(costs, options), _sum(weights, options))
    return found if found.weight <= budget and found.cost <= best.cost else best


def sweep(costs: Numbers, weights: Numbers, budgets: Sequence[float]) -> list[tuple[int, ...]]:
    """The options of a choice of least cost for each budget that any choice is within, each once."""
    return list(dict.fromkeys(_solved(costs, weights, budget).options for budget in budgets if fits(weights, budget)))


def fits(weights: Numbers, budget: float) -> bool:
    """Whether any choice is within a budget."""
    return sum(min(options) for options in weights) <= budget


def _sum(numbers: Numbers, options: Sequence[int]) -> float:
    return sum(numbers[layer][option] for layer, option in enumerate(options))


def _solved(costs: Numbers, weights: Numbers, budget: float) -> Choice:
    """Solve, and solve again with a smaller budget where the solver's tolerance let too much through."""
    lightest = tuple(min(range(len(options)), key=lambda o: (options[o], costs[layer][o]))
                     for layer, options in enumerate(weights))  # fmt: skip
    best = Choice(lightest, _sum(costs, lightest), _sum(weights, lightest))
    forbidden: list[tuple[int, ...]] = []
    while True:
        options = _programme(costs, weights, budget, forbidden)
        if options is None:
            return best
        found = Choice(options, _sum(costs, options), _sum(weights, options))
        if found.weight <= budget:
            return min(found, best, key=lambda choice: (choice.cost, choice.weight))
        forbidden.append(options)


def _programme(
    costs: Numbers, weights: Numbers, budget: float, forbidden: Sequence[tuple[int, ...]]
) -> tuple[int, ...] | None:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, vstack

    lengths = [len(options) for options in costs]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    cost = np.concatenate([np.asarray(options, dtype=float) - min(options) for options in costs])
    weight = np.concatenate([np.asarray(options, dtype=float) - min(options) for options in weights])
    room = budget - sum(min(options) for options in weights)
    room = max(room, 0.0)
    possible = weight <= room
    scale = room or max(float(weight.max()), 1e-300)
    layer_of = np.repeat(np.arange(len(lengths)), lengths)
    one_each = csr_array((np.ones(len(cost)), (layer_of, np.arange(len(cost)))), shape=(len(lengths), len(cost)))
    constraints = [
        LinearConstraint(one_each, 1.0, 1.0),
        LinearConstraint(csr_array(np.where(possible, weight, 0.0)[None] / scale), -np.inf, room / scale),
    ]
    if forbidden:
        rows: list[NDArray[np.float64]] = []
        for options in forbidden:
            row = np.zeros(len(cost))
            row[starts[:-1] + np.array(options)] = 1.0
            rows.append(row)
        constraints.append(LinearConstraint(vstack([csr_array(row[None]) for row in rows]), -np.inf, len(lengths) - 1))
    solved = milp(
        np.where(possible, cost, 0.0) * (COSTS / max(float(cost[possible].max()), 1e-300)),
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, possible.astype(float)),
        constraints=constraints,
        # without presolve: where it is on, HiGHS prints a line of its own to the standard output now and then
        options={"mip_rel_gap": 0.0, "presolve": False},
    )
    if solved.x is None:
        return None
    return tuple(int(np.argmax(solved.x[start:end])) for start, end in itertools.pairwise(starts))
