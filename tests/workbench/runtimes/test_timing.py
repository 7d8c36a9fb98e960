"""How time is taken, on a clock that the test winds."""

from __future__ import annotations

import gc
import threading

import numpy as np
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


def test_no_interval_is_narrower_than_two_sessions_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = timing.compare(clock.takes(1e-3), clock.takes(1.01e-3))
    assert found.speedup.includes(1)
    assert not timing.compare(clock.takes(1e-3), clock.takes(1.04e-3)).speedup.includes(1)


def test_slow_first_calls_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = timing.compare(clock.takes(0.3, 0.02, 1e-3), clock.takes(0.3, 0.02, 1e-3))
    assert found.speedup.low == pytest.approx(1 - timing.SAME)
    assert found.candidate.high == pytest.approx(1e-3 * (1 + timing.SAME))


def test_short_calls_are_timed_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), []
    work = clock.takes(1e-6)
    timing.compare(lambda: (calls.append(1), work()), clock.takes(1e-3), seconds=0.05)
    assert len(calls) > timing.LEAST_ROUNDS * 2 * timing.TURN_SECONDS / 1e-6 / 2


def test_an_interruption_within_a_turn_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), [0]

    def interrupted() -> None:  # 50 µs, and every 20th call another process takes the processor for 4 ms
        calls[0] += 1
        clock.now += 4e-3 if calls[0] % 20 == 0 else 5e-5

    found = timing.compare(interrupted, clock.takes(5e-5))
    assert found.candidate.value == pytest.approx(5e-5)
    assert found.speedup.includes(1)


def test_other_load_that_interrupts_a_quarter_of_all_calls_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, draw = Clock(monkeypatch), np.random.default_rng(1)

    def interrupted(seconds: float):
        def work() -> None:  # of most pairs, one is spoiled
            clock.now += seconds * (1 + 20 * (draw.random() < 0.25))

        return work

    found = timing.compare(interrupted(1e-3), interrupted(1.5e-3), seconds=2.0)
    assert found.speedup.value == pytest.approx(1.5)
    assert found.candidate.value == pytest.approx(1e-3)


def test_both_are_slowed_by_the_same_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def drifting() -> None:  # the machine gets slower and slower, for both alike
        clock.now += 1e-3 * (1 + clock.now)

    assert timing.compare(drifting, drifting, seconds=1.0).speedup.includes(1)


def test_each_round_goes_there_and_back_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = Clock(monkeypatch), []

    def work(name: str):
        def call() -> None:
            order.append(name)
            clock.now += 1e-3  # longer than a turn: one call each

        return call

    paces = [timing.Pace(1, 1, 1e-3)] * 3
    timing.interleaved([work(name) for name in "abc"], 0.2, paces=paces)
    rounds = ["".join(order[at : at + 6]) for at in range(0, len(order), 6)]
    assert all(each == each[::-1] and set(each) == set("abc") for each in rounds)
    assert len(set(rounds)) > 2


def test_a_slow_thing_is_timed_in_six_rounds_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = timing.interleaved([clock.takes(5.0), clock.takes(7.0)], 0.1)
    assert found.times.shape == (2 * timing.LEAST_ROUNDS, 2)
    assert found.ratio(1, 0).value == pytest.approx(7 / 5)


def test_a_machine_against_itself_is_called_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise whose level wanders, as load does: of 40 comparisons, as many hold 1 as an interval of 95 % promises."""
    clock, draw = Clock(monkeypatch), np.random.default_rng(0)
    level = [0.0]

    def noisy() -> None:
        level[0] = 0.98 * level[0] + draw.normal(0, 0.05)
        clock.now += 1e-3 * np.exp(level[0] + draw.normal(0, 0.05) + 3 * (draw.random() < 0.02))

    held = [timing.compare(noisy, noisy, 0.3, seed=seed).speedup.includes(1) for seed in range(40)]
    assert sum(held) >= 36


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
