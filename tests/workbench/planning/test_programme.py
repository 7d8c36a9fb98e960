"""The programme against exhaustive search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.planning.programme import least_cost, sweep

positive = st.floats(0, 1e6, allow_nan=False) | st.integers(0, 10**9).map(float)
tables = st.lists(st.lists(positive, min_size=3, max_size=3), min_size=2, max_size=2)


def exhaustive(costs: list[list[float]], weights: list[list[float]], budget: float) -> tuple[float, float] | None:
    found = [
        (sum(own[at] for own, at in zip(costs, choice, strict=True)), weight)
        for choice in itertools.product(*(range(len(own)) for own in costs))
        if (weight := sum(own[at] for own, at in zip(weights, choice, strict=True))) <= budget
    ]
    return min(found, default=None)


@settings(max_examples=150, deadline=None)
@given(tables, tables, st.floats(0, 3e6))
@example([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], 4.0)
@example([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]], [[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], 2.0)
def test_it_answers_what_exhaustive_search_answers(
    costs: list[list[float]], weights: list[list[float]], budget: float
) -> None:
    wanted, found = exhaustive(costs, weights, budget), least_cost(costs, weights, budget)
    if wanted is None:
        assert found is None
        return
    assert found is not None
    assert found.weight <= budget
    assert found.cost == pytest.approx(wanted[0], rel=1e-9, abs=1e-9 * max(map(max, costs)))
    assert found.cost == sum(own[at] for own, at in zip(costs, found.options, strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_five_layers_and_every_budget_of_a_sweep(seed: int) -> None:
    random = np.random.default_rng(seed)
    weights = [(count * np.array([8, 6, 4, 3, 2]) / 8).tolist() for count in random.integers(10, 5000, 5)]
    costs = [(scale * 4.0 ** -np.array([8, 6, 4, 3, 2])).tolist() for scale in 10.0 ** random.uniform(-4, 0, 5)]
    lightest, heaviest = (sum(pick(own) for own in weights) for pick in (min, max))
    budgets = random.uniform(lightest * 0.9, heaviest, 6).tolist()
    for budget in budgets:
        wanted, found = exhaustive(costs, weights, budget), least_cost(costs, weights, budget)
        assert (found is None) == (wanted is None)
        if found is not None and wanted is not None:
            assert found.cost == pytest.approx(wanted[0], rel=1e-9)
            assert found.weight <= budget
    swept = {sum(own[at] for own, at in zip(costs, choice, strict=True)) for choice in sweep(costs, weights, budgets)}
    best = {wanted[0] for budget in budgets if (wanted := exhaustive(costs, weights, budget))}
    assert sorted(swept) == pytest.approx(sorted(best))


def test_of_equal_costs_the_lightest_is_taken() -> None:
    found = least_cost([[0.0, 0.0], [1.0, 1.0]], [[5.0, 3.0], [9.0, 2.0]], 14.0)
    assert found is not None
    assert found.options == (1, 1)
