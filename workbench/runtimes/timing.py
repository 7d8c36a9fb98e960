"""How time is taken: two things in turn, in random order, so that what disturbs one disturbs both."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from workbench.errors import Cancelled
from workbench.report import Estimate
from workbench.statistics import median_interval

SAMPLE_SECONDS = 3e-4
"""A sample takes at least as long, so that the clock's own cost and resolution do not count."""
LEAST_ROUNDS, MOST_ROUNDS = 11, 400


@dataclass(frozen=True)
class Timing:
    """Two things, timed together."""

    candidate: Estimate
    """Seconds per call."""
    baseline: Estimate
    """Seconds per call."""
    speedup: Estimate
    """Baseline over candidate, round by round: above 1, the candidate is faster."""


def compare(
    candidate: Callable[[], object],
    baseline: Callable[[], object],
    seconds: float = 0.4,
    cancel: threading.Event | None = None,
    seed: int = 0,
) -> Timing:
    """Time two callables, interleaved.

    Args:
        candidate: What is measured.
        baseline: What it is compared with.
        seconds: How long to measure both; at least 11 rounds are made.
        cancel: Checked between rounds.
        seed: Of the order within the rounds.

    Raises:
        Cancelled: `cancel` was set.
    """
    both = (candidate, baseline)
    calls = [_calls(work, seconds / 10) for work in both]
    order = np.random.default_rng(seed)
    samples: list[tuple[float, float]] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        stop = time.perf_counter() + seconds
        while len(samples) < LEAST_ROUNDS or (time.perf_counter() < stop and len(samples) < MOST_ROUNDS):
            if cancel is not None and cancel.is_set():
                raise Cancelled
            taken = [0.0, 0.0]
            for index in order.permutation(2):
                taken[index] = _sample(both[index], calls[index])
            samples.append((taken[0], taken[1]))
    finally:
        if collecting:
            gc.enable()
    times = np.array(samples)  # (rounds, 2)
    return Timing(
        candidate=median_interval(times[:, 0], "s"),
        baseline=median_interval(times[:, 1], "s"),
        speedup=median_interval(times[:, 1] / times[:, 0], "×"),
    )


def _sample(work: Callable[[], object], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - started) / calls


def _calls(work: Callable[[], object], seconds: float) -> int:
    """Warms up until two samples agree, and says how many calls make a sample."""
    calls = 1
    stop = time.perf_counter() + seconds
    previous = _sample(work, calls)
    while True:
        calls = max(1, round(SAMPLE_SECONDS / max(previous, 1e-9)))
        latest = _sample(work, calls)
        if time.perf_counter() > stop or abs(latest - previous) < 0.05 * previous:
            return calls
        previous = latest
