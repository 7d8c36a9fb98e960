"""Numbers as a person reads them.

The engine keeps SI units and fractions; here they become text: two decimals for points and percent,
three significant figures for the rest, commas for thousands, a true minus sign and a narrow
no-break space before a unit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

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


def duration(seconds: float) -> Quantity:
    """Seconds: ``32.0 µs``, ``4.10 ms``, ``0.420`` s is written ``420 ms``."""
    return _scaled(seconds, ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")))


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
