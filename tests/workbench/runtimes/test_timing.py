"""How time is taken, on a clock that the test winds."""

from __future__ import annotations

import gc
import threading

import pytest

from workbench import Cancelled
from workbench.runtimes import timing


class Clock:
    """Time passes only when something is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def takes(self, *seconds: float):
        """A callable that takes these times in turn, the last for ever."""
        left = list(seconds)

        def work() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return work


def test_ratio_and_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = timing.compare(clock.takes(1e-3), clock.takes(3e-3))
    assert found.candidate.value == pytest.approx(1e-3)
    assert found.baseline.value == pytest.approx(3e-3)
    assert found.speedup.value == pytest.approx(3)
    assert found.speedup.unit == "×"


def test_slow_first_calls_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = timing.compare(clock.takes(0.3, 0.02, 1e-3), clock.takes(0.3, 0.02, 1e-3))
    assert found.speedup.low == pytest.approx(1)
    assert found.candidate.high == pytest.approx(1e-3)


def test_short_calls_are_timed_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), []
    work = clock.takes(1e-6)
    timing.compare(lambda: (calls.append(1), work()), clock.takes(1e-3), seconds=0.05)
    assert len(calls) > timing.LEAST_ROUNDS * timing.SAMPLE_SECONDS / 1e-6 / 2


def test_both_are_slowed_by_the_same_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def drifting() -> None:  # the machine gets slower and slower, for both alike
        clock.now += 1e-3 * (1 + clock.now)

    assert timing.compare(drifting, drifting, seconds=1.0).speedup.includes(1)


def test_cancel_between_rounds_and_the_collector_runs_again() -> None:
    cancel = threading.Event()
    cancel.set()
    assert gc.isenabled()
    with pytest.raises(Cancelled):
        timing.compare(lambda: None, lambda: None, cancel=cancel)
    assert gc.isenabled()


def test_an_error_in_what_is_timed_comes_out() -> None:
    def fails() -> None:
        raise RuntimeError("kernel")

    with pytest.raises(RuntimeError, match="kernel"):
        timing.compare(fails, lambda: None)
    assert gc.isenabled()
