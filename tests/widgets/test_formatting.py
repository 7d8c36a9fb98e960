from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widgets import formatting as f
from workbench.report import MetricInfo


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0321, "0.0321"),
        (48.94, "48.9"),
        (9.996, "10.0"),
        (373.3, "373"),
        (999.96, "1,000"),
        (36928, "36,928"),
        (-1.5, "−1.50"),
    ],
)
def test_three_figures(value, text):
    assert f.figures(value) == text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(-0.0044, "−0.44"), (0.093, "+9.30"), (0.0, "0.00"), (-0.00001, "0.00"), (0.00001, "0.00"), (-1.0, "−100.00")],
)
def test_points_have_two_decimals_and_what_rounds_to_zero_has_no_sign(fraction, text):
    assert f.points(fraction, signed=True) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(640, "640 B"), (999.6, "1.00 kB"), (48_900, "48.9 kB"), (999_960, "1.00 MB"), (3.2e9, "3.20 GB")],
)
def test_sizes_are_decimal(number, text):
    assert str(f.size(number)) == text.replace(" ", "\u202f")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.2e-5, "32.0 µs"), (9.9996e-4, "1.00 ms"), (0.42, "420 ms"), (12.34, "12.3 s"), (5e-9, "5.00 ns")],
)
def test_durations(seconds, text):
    assert str(f.duration(seconds)) == text.replace(" ", "\u202f")


@pytest.mark.parametrize(
    ("value", "text"), [(1.151, "1.15×"), (1.996, "2.0×"), (7.63, "7.6×"), (99.96, "100×"), (1234, "1,234×")]
)
def test_ratios(value, text):
    assert f.ratio(value) == text


@pytest.mark.parametrize("write", [f.fixed, f.figures, f.points, f.percent, f.size, f.duration, f.ratio])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_dash(write, value):
    assert str(write(value)).startswith("–")


def test_remaining_time_is_rough():
    assert [f.remaining(x).replace("\u202f", " ") for x in (0.2, 12.4, 200, math.inf)] == [
        "1 s left",
        "12 s left",
        "3 min left",
        "",
    ]


UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}


@given(st.floats(1, 1e12))
def test_a_size_read_back_is_within_half_a_percent(number):
    quantity = f.size(number)
    assert float(quantity.text.replace(",", "")) * UNITS[quantity.unit] == pytest.approx(number, rel=0.0051, abs=0.5)


@given(st.floats(-1e6, 1e6, allow_nan=False))
def test_fixed_reads_back(value):
    text = f.fixed(value)
    assert "-" not in text
    assert float(text.replace(",", "").replace("−", "-")) == pytest.approx(value, abs=0.00501)


@pytest.mark.parametrize(
    ("loss", "metric", "text"),
    [
        (0.0044, MetricInfo(), "−0.44"),
        (-0.0044, MetricInfo(), "+0.44"),
        (2.093, MetricInfo(name="MAE", share=False, higher_is_better=False), "+2.09"),
        (0.00213, MetricInfo(name="cosine", share=False), "−0.00213"),
        (0.0, MetricInfo(name="cosine", share=False), "0"),
    ],
)
def test_a_change_is_that_of_the_value_whatever_end_is_better(loss, metric, text):
    assert f.change(loss, metric) == text


def test_a_score_is_written_in_its_own_unit():
    assert str(f.score(0.9142, MetricInfo())) == "91.42\u202f%"
    assert str(f.score(31.234, MetricInfo(name="SQNR", unit="dB", share=False))) == "31.23\u202fdB"
    assert f.title(MetricInfo(name="top-1 agreement")) == "Top-1 agreement"


@given(st.floats(-1e6, 1e6, allow_nan=False))
def test_small_numbers_keep_three_figures(value):
    text = f.small(value).replace(",", "").replace("−", "-")
    assert float(text) == pytest.approx(value, rel=6e-3, abs=6e-6)


def test_durations_have_the_unit_of_the_first():
    assert [str(each) for each in f.durations(9e-6, 4.2e-8, 2e-3)] == [
        "9.00\u202fµs",
        "0.0420\u202fµs",
        "2,000\u202fµs",
    ]
    assert [each.text for each in f.durations(0.0, 0.0)] == ["0", "0"]
