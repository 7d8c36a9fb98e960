"""Which runtime wins at which batch and thread count: a cell each, hatched where that cannot be told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from widgets.formatting import count, duration, figures
from widgets.waterfall import factor_of

if TYPE_CHECKING:
    from workbench.speed import Cell, Sweep, Winner

BATCHES = (1, 8, 32)
"""What a sweep goes through."""
HUES = 6
"""Colours that there are for runtimes; more begin again, and the name is always written."""


def sweep_view(found: Sweep, threads: Sequence[int]) -> dict[str, Any]:
    """The picture of a sweep.

    Args:
        found: As far as it is.
        threads: Counts that are expected, whose rows are kept free.
    """
    batches = sorted({*BATCHES, *(cell.batch for cell in found.cells)})
    counts = sorted({*threads, *(cell.threads for cell in found.cells)})
    names = list(dict.fromkeys(cell.runtime for cell in found.cells))
    reasons = dict.fromkeys((cell.runtime, cell.reason) for cell in found.cells if cell.reason)
    return {
        "batches": [{"value": batch, "text": f"batch {count(batch)}"} for batch in batches],
        "rows": [
            {
                "threads": each,
                "text": "1 thread" if each == 1 else f"{each} threads",
                "cells": [_cell(found, names, batch, each) for batch in batches],
            }
            for each in counts
        ],
        "runtimes": [
            {"name": name, "hue": _hue(names, name)}
            for name in names
            if any(cell.latency for cell in found.cells if cell.runtime == name)
        ],
        "failed": [f"{name}: {reason}" if not reason.startswith(name) else reason for name, reason in reasons],
    }


def _hue(names: Sequence[str], name: str) -> int:
    return names.index(name) % HUES


def _cell(found: Sweep, names: Sequence[str], batch: int, threads: int) -> dict[str, Any]:
    cells = [cell for cell in found.cells if (cell.batch, cell.threads) == (batch, threads)]
    won = next((each for each in found.winners if (each.batch, each.threads) == (batch, threads)), None)
    made: dict[str, Any] = {"key": f"{threads} {batch}", "batch": batch, "threads": threads, "state": "coming"}
    made |= {"runtime": "", "hue": 0, "sure": True, "text": "", "detail": "", "verdict": "", "bars": [], "spoken": ""}
    if not cells:
        return made
    if won is None:
        return made | {"state": "failed", "text": "none runs", "spoken": "no runtime runs there"}
    best = [cell.latency.value for cell in cells if cell.runtime == won.runtime and cell.latency is not None]
    took = str(duration(best[0])) if best else ""
    verdict = _verdict(won)
    text = won.runtime if won.distinguishable else f"{won.runtime} or {won.second}"
    return made | {
        "state": "known",
        "runtime": won.runtime,
        "hue": _hue(names, won.runtime),
        "sure": won.distinguishable,
        "text": text,
        "detail": took,
        "verdict": verdict,
        "bars": _bars(cells, names),
        "spoken": f"batch {batch}, {threads} threads: {verdict}, {took} a call",
    }


def _bars(cells: Sequence[Cell], names: Sequence[str]) -> list[dict[str, Any]]:
    """Throughput of each runtime, the largest first."""
    known = [(cell.throughput.value, cell) for cell in cells if cell.throughput is not None]
    known.sort(key=lambda pair: -pair[0])
    most = known[0][0] if known else 1.0
    bars = [
        {
            "name": cell.runtime,
            "hue": _hue(names, cell.runtime),
            "share": round(rate / most, 4),
            "text": f"{duration(cell.latency.value) if cell.latency else ''} · {figures(rate)}/s",
        }
        for rate, cell in known
    ]
    failed = [cell for cell in cells if cell.throughput is None]
    return bars + [
        {"name": cell.runtime, "hue": _hue(names, cell.runtime), "share": 0.0, "text": "does not run"}
        for cell in failed
    ]


def _verdict(won: Winner) -> str:
    if won.second is None or won.ratio is None:
        return f"{won.runtime}, as no other runs"
    if not won.distinguishable:
        return f"{won.runtime} or {won.second}: not distinguishable"
    return f"{won.runtime}; {won.second} takes {factor_of(won.ratio)} as long"
