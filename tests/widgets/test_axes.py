from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widgets.axes import linear, logarithmic

shares = st.lists(st.floats(0, 1), max_size=8)


@given(shares)
def test_a_linear_axis_holds_its_values_and_stays_within_its_limits(values):
    axis = linear(values, least=0.02, limits=(0.0, 1.0))
    assert all(axis.low - 1e-9 <= value <= axis.high + 1e-9 for value in values)
    assert axis.low >= 0 and axis.high <= 1 + 1e-9
    assert axis.high - axis.low >= 0.0199
    assert 2 <= len(axis.ticks) <= 12
    assert list(axis.ticks) == sorted(set(axis.ticks))


@given(st.lists(st.floats(1e-7, 1e9), min_size=1, max_size=8))
def test_a_logarithmic_axis_holds_its_values_with_room(values):
    axis = logarithmic(values)
    assert all(0 < axis.place(value) < 1 for value in values)
    assert len(axis.ticks) >= 2
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)


def test_ticks_are_round():
    assert linear([0.856, 0.9186], least=0.02, limits=(0, 1)).ticks == pytest.approx((0.84, 0.86, 0.88, 0.9, 0.92))
    assert logarithmic([16_000, 373_000]).ticks == pytest.approx((30_000, 100_000, 300_000))


def test_places_run_from_end_to_end_and_clip():
    axis = linear([0.2, 0.8], least=0.1, limits=(0, 1))
    assert axis.place(axis.low) == 0 and axis.place(axis.high) == 1
    assert axis.place(-5) == 0 and axis.place(5) == 1
    assert logarithmic([10.0, 1000.0], room=0).place(100.0) == pytest.approx(0.5)
