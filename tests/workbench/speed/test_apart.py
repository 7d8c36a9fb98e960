from __future__ import annotations

import pytest

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.report import Estimate, Flips, Report
from workbench.speed.apart import times_faster


def report(low: float, value: float, high: float, batch: int = 1) -> Report:
    one = Estimate.exact(1.0, "")
    return Report(
        recipe=wb.Recipe(deployment=wb.Deployment(batch=batch)),
        evaluated=1,
        total=1,
        accuracy=one,
        drop=one,
        flips=Flips(lost=0, gained=0, n=1, p_value=1.0),
        size=one,
        latency=Estimate(low=low, value=value, high=high, unit="s", source="measured") if value else None,
    )


def test_half_the_time_is_twice_as_fast_within_every_quotient() -> None:
    found = times_faster(report(0.9, 1.0, 1.25), report(1.8, 2.0, 2.25))
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 1.8 / 1.25, 2.25 / 0.9))
    back = times_faster(report(1.8, 2.0, 2.25), report(0.9, 1.0, 1.25))
    assert (back.value, back.low, back.high) == pytest.approx((1 / found.value, 1 / found.high, 1 / found.low))


def test_a_batch_counts_by_its_examples() -> None:
    assert times_faster(report(8.0, 8.0, 8.0, batch=32), report(1.0, 1.0, 1.0)).value == pytest.approx(4.0)


def test_what_was_not_timed_is_refused() -> None:
    with pytest.raises(WorkbenchError, match="not timed yet"):
        times_faster(report(1.0, 1.0, 1.0), report(0.0, 0.0, 0.0))
