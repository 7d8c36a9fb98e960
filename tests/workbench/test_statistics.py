from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from workbench import statistics

counts = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_proportion_is_wilsons_interval(hits_n: tuple[int, int]) -> None:
    hits, n = hits_n
    ours = statistics.proportion(hits, n, "simulated")
    theirs = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert ours.value == hits / n
    assert ours.low == pytest.approx(theirs.low, abs=1e-9)
    assert ours.high == pytest.approx(theirs.high, abs=1e-9)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


@given(st.integers(0, 600), st.integers(0, 600))
def test_mcnemar_is_the_exact_sign_test(lost: int, gained: int) -> None:
    ours = statistics.mcnemar(lost, gained)
    if lost + gained == 0:
        assert ours == 1
    elif lost + gained <= 1000:
        assert ours == pytest.approx(stats.binomtest(lost, lost + gained).pvalue, rel=1e-6)
    else:
        assert ours == pytest.approx(stats.binomtest(lost, lost + gained).pvalue, rel=0.05, abs=1e-4)


@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.012), (0.002, 0.002), (0.1, 0.05)])
def test_paired_intervals_cover_the_truth_about_95_times_in_100(lost: float, gained: float) -> None:
    drawn = np.random.default_rng(1).multinomial(1000, [lost, gained, 1 - lost - gained], 2000)
    covered = 0
    for b, c, _ in drawn.tolist():
        estimate = statistics.paired_difference(b, c, 1000, "simulated")
        covered += estimate.low <= lost - gained <= estimate.high
    assert 0.925 <= covered / len(drawn) <= 0.985


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.data())
def test_paired_difference_holds_its_value(lost_n: tuple[int, int], data: st.DataObject) -> None:
    lost, n = lost_n
    gained = data.draw(st.integers(0, n - lost))
    estimate = statistics.paired_difference(lost, gained, n, "simulated")
    assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1
    mirrored = statistics.paired_difference(gained, lost, n, "simulated")
    assert mirrored.low == pytest.approx(-estimate.high)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=60))
def test_median_interval_lies_within_the_samples(samples: list[float]) -> None:
    estimate = statistics.median_interval(np.array(samples), "s")
    assert min(samples) <= estimate.low <= estimate.value <= estimate.high <= max(samples)
    assert estimate.value == pytest.approx(np.median(samples))


def test_order_statistics_are_those_of_the_sign_test() -> None:
    # tables of the sign test: 20 samples, the 6th and the 15th; 6 samples, the extremes; 5 are too few
    assert [statistics.order_rank(n, 0.5) for n in (5, 6, 8, 9, 20, 100)] == [0, 1, 1, 2, 6, 40]


def test_the_interval_of_a_median_covers_it() -> None:
    drawn = np.random.default_rng(0).lognormal(size=(2000, 60))
    found = [statistics.median_interval(row, "s") for row in drawn]
    assert 0.945 <= np.mean([estimate.includes(1.0) for estimate in found]) <= 0.995


def test_a_quantile_needs_samples_above_it_and_its_interval_covers_it() -> None:
    draw = np.random.default_rng(0)
    assert statistics.quantile_interval(draw.random(367 - 1), 0.99, "s") is None
    found = [statistics.quantile_interval(draw.random(600), 0.95, "s") for _ in range(1000)]
    assert 0.94 <= np.mean([estimate is not None and estimate.includes(0.95) for estimate in found]) <= 0.985


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 3000))
def test_a_paired_sum_of_two_is_the_paired_difference(lost: int, gained: int, same: int) -> None:
    sums = torch.tensor([1] * lost + [-1] * gained + [0] * same)
    pair = statistics.paired_difference(lost, gained, len(sums), "simulated")
    ours = statistics.paired_sum(sums, "simulated")
    within = (max(ours.low, -1.0), min(ours.high, 1.0))
    assert (ours.value, *within) == pytest.approx((pair.value, pair.low, pair.high))


def test_the_interval_of_a_paired_sum_holds_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.01, 0.06, 0.86, 0.05, 0.02])
    truth = float((shares * torch.arange(-2, 3)).sum())
    drawn = torch.multinomial(shares, 400 * 1000, replacement=True, generator=generator).reshape(1000, 400) - 2
    covered = sum(estimate.includes(truth) for estimate in (statistics.paired_sum(row, "measured") for row in drawn))
    assert 0.93 <= covered / 1000 <= 0.98


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=10))
def test_repetitions_have_students_interval(values: list[float]) -> None:
    ours = statistics.repeated(values, "", "measured")
    error = stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), error) if error else (np.mean(values),) * 2
    assert (ours.value, ours.low, ours.high) == pytest.approx((np.mean(values), low, high), abs=1e-12)
