"""Ticks and places on an axis, as fractions of its length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis from `low` to `high`."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value lies: 0 at `low`, 1 at `high`; values beyond are put on the end."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return round(min(1.0, max(0.0, (value - low) / (high - low))), 4)


def linear(values: Sequence[float], *, least: float, limits: tuple[float, float], wanted: int = 5) -> Axis:
    """An axis that begins and ends on round numbers.

    Args:
        values: What has to fit; may be empty.
        least: The smallest span, so that noise is not blown up to fill the picture.
        limits: Where the axis may begin and end at most.
        wanted: About how many ticks.
    """
    low, high = (min(values), max(values)) if values else limits
    missing = least - (high - low)
    if missing > 0:
        low, high = low - missing / 2, high + missing / 2
        shift = max(0.0, limits[0] - low) - max(0.0, high - limits[1])
        low, high = low + shift, high + shift
    step = _round_step((high - low) / wanted)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    start, end = max(start, math.ceil(limits[0] / step)), min(end, math.floor(limits[1] / step))
    end = max(end, start + 1)
    return Axis(start * step, end * step, tuple(round(k * step, 10) for k in range(start, end + 1)))


def logarithmic(values: Sequence[float], *, least: float = 2.0, room: float = 0.08) -> Axis:
    """An axis of positive values with room at both ends.

    Args:
        values: At least one, all above 0.
        least: The smallest ratio of its ends.
        room: Share of the span that is left free at each end.
    """
    low, high = min(values), max(values)
    stretch = max(1.0, math.sqrt(least / (high / low)))
    low, high = low / stretch, high * stretch
    spare = (high / low) ** room
    low, high = low / spare, high * spare
    for mantissas in (
        (1.0,),
        (1.0, 3.0),
        (1.0, 2.0, 5.0),
        (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
        tuple(0.5 * k for k in range(2, 20)),
    ):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        every = [m * 10.0**d for d in decades for m in mantissas]
        ticks = tuple(tick for tick in every if low <= tick <= high)
        if len(ticks) >= 3:
            break
    return Axis(low, high, ticks, logarithmic=True)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * 0.999)
