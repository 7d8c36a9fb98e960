"""One recipe's timing, in a real runtime: what is there, and that it agrees with itself; never how fast."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from workbench import Bench, Cancelled, Deployment, Quantization, Recipe, RecipeError, runtimes
from workbench.runtimes.timing import Samples
from workbench.speed import details as module
from workbench.speed.details import TimingDetails, _drift
from workbench.speed.energy import EnergyCounter

W8 = Recipe(quantization=Quantization(weight_bits=8, activation_bits=8))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOISE_SECONDS", 0.1)
    monkeypatch.setattr(module, "TAIL_SECONDS", 0.1)
    monkeypatch.setattr(module, "MOST_LOADS", 2)


def test_everything_is_there_and_agrees_with_itself(bench: Bench) -> None:
    grown = list(bench.timing_stream(W8.replace(deployment=Deployment(batch=4))))
    assert [found.stage for found in grown] == ["call by call", "loading", ""]
    found = grown[-1]
    assert found.latency.low <= found.latency.value <= found.latency.high
    assert found.throughput.value == pytest.approx(4 / found.latency.value)
    assert found.throughput.low == pytest.approx(4 / found.latency.high)
    assert found.p50.value <= found.p95.value <= found.p99.value
    assert found.load.low <= found.load.value <= found.load.high
    assert found.peak_memory.value > 0
    assert found.noise.unit == "×"
    assert "p99" in str(found)
    assert "peak memory" in found._repr_html_()
    assert TimingDetails.model_validate_json(found.model_dump_json()) == found


def test_too_few_calls_for_a_tail_are_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CALLS", 100)
    found = bench.timing(W8)
    assert found.calls == 100
    assert found.p95 is not None
    assert found.p99 is None
    assert "100 calls are too few for p99." in found.notes


def test_energy_is_shared_out_over_the_calls(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counter:
        def joules(self) -> float:
            return 3.0

    monkeypatch.setattr(EnergyCounter, "found", classmethod(lambda _: Counter()))
    monkeypatch.setattr(module, "MOST_CALLS", 50)
    monkeypatch.setattr(module, "SLICES", 10_000)  # one call each
    found = bench.timing(W8)
    assert found.energy.value == pytest.approx(3.0)
    assert found.energy.unit == "J"
    monkeypatch.setattr(EnergyCounter, "found", classmethod(lambda _: None))
    assert bench.timing(W8).energy is None


def test_a_counter_that_fails_later_costs_the_energy_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counter:
        read = 0

        def joules(self) -> float:
            self.read += 1
            if self.read > 3:
                raise OSError(5, "Input/output error")
            return 3.0

    monkeypatch.setattr(EnergyCounter, "found", classmethod(lambda _: Counter()))
    monkeypatch.setattr(module, "MOST_CALLS", 50)
    monkeypatch.setattr(module, "SLICES", 10_000)
    found = bench.timing(W8)
    assert found.energy is None
    assert found.calls == 50 and found.complete


def test_memory_is_predicted_where_it_cannot_be_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "peak_growth", lambda work: (work(), None)[1])
    found = bench.timing(W8).peak_memory
    assert found.source == "predicted"
    counts = bench.counts(W8)
    assert found.value == 4 * (counts.parameters + counts.peak_activation + 2 * counts.inputs + counts.outputs)


def test_more_threads_than_processors_run_and_are_warned_of(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.speed.disturbances.cores", lambda: 1)
    found = bench.timing(W8.replace(deployment=Deployment(threads=2)))
    assert any("2 threads" in said and "choose 1" in said for said in found.disturbances)


def test_a_batch_beyond_memory_is_refused_before_it_is_made(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.bench.available", lambda: 50_000_000)
    monkeypatch.setattr(type(bench.task.calibration), "cycled", lambda *_: pytest.fail("it was made"))
    with pytest.raises(RecipeError, match=r"batch = 65,536.*largest batch that fits is [\d,]+\."):
        bench.measure(W8.replace(deployment=Deployment(batch=65_536)))
    with pytest.raises(RecipeError, match=r"batch = 1,000,000: it needs about .*largest batch that fits is [\d,]+\."):
        bench.measure(W8.replace(deployment=Deployment(batch=1_000_000)))


def test_what_loads_slowly_is_loaded_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOAD_SECONDS", 0.0)
    loads: list[Deployment] = []
    prepare = runtimes.prepare

    def counted(deployment: Deployment, *arguments: Any) -> runtimes.Prepared:
        loads.append(deployment)
        return prepare(deployment, *arguments)

    monkeypatch.setattr(runtimes, "prepare", counted)
    found = bench.timing(W8)
    assert len(loads) == 1
    assert module.ONCE in found.notes
    assert found.load.low == found.load.high > 0


def test_calls_that_become_slower_are_told_and_steady_ones_are_not() -> None:
    def said(last: float) -> list[str]:
        times = np.linspace(1e-3, last, 90).repeat(2).reshape(90, 2)
        return list(_drift(Samples(times)))

    assert "slower" in said(1.3e-3)[0]
    assert "faster" in said(0.7e-3)[0]
    assert said(1.01e-3) == []


def test_cancel(bench: Bench) -> None:
    cancel = threading.Event()
    stream: Iterator[TimingDetails] = bench.timing_stream(W8, cancel)
    next(stream)
    cancel.set()
    with pytest.raises(Cancelled):
        next(stream)
