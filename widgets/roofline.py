"""The roofline of a device that is not here, with the operators of the network as points under it.

S. Williams, A. Waterman, D. Patterson, *Roofline: An Insightful Visual Performance Model*, CACM 52(4), 2009.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from widgets.axes import Axis, logarithmic
from widgets.formatting import SPACE, count, duration, figures, percent_of, rate, size
from workbench.hardware import DeviceBound, RooflineRow

DRAWN = 80
"""Points at most, those that take longest; a table lists the rest."""
USUAL = (1.0, 100.0)
"""FLOPs for each byte, where nothing is moved and so no point says how many."""


def roofline_view(bound: DeviceBound) -> dict[str, Any] | None:
    """The picture of a bound; None where nothing is predicted.

    Places are fractions of both axes, which are logarithmic; areas of points are shares of the time of all products.
    """
    products = [row for row in bound.rows if row.macs and row.value > 0]
    if bound.latency is None or not products:
        return None
    whole = bound.latency.value
    most = sum(row.value for row in products)
    drawn = sorted(products, key=lambda row: -row.value)[:DRAWN]
    used = {row.kernel for row in drawn}
    x, y = _axes(bound, drawn, used)
    return {
        "x": _ticks(x, [_round(tick) for tick in x.ticks], "FLOP per byte"),
        "y": _ticks(y, [_prefixed(tick) for tick in y.ticks], "operations a second"),
        "slope": _slope(bound, x, y),
        "roofs": [_roof(bound, kernel, kernel in used, x, y) for kernel in bound.peaks],
        "points": [_point(row, whole, x, y) | {"size": round((row.value / most) ** 0.5, 3)} for row in drawn],
        "beside": _beside(bound, len(products) - len(drawn)),
        "label": f"Roofline of {bound.device}: {operators(len(drawn))} under {len(bound.peaks)} roofs.",
    }


def rows_view(bound: DeviceBound) -> list[list[str]]:
    """A table of all operators, the slowest first: name, MACs, bytes, FLOP per byte, kernel, time, what limits it."""
    return [
        [
            row.name,
            count(row.macs) if row.macs else "–",
            str(size(row.bytes)) if row.bytes else "on the chip",
            figures(row.intensity) if row.macs and row.intensity is not None else "–",
            row.kernel or "–",
            span(row.low, row.high),
            "" if row.limit == "none" else row.limit,
        ]
        for row in sorted(bound.rows, key=lambda row: -row.value)
    ]


def span(low: float, high: float) -> str:
    """Seconds from and to, in one unit where they share it: ``10.8 … 84.6 µs``."""
    first, last = duration(low), duration(high)
    if first == last:
        return str(last)
    return f"{first.text} … {last}" if first.unit == last.unit else f"{first} … {last}"


def _axes(bound: DeviceBound, drawn: Sequence[RooflineRow], used: set[str]) -> tuple[Axis, Axis]:
    intensities = [row.intensity for row in drawn if row.intensity is not None] or list(USUAL)
    if bound.bandwidth is not None:
        intensities += [bound.peaks[kernel] / bound.bandwidth for kernel in used]  # type: ignore[index]
    rates = [row.flops / end for row in drawn for end in (row.low, row.high) if end > 0]
    rates += [bound.peaks[kernel] for kernel in used]  # type: ignore[index]
    return logarithmic(intensities, least=10.0), logarithmic(rates, least=10.0)


def _ticks(axis: Axis, texts: Sequence[str], title: str) -> dict[str, Any]:
    ticks = [{"at": axis.place(tick), "text": text} for tick, text in zip(axis.ticks, texts, strict=True)]
    return {"ticks": ticks, "title": title}


def _round(tick: float) -> str:
    return f"{tick:,.0f}" if tick >= 1 else f"{tick:g}"


def _prefixed(tick: float) -> str:
    """``30 G``: ticks are round, so three figures would say too much."""
    quantity = rate(tick)
    return f"{float(quantity.text.replace(',', '')):g}{SPACE}{quantity.unit.removesuffix('OP/s')}"


def _slope(bound: DeviceBound, x: Axis, y: Axis) -> dict[str, Any] | None:
    """What the memory can feed: a line, as far as it is inside and below the highest roof."""
    if bound.bandwidth is None:
        return None
    start = max(x.low, y.low / bound.bandwidth)
    end = min(x.high, max(bound.peaks.values()) / bound.bandwidth, y.high / bound.bandwidth)
    if start >= end:
        return None
    ends = [[x.place(at), y.place(at * bound.bandwidth)] for at in (start, end)]
    return {"ends": ends, "text": f"memory {size(bound.bandwidth)}/s"}


def _roof(bound: DeviceBound, kernel: Any, used: bool, x: Axis, y: Axis) -> dict[str, Any]:
    peak = bound.peaks[kernel]
    ridge = x.low if bound.bandwidth is None else peak / bound.bandwidth
    return {
        "kernel": kernel,
        "used": used,
        "from": x.place(ridge),
        "at": y.place(peak),
        "inside": y.low <= peak <= y.high and ridge < x.high,
        "text": f"{kernel} {_prefixed(float(f'{peak:.3g}'))}",
    }


def _point(row: RooflineRow, whole: float, x: Axis, y: Axis) -> dict[str, Any]:
    moved = row.intensity is not None
    share = row.value / whole
    facts = [
        f"{count(row.macs)} MACs",
        f"{size(row.bytes)} moved" if moved else "nothing moved",
        f"{figures(row.intensity)} FLOP per byte" if row.intensity is not None else "",
        f"{row.kernel} kernel",
        f"{span(row.low, row.high)}, {percent_of(share)} of the time",
        f"limited by {row.limit}",
    ]
    text = " · ".join(fact for fact in facts if fact)
    return {
        "key": row.name,
        "x": x.place(row.intensity) if row.intensity is not None else 1.0,
        "y": y.place(row.flops / row.value),
        "low": y.place(row.flops / row.high),
        "high": y.place(row.flops / row.low) if row.low > 0 else 1.0,
        "limit": row.limit,
        "text": text,
        "spoken": f"{row.name}: {text}".replace(SPACE, " "),
    }


def operators(number: int) -> str:
    """``1 operator``, ``5 operators``."""
    return "1 operator" if number == 1 else f"{count(number)} operators"


def _beside(bound: DeviceBound, missing: int) -> str:
    """What the plot does not show."""
    whole = bound.latency.value if bound.latency is not None else math.inf
    others = [row for row in bound.rows if not row.macs]
    said = []
    if missing:
        said.append(f"{operators(missing)} that {'is' if missing == 1 else 'are'} quicker: in the table alone.")
    if others:
        share = sum(row.value for row in others) / whole
        take = "takes" if len(others) == 1 else "take"
        said.append(f"{operators(len(others))} without a product {take} {percent_of(share)} of the time.")
    if any(row.macs and row.intensity is None for row in bound.rows):
        said.append("What moves nothing from memory stands at the right edge.")
    return " ".join(said)
