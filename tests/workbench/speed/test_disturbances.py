"""What is said of a machine that does other things as well, on counters that the test writes."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.report import Estimate
from workbench.speed import disturbances as module
from workbench.speed.disturbances import Reading, cores, disturbances, oversubscription, reading

IDLE = Reading(wall=0.0, own=0.0, busy=0.0, megahertz=2000.0, throttled=0)


@pytest.fixture(autouse=True)
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 4)


def after(**changes: float) -> Reading:
    return replace(IDLE, wall=1.0, own=1.0, busy=1.0, **changes)


def noise(low: float, high: float) -> Estimate:
    return Estimate(value=1.0, low=low, high=high, unit="×", source="measured")


def test_a_quiet_machine_is_not_talked_about() -> None:
    assert disturbances(IDLE, after(), 1, noise(0.98, 1.02)) == ()


def test_own_work_is_no_disturbance() -> None:
    ours = replace(IDLE, wall=1.0, own=3.9, busy=4.0)
    assert disturbances(IDLE, ours, 4) == ()


def test_other_load_is_told_and_void_where_it_takes_the_processors_that_are_needed() -> None:
    busy = replace(after(), busy=3.5)
    (light,) = disturbances(IDLE, busy, 1)
    assert "2.5 of 4 processors" in light
    assert "may be too slow" in light
    (void,) = disturbances(IDLE, busy, 2)
    assert "void" in void


def test_a_browser_that_draws_is_borne_where_a_processor_is_left_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = replace(after(), busy=1.3)
    assert disturbances(IDLE, drawing, 3) == ()
    (void,) = disturbances(IDLE, drawing, 4)  # it draws on one that is timed
    assert "void" in void
    monkeypatch.setattr(module, "cores", lambda: 1)
    (void,) = disturbances(IDLE, drawing, 1)
    assert "0.3 of 1 processor meanwhile" in void and "void" in void


def test_a_clock_that_changed_is_told_with_both_frequencies() -> None:
    (said,) = disturbances(IDLE, after(megahertz=1500.0), 1)
    assert "2000" in said
    assert "1500" in said
    assert not disturbances(IDLE, after(megahertz=2010.0), 1)


def test_a_container_that_was_stopped_is_told() -> None:
    assert "container" in " ".join(disturbances(IDLE, after(throttled=2), 1))


def test_more_threads_than_processors_are_told_with_the_most_that_are_here() -> None:
    assert oversubscription(4) is None
    assert "choose 4 or fewer" in (oversubscription(5) or "")
    assert any("5 threads" in said for said in disturbances(IDLE, after(), 5))


def test_a_machine_that_is_unlike_itself_is_told() -> None:
    (said,) = disturbances(IDLE, after(), 1, noise(0.88, 1.02))
    assert "12%" in said


def test_a_machine_without_counters_is_silent() -> None:
    blind = Reading(0.0, 0.0, None, None, None)
    assert disturbances(blind, replace(blind, wall=1.0), 1) == ()


def test_counters_are_those_of_the_processors_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "_allowed", lambda: frozenset({1}))
    monkeypatch.setattr(os, "sysconf", lambda _: 100, raising=False)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(
        "cpu  999 999 999 999 999 999 999 999 9 9\n"
        "cpu0 500 500 500 500 500 500 500 500 0 0\n"
        "cpu1 100 20 30 7000 800 4 5 41 60 0\n"
        "intr 12345\n"
    )
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: X\ncpu MHz\t\t: 1000.0\n\nprocessor\t: 1\ncpu MHz\t\t: 3000.5\n"
    )
    found = reading()
    assert found.busy == pytest.approx((100 + 20 + 30 + 4 + 5 + 41) / 100)  # neither idle, nor waiting, nor guests
    assert found.megahertz == pytest.approx(3000.5)
    assert found.throttled is None


def test_a_container_has_as_many_processors_as_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(module, "_allowed", lambda: frozenset(range(8)))
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert cores() == 8
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    quota = tmp_path / "sys/fs/cgroup/cpu.max"
    for text, expected in (("150000 100000", 2), ("max 100000", 8), ("20000 100000", 1), ("nonsense", 8)):
        quota.write_text(text)
        assert cores() == expected


def test_the_clock_of_this_machine_goes_forward() -> None:
    before = reading()
    time.sleep(0.02)
    assert reading().wall > before.wall
