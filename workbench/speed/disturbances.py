"""What else the machine did while something was timed, and what to do about it, in words."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.report import Estimate

ROOT = Path("/")
BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
NOTICED_LOAD = 0.5
"""Processors that others may use beside those that are timed before it is said: a browser that draws the page takes
0.2, and what is timed in turn bears it."""
SPARED = 0.15
"""Of a processor that is timed, what others may use of it."""
NOTICED_CHANGE = 0.05
"""Of the clock's frequency, or of the machine against itself."""


@dataclass(frozen=True)
class Reading:
    """The machine's counters at one moment; None where it has no such counter."""

    wall: float
    """Seconds."""
    own: float
    """Processor seconds that this process has used."""
    busy: float | None
    """Processor seconds that were used on the processors that this process may use, by whomever."""
    megahertz: float | None
    """Their mean clock frequency."""
    throttled: int | None
    """How often the container was stopped because it had used up its share."""


def cores() -> int:
    """Processors that this process may use: by its affinity, and by its container's share, rounded up."""
    allowed = len(_allowed())
    with contextlib.suppress(OSError, ValueError):
        quota, period = (ROOT / "sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, math.ceil(int(quota) / int(period)))  # "max" is no number: no limit
    return max(1, allowed)


def reading() -> Reading:
    """The counters now."""
    return Reading(time.perf_counter(), time.process_time(), _busy(), _megahertz(), _throttled())


def disturbances(before: Reading, after: Reading, threads: int, noise: Estimate | None = None) -> tuple[str, ...]:
    """What makes figures doubtful, with what to do.

    Args:
        before: When timing began.
        after: When it ended.
        threads: That the runtime was given.
        noise: The machine compared with itself, where that was measured.
    """
    return tuple(_said(before, after, threads, noise))


def oversubscription(threads: int) -> str | None:
    """What more threads than processors mean; None where there are enough."""
    here = cores()
    if threads <= here:
        return None
    return f"{threads} threads share {_processors(here)}, and wait for each other: choose {here} or fewer."


def _said(before: Reading, after: Reading, threads: int, noise: Estimate | None) -> Iterator[str]:
    crowded = oversubscription(threads)
    if crowded:
        yield crowded
    wall = after.wall - before.wall
    if before.busy is not None and after.busy is not None and wall > 0:
        here = cores()
        others = (after.busy - before.busy - (after.own - before.own)) / wall
        void = here - others < min(threads, here) - SPARED
        if void or others > NOTICED_LOAD:
            yield f"Other work took {others:.1f} of {_processors(here)} meanwhile: " + (
                "the figures are void. Stop it and measure again."
                if void
                else "the figures may be too slow, as caches, memory and the clock are shared."
            )
    if before.megahertz and after.megahertz:
        change = after.megahertz / before.megahertz - 1
        if abs(change) > NOTICED_CHANGE:
            yield (
                f"The processor's clock went from {before.megahertz:.0f} to {after.megahertz:.0f} MHz meanwhile: only "
                "what was timed in turn can be compared. Plug the machine in, let it cool, and measure again."
            )
    if before.throttled is not None and after.throttled is not None and after.throttled > before.throttled:
        yield "The container used up its share of the processors and was stopped meanwhile: use fewer threads."
    if noise is not None:
        apart = max(noise.high - 1, 1 - noise.low)
        if apart > NOTICED_CHANGE:
            yield (
                f"The machine compared with itself is up to {apart:.0%} apart: smaller differences mean nothing. "
                "Close what else runs, and measure again."
            )


def _processors(count: int) -> str:
    return "1 processor" if count == 1 else f"{count} processors"


def _allowed() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _busy() -> float | None:
    allowed = _allowed()
    try:
        lines = (ROOT / "proc/stat").read_text().splitlines()
        ticks = 0
        for line in lines:
            name, *counts = line.split()
            if re.fullmatch(r"cpu\d+", name) and int(name[3:]) in allowed:
                # user nice system idle iowait irq softirq steal; guests are within user and nice
                ticks += sum(map(int, (*counts[:3], *counts[5:8])))
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return _busy_elsewhere()


def _busy_elsewhere() -> float | None:
    """Without /proc: psutil knows where it is installed."""
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        return None
    times = psutil.cpu_times()
    return float(sum(getattr(times, field, 0.0) for field in BUSY))


def _megahertz() -> float | None:
    allowed = _allowed()
    found = []
    for cpu in allowed:
        with contextlib.suppress(OSError, ValueError):
            text = (ROOT / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq").read_text()
            found.append(int(text) / 1000)
    if not found:
        with contextlib.suppress(OSError, ValueError):
            text = (ROOT / "proc/cpuinfo").read_text()
            each = re.findall(r"^processor\s*:\s*(\d+)$.*?^cpu MHz\s*:\s*([\d.]+)$", text, re.M | re.S)
            found = [float(clock) for cpu, clock in each if int(cpu) in allowed]
    return sum(found) / len(found) if found else None


def _throttled() -> int | None:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (ROOT / "sys/fs/cgroup/cpu.stat").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("nr_throttled ")))
    return None
