from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import RecipeError
from workbench.speed import memory
from workbench.speed.memory import available, peak_growth, refuse_beyond


@given(st.integers(1, 10_000), st.integers(0, 10**9), st.integers(1, 10**6), st.integers(0, 10**10))
def test_the_largest_batch_that_is_named_fits_and_one_more_does_not(batch: int, fixed: int, each: int, free: int):
    if fixed + batch * each <= free:
        refuse_beyond(batch, fixed, each, free)
        return
    with pytest.raises(RecipeError) as caught:
        refuse_beyond(batch, fixed, each, free)
    said = str(caught.value)
    assert f"batch = {batch:,}" in said
    if "largest batch" in said:
        most = int(said.rsplit(" ", 1)[1].rstrip(".").replace(",", ""))
        refuse_beyond(most, fixed, each, free)
        assert fixed + (most + 1) * each > free
    else:
        assert fixed + each > free


def test_where_nothing_is_known_everything_is_let_through() -> None:
    refuse_beyond(65_536, 1e12, 1e12, None)


def test_what_is_available_is_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 3 kB\nMemAvailable:      7 kB\n")
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert memory._available_here() == 7 * 1024
    assert (available() or 0) <= 7 * 1024  # less where a container has less


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no system that tells the peak")
def test_growth_is_that_of_the_peak_and_not_of_the_end() -> None:
    def work() -> None:
        np.ones(8_000_000)  # 64 MB, gone at once

    grown = peak_growth(work)
    assert grown is not None
    assert 50e6 < grown < 120e6
    again = peak_growth(lambda: None)
    assert again is not None
    assert again < 20e6


def test_where_the_system_does_not_tell_the_work_is_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path / "absent")
    done: list[int] = []
    assert peak_growth(lambda: done.append(1)) is None
    assert done == [1]
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert memory._available_here() is None


def test_an_error_in_the_work_comes_out() -> None:
    def fails() -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        peak_growth(fails)
