"""How time is taken: things in turn, in random order there and back, so that what disturbs one disturbs all."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workbench.errors import Cancelled
from workbench.report import Estimate
from workbench.statistics import STRETCHES, median_interval

Work = Callable[[], object]

CLOCKED_SECONDS = 2e-5
"""Between two looks at the clock: as long at least, so that the clock's own cost and resolution do not count."""
TURN_SECONDS = 3e-4
"""A turn takes at least as long: the caches are its own again, and its median passes over an interruption."""
LEAST_ROUNDS, MOST_ROUNDS = 6, 400
"""Six is the fewest samples that a 95 % interval of the median can be taken from."""
SAME = 0.02
"""Two sessions of one graph differ by as much, by where their buffers lie in memory (Mytkowicz et al., "Producing
wrong data without doing anything obviously wrong!", 2009), however long they are measured: `bench/noise.py`. Every
interval is wider by it."""


@dataclass(frozen=True)
class Timing:
    """Two things, timed together."""

    candidate: Estimate
    """Seconds per call."""
    baseline: Estimate
    """Seconds per call."""
    speedup: Estimate
    """Baseline over candidate, in the same stretches of time: above 1, the candidate is faster."""


@dataclass(frozen=True)
class Pace:
    """How one thing is sampled, found while it warms up."""

    calls: int
    """Between two looks at the clock."""
    groups: int
    """Of as many calls, in a turn; the turn's sample is their median."""
    seconds: float
    """Per call, roughly."""


@dataclass(frozen=True)
class Samples:
    """What several things took in the same rounds."""

    times: NDArray[np.float64]
    """Seconds per call, shape (turns, things): each round has two turns, there and back."""

    def latency(self, index: int) -> Estimate:
        """Seconds per call of one thing: the median over all turns."""
        return _widened(median_interval(self.times[:, index], "s"))

    def ratio(self, over: int, under: int) -> Estimate:
        """How many times longer one took than the other, in the same stretches of time.

        Medians are divided, of stretches, and no pairs: a pair is spoiled if either turn was interrupted, and with
        other load most pairs are where most turns are not.
        """
        stretches = np.array_split(self.times, min(len(self.times) // 2, STRETCHES))
        medians = np.array([np.median(part, axis=0) for part in stretches])
        found = median_interval(medians[:, over] / medians[:, under], "×")
        value = float(np.median(self.times[:, over]) / np.median(self.times[:, under]))
        low, high = min(value, found.low), max(value, found.high)
        return _widened(found.model_copy(update={"value": value, "low": low, "high": high}))


def compare(
    candidate: Work,
    baseline: Work,
    seconds: float = 0.4,
    cancel: threading.Event | None = None,
    seed: int = 0,
) -> Timing:
    """Time two callables, interleaved.

    Args:
        candidate: What is measured.
        baseline: What it is compared with.
        seconds: How long to measure both; at least six rounds are made.
        cancel: Checked between turns.
        seed: Of the order within the rounds.

    Raises:
        Cancelled: `cancel` was set.
    """
    found = interleaved((candidate, baseline), seconds, cancel, seed)
    return Timing(candidate=found.latency(0), baseline=found.latency(1), speedup=found.ratio(1, 0))


def interleaved(
    works: Sequence[Work],
    seconds: float = 0.4,
    cancel: threading.Event | None = None,
    seed: int = 0,
    paces: Sequence[Pace] | None = None,
) -> Samples:
    """Time several callables in the same rounds.

    A round lets each have a turn in random order, and one more in the reverse order (ABBA): a machine that gets
    slower, and what the one leaves in the caches for the next, weigh on all alike.

    Args:
        works: What is measured.
        seconds: How long to measure, warming up not included; at least six rounds are made.
        cancel: Checked between turns.
        seed: Of the order within the rounds.
        paces: Of `warmed`, where that was done.

    Raises:
        Cancelled: `cancel` was set.
    """
    order = np.random.default_rng(seed)
    turns: list[list[float]] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        known = paces or [warmed(work, seconds / 5 / len(works), cancel) for work in works]
        stop = time.perf_counter() + seconds
        while len(turns) < 2 * LEAST_ROUNDS or (time.perf_counter() < stop and len(turns) < 2 * MOST_ROUNDS):
            there = order.permutation(len(works)).tolist()
            for way in (there, reversed(there)):
                taken = [0.0] * len(works)
                for index in way:
                    if cancel is not None and cancel.is_set():
                        raise Cancelled
                    taken[index] = _turn(works[index], known[index])
                turns.append(taken)
    finally:
        if collecting:
            gc.enable()
    return Samples(np.array(turns))


def warmed(work: Work, seconds: float = 0.04, cancel: threading.Event | None = None) -> Pace:
    """Warms up until two turns agree, and says how to sample.

    Args:
        work: What is measured.
        seconds: When to stop waiting for it to become steady.
        cancel: Checked between turns.

    Raises:
        Cancelled: `cancel` was set.
    """
    stop = time.perf_counter() + seconds
    pace = _pace(_sample(work, 1))
    previous = _turn(work, pace)
    while True:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        pace = _pace(previous)
        latest = _turn(work, pace)
        if time.perf_counter() > stop or abs(latest - previous) < 0.05 * previous:
            return _pace(latest)
        previous = latest


def _pace(seconds: float) -> Pace:
    calls = max(1, round(CLOCKED_SECONDS / max(seconds, 1e-9)))
    groups = max(1, round(TURN_SECONDS / max(seconds * calls, 1e-9)))
    return Pace(calls, groups, seconds)


def _turn(work: Work, pace: Pace) -> float:
    if pace.groups == 1:
        return _sample(work, pace.calls)
    return float(np.median([_sample(work, pace.calls) for _ in range(pace.groups)]))


def _sample(work: Work, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - started) / calls


def _widened(found: Estimate) -> Estimate:
    return found.model_copy(update={"low": found.low * (1 - SAME), "high": found.high * (1 + SAME)})
