"""Which runtime wins where, on runtimes whose calls take what the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from workbench import Cancelled, Deployment, Quantization, Recipe, RecipeError, WorkbenchError, runtimes
from workbench.inputs import Inputs
from workbench.runtimes import timing
from workbench.speed import sweep as module
from workbench.speed.subject import Subject
from workbench.speed.sweep import Sweep, sweep

RECIPE = Recipe(quantization=Quantization(weight_bits=8))


class Fake:
    """A runtime whose calls take this long for each example, and this long besides."""

    def __init__(self, name: str, each: float, besides: float, machine: Machine) -> None:
        self.name, self.each, self.besides, self.machine = name, each, besides, machine
        self.absent: str | None = None
        self.breaks: WorkbenchError | None = None
        self.prepared: list[Deployment] = []

    def bound(self, batch: Inputs) -> Callable[[], None]:
        taken = self.besides + self.each * len(batch)

        def call() -> None:
            self.machine.now += taken

        return call


class Machine:
    now = 0.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runtimes = {
            "small": Fake("small", 1e-4, 1e-4, self),
            "large": Fake("large", 0.5e-4, 4e-4, self),
            "slow": Fake("slow", 40e-4, 1e-4, self),
        }
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(runtimes, "RUNTIMES", tuple(self.runtimes.values()))
        monkeypatch.setattr(runtimes, "prepare", self.prepare)
        monkeypatch.setattr(module, "cores", lambda: 2)
        monkeypatch.setattr(module, "disturbances", lambda *_: ())

    def prepare(self, deployment: Deployment, *_: object) -> Fake:
        fake = self.runtimes[deployment.runtime]
        fake.prepared.append(deployment)
        if fake.breaks:
            raise fake.breaks
        if fake.absent:
            raise WorkbenchError(fake.absent)
        return fake


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def swept(names=None, batches=(1, 32), threads=(1,), batch=None, cancel=None) -> Sweep:
    subject = Subject(RECIPE, None, {}, batch or (lambda size: Inputs(torch.zeros(size, 1))))  # type: ignore[arg-type]
    *_, found = sweep(subject, names, batches, threads, threading.RLock(), cancel)
    return found


def test_the_winner_changes_with_the_batch(machine: Machine) -> None:
    found = swept()
    assert [(w.batch, w.runtime, w.second, w.distinguishable) for w in found.winners] == [
        (1, "small", "large", True),
        (32, "large", "small", True),
    ]
    assert found.winners[0].ratio.value == pytest.approx(4.5e-4 / 2e-4)
    assert found.complete
    assert len(found.cells) == found.total == 6
    cell = found.cell("slow", 32, 1)
    assert cell.latency.value == pytest.approx(32 * 40e-4 + 1e-4)
    assert cell.throughput.value == pytest.approx(32 / cell.latency.value)


def test_two_that_take_the_same_are_not_told_apart(machine: Machine) -> None:
    machine.runtimes["large"].each, machine.runtimes["large"].besides = 1e-4, 1.01e-4
    (won,) = swept(batches=(1,)).winners
    assert not won.distinguishable
    assert "not distinguishable" in str(swept(batches=(1,)))


def test_a_runtime_far_behind_is_still_timed_and_is_second_where_no_other_runs(machine: Machine) -> None:
    (won,) = swept(["small", "slow"], batches=(8,)).winners
    assert (won.runtime, won.second) == ("small", "slow")
    assert won.ratio.value == pytest.approx((8 * 40e-4 + 1e-4) / 9e-4)
    assert won.distinguishable


def test_each_runtime_is_prepared_once_a_thread_count(machine: Machine) -> None:
    swept(batches=(1, 2, 4), threads=(1, 2))
    assert [d.threads for d in machine.runtimes["small"].prepared] == [1, 2]


def test_threads_are_one_and_all_processors_by_default(machine: Machine) -> None:
    assert {cell.threads for cell in swept(threads=None).cells} == {1, 2}


def test_what_is_not_here_and_what_breaks_says_so_in_its_cells_and_the_others_race(machine: Machine) -> None:
    machine.runtimes["large"].absent = "large: pip install large"
    machine.runtimes["slow"].breaks = WorkbenchError("illegal instruction")
    found = swept()
    assert found.cell("large", 1, 1).reason == "large: pip install large"
    assert "illegal instruction" in found.cell("slow", 32, 1).reason
    assert len(machine.runtimes["slow"].prepared) == 1  # what failed is not tried at every batch
    assert [(w.runtime, w.second, w.distinguishable) for w in found.winners] == [("small", None, True)] * 2
    assert "illegal instruction" in found._repr_html_()


def test_where_nothing_runs_nobody_wins(machine: Machine) -> None:
    for fake in machine.runtimes.values():
        fake.absent = "gone"
    found = swept()
    assert found.winners == ()
    assert "none runs" in str(found)


def test_a_batch_beyond_memory_fails_in_its_cells_alone(machine: Machine) -> None:
    def batch(size: int) -> Inputs:
        if size > 8:
            raise RecipeError("The largest batch that fits is 8.")
        return Inputs(torch.zeros(size, 1))

    found = swept(batches=(8, 64), batch=batch)
    assert all("largest batch" in cell.reason for cell in found.cells if cell.batch == 64)
    assert all(cell.latency for cell in found.cells if cell.batch == 8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"names": ["smal"]}, "small"),
        ({"batches": (0,)}, "batch"),
        ({"threads": (0,)}, "threads"),
        ({"batches": ()}, "one batch"),
        ({"names": []}, "one runtime"),
    ],
)
def test_what_cannot_be_swept_is_refused(machine: Machine, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        swept(**arguments)


def test_more_threads_than_processors_run_and_are_warned_of(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.speed.disturbances.cores", lambda: 2)
    found = swept(threads=(3,))
    assert found.winners
    assert any("3 threads" in said for said in found.disturbances)


def test_it_grows_by_a_row_and_can_be_cancelled(machine: Machine) -> None:
    cancel = threading.Event()
    subject = Subject(RECIPE, None, {}, lambda size: Inputs(torch.zeros(size, 1)))  # type: ignore[arg-type]
    stream = sweep(subject, None, (1, 2), (1,), threading.RLock(), cancel)
    assert [len(next(stream).cells) for _ in range(2)] == [0, 3]
    cancel.set()
    with pytest.raises(Cancelled):
        next(stream)
