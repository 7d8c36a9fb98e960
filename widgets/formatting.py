"""Numbers as a person reads them.

The engine keeps SI units and fractions; here they become text: two decimals for points and percent,
three significant figures for the rest, commas for thousands, a true minus sign and a narrow
no-break space before a unit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from workbench.report import MetricInfo

MINUS = "\u2212"
SPACE = "\u202f"
NOTHING = "–"


class Quantity(NamedTuple):
    """A number and its unit, apart, so that the unit can be drawn small."""

    text: str
    unit: str

    def __str__(self) -> str:
        return f"{self.text}{SPACE}{self.unit}" if self.unit else self.text


def fixed(value: float, places: int = 2, *, signed: bool = False) -> str:
    """A number with a fixed count of decimals: ``1,234.50``, ``−0.44``, signed ``+9.30``."""
    if not math.isfinite(value):
        return NOTHING
    text = f"{abs(value):,.{places}f}"
    if not any(digit in text for digit in "123456789"):
        return text  # what rounds to zero has no sign
    return (MINUS if value < 0 else "+" if signed else "") + text


def figures(value: float, digits: int = 3) -> str:
    """A number with significant figures, whole from a thousand on: ``0.0321``, ``48.9``, ``36,928``."""
    if not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))  # after rounding: 9.996 is 10.0
    return fixed(value, max(0, digits - 1 - magnitude))


def count(number: int) -> str:
    """A whole number: ``10,000``."""
    return fixed(number, 0)


def points(fraction: float, *, signed: bool = False) -> str:
    """A difference of two shares in percentage points, without the word: ``−0.44``."""
    return fixed(100 * fraction, 2, signed=signed)


def percent(fraction: float) -> Quantity:
    """A share: ``91.42 %``."""
    return Quantity(fixed(100 * fraction), "%")


def percent_of(fraction: float) -> str:
    """A share, roughly: ``34 %``."""
    return str(Quantity(fixed(100 * fraction, 0), "%"))


def score(value: float, metric: MetricInfo) -> Quantity:
    """A metric's value: ``91.42 %``, ``0.998``, ``31.2 dB``."""
    return percent(value) if metric.share else Quantity(figures(value, 4), metric.unit)


def change(loss: float, metric: MetricInfo, *, signed: bool = True) -> str:
    """By how much a metric's value moved, without the unit: ``−0.44`` points.

    Args:
        loss: In the metric's unit, positive: worse.
        metric: What moved.
        signed: With a plus where the value rose.
    """
    moved = -loss if metric.higher_is_better else loss
    return points(moved, signed=signed) if metric.share else small(moved, signed=signed)


def change_unit(metric: MetricInfo) -> str:
    """What `change` counts in: ``points``, ``dB``, nothing."""
    return "points" if metric.share else metric.unit


def small(value: float, *, signed: bool = False) -> str:
    """A number with three significant figures and at most five decimals: ``0.00213``, ``−1.24``."""
    if not math.isfinite(value) or value == 0:
        return fixed(value, 0, signed=signed)
    places = min(5, max(0, 2 - math.floor(math.log10(abs(value)))))
    return fixed(value, places, signed=signed)


def with_unit(name: str, metric: MetricInfo) -> str:
    """What stands over a column or along an axis of a metric's values: ``accuracy, %``, ``MAE``."""
    unit = "%" if metric.share else metric.unit
    return f"{name}, {unit}" if unit else name


def title(metric: MetricInfo) -> str:
    """A metric's name at the head of a tile: ``Accuracy``, ``MAE``."""
    return metric.name[:1].upper() + metric.name[1:]


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> Quantity:
    """In the largest unit in which the rounded number is at least 1, else in the smallest."""
    if not math.isfinite(value):
        return Quantity(NOTHING, "")
    for factor, unit in units[:-1]:
        if float(f"{abs(value) / factor:.2e}") >= 1:
            return Quantity(figures(value / factor), unit)
    factor, unit = units[-1]
    return Quantity(figures(value / factor), unit)


def size(number_of_bytes: float) -> Quantity:
    """Bytes in decimal units: ``48.9 kB``."""
    return _scaled(number_of_bytes, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")))


def rate(operations: float) -> Quantity:
    """Operations per second: ``1.54 TOP/s``, ``480 MOP/s``."""
    return _scaled(operations, ((1e15, "POP/s"), (1e12, "TOP/s"), (1e9, "GOP/s"), (1e6, "MOP/s"), (1e3, "kOP/s")))


def energy(joules: float) -> Quantity:
    """Joules: ``17.8 mJ``, ``35.2 µJ``."""
    return _scaled(joules, ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ")))


def duration(seconds: float) -> Quantity:
    """Seconds: ``32.0 µs``, ``4.10 ms``, ``0.420`` s is written ``420 ms``."""
    return _scaled(seconds, ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")))


def durations(first: float, *others: float) -> list[Quantity]:
    """Seconds, all in the unit that suits the first."""
    unit = duration(first).unit
    factor = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}.get(unit, 1.0)
    return [duration(first), *(Quantity(figures(each / factor), unit) for each in others)]


def remaining(seconds: float) -> str:
    """How long something still takes, roughly: ``12 s left``, ``3 min left``."""
    if not math.isfinite(seconds):
        return ""
    text = f"{max(1, round(seconds))}{SPACE}s" if seconds < 90 else f"{round(seconds / 60)}{SPACE}min"
    return f"{text} left"


def ratio(value: float) -> str:
    """A factor: ``1.15×``, ``7.6×``, ``240×``."""
    if not math.isfinite(value):
        return NOTHING
    places = 2 if value < 1.995 else 1 if value < 99.95 else 0
    return f"{fixed(value, places)}×"


def between(low: str, high: str) -> str:
    """An interval of two numbers that are written already: ``(−0.71 … −0.17)``."""
    return f"({low} … {high})"
