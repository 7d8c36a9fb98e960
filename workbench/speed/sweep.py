"""Which runtime wins at which batch and thread count, and whether that can be told apart from the next best."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from workbench import runtimes
from workbench.errors import Cancelled, RecipeError, WorkbenchError, nearest
from workbench.inputs import Inputs
from workbench.randomness import seeded
from workbench.recipe import Recipe
from workbench.report import Estimate
from workbench.runtimes import Prepared
from workbench.runtimes.timing import Pace, Work, interleaved, warmed
from workbench.speed.disturbances import cores, disturbances, oversubscription, reading
from workbench.speed.subject import Subject, attempted
from workbench.speed.words import duration, factor
from workbench.tables import Tabular

SECONDS_EACH = 0.15
"""Of measuring, for each runtime at each batch and thread count."""
FAR = 3.0
"""A runtime that is as many times slower than the fastest is timed by itself: it cannot win."""


class Cell(BaseModel):
    """One runtime at one batch and thread count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str
    batch: int
    threads: int
    latency: Estimate | None = None
    """Seconds per call; None where it failed."""
    throughput: Estimate | None = None
    """Examples per second."""
    reason: str = ""
    """Why it failed."""


class Winner(BaseModel):
    """The fastest runtime at one batch and thread count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int
    threads: int
    runtime: str
    second: str | None = None
    """The next best; None where no other runs."""
    ratio: Estimate | None = None
    """How many times longer the next best takes, timed in the same rounds."""

    @property
    def distinguishable(self) -> bool:
        """Whether it wins beyond chance; where no other runs there is nothing to tell it from."""
        return self.ratio is None or not self.ratio.includes(1)


class Sweep(Tabular, BaseModel):
    """A recipe in several runtimes, at several batches and thread counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    cells: tuple[Cell, ...] = ()
    winners: tuple[Winner, ...] = ()
    """One for each batch and thread count where anything runs."""
    total: int = 0
    """How many cells there will be."""
    disturbances: tuple[str, ...] = ()
    stage: str = ""
    """What is being timed; empty where nothing is left to do."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return not self.stage

    def cell(self, runtime: str, batch: int, threads: int) -> Cell | None:
        """One of the cells; None where it is not there (yet)."""
        return next((c for c in self.cells if (c.runtime, c.batch, c.threads) == (runtime, batch, threads)), None)

    def _headline(self) -> str:
        text = f"Sweep of {self.recipe.label}: {len(self.cells)} of {self.total}"
        return f"{text}; {self.stage}" if self.stage else text

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        names = list(dict.fromkeys(cell.runtime for cell in self.cells))
        rows = []
        for batch, threads in dict.fromkeys((cell.batch, cell.threads) for cell in self.cells):
            found = [self.cell(name, batch, threads) for name in names]
            times = [duration(c.latency, interval=False) if c and c.latency else "–" for c in found]
            won = next((w for w in self.winners if (w.batch, w.threads) == (batch, threads)), None)
            rows.append((str(batch), str(threads), *times, _verdict(won)))
        return ("batch", "threads", *names, "fastest"), rows

    def _said(self) -> list[str]:
        reasons = dict.fromkeys(f"{cell.runtime}: {cell.reason}" for cell in self.cells if cell.reason)
        return [*reasons, *self.disturbances]


def _verdict(won: Winner | None) -> str:
    if won is None:
        return "none runs"
    if won.second is None or won.ratio is None:
        return f"{won.runtime}, alone"
    if not won.distinguishable:
        return f"{won.runtime} or {won.second}: not distinguishable"
    return f"{won.runtime}; {won.second} takes {factor(won.ratio)}"


@dataclass(frozen=True)
class _Ready:
    runtime: str
    work: Work
    pace: Pace


def sweep(
    subject: Subject,
    names: Sequence[str] | None,
    batches: Sequence[int],
    threads: Sequence[int] | None,
    lock: threading.RLock,
    cancel: threading.Event | None = None,
) -> Iterator[Sweep]:
    """Time a recipe everywhere.

    Args:
        subject: What is timed.
        names: Of runtimes; all that there are by default, those that are not installed with the reason.
        batches: Examples in a call.
        threads: 1 and all processors by default.
        lock: Held while something is timed.
        cancel: Checked between calls, and before a runtime is prepared.

    Yields:
        Before each batch and thread count, with all cells so far; at last with an empty `stage`.

    Raises:
        RecipeError: A runtime is unknown, or a batch or thread count is not allowed.
        Cancelled: `cancel` was set.
    """
    known = [runtime.name for runtime in runtimes.RUNTIMES]
    chosen = list(dict.fromkeys(known if names is None else names))
    for name in chosen:
        if name not in known:
            raise RecipeError(f"sweep: there is no runtime {name!r}. {nearest(name, known)}")
    here = cores()
    counts = tuple(dict.fromkeys((1, here) if threads is None else threads))
    sizes = tuple(dict.fromkeys(batches))
    if not (chosen and counts and sizes):
        raise RecipeError("sweep: name one runtime, one batch and one thread count at least.")
    grid = [
        subject.deployment.replace(batch=b, threads=t) for t in counts for b in sizes
    ]  # refuses what is not allowed
    found = Sweep(recipe=subject.recipe, total=len(chosen) * len(grid), stage="preparing")
    before, doubts = reading(), dict.fromkeys(each for t in counts if (each := oversubscription(t)))
    prepared: dict[tuple[str, int], Prepared | WorkbenchError] = {}
    for deployment in grid:
        size, count = deployment.batch, deployment.threads
        yield (found := found.model_copy(update={"stage": f"batch {size}, threads {count}"}))
        with lock:
            cells, won = _raced(subject, chosen, size, count, prepared, cancel)
        winners = (*found.winners, *([won] if won else []))
        found = found.model_copy(update={"cells": (*found.cells, *cells), "winners": winners})
    seen = (*doubts, *disturbances(before, reading(), 1))
    yield found.model_copy(update={"stage": "", "disturbances": seen})


def _raced(
    subject: Subject,
    names: Sequence[str],
    size: int,
    threads: int,
    prepared: dict[tuple[str, int], Prepared | WorkbenchError],
    cancel: threading.Event | None,
) -> tuple[list[Cell], Winner | None]:
    """All runtimes at one batch and thread count, in the same rounds."""
    try:
        batch = subject.batch(size)
    except WorkbenchError as error:  # beyond memory
        return [Cell(runtime=name, batch=size, threads=threads, reason=str(error)) for name in names], None
    cells: dict[str, Cell] = {}
    ready: list[_Ready] = []
    with seeded():
        for name in names:
            if cancel is not None and cancel.is_set():
                raise Cancelled
            try:
                ready.append(_ready(subject, name, batch, threads, prepared, cancel))
            except WorkbenchError as error:
                cells[name] = Cell(runtime=name, batch=size, threads=threads, reason=str(error))
        fastest = min((each.pace.seconds for each in ready), default=0.0)
        close = [each for each in ready if each.pace.seconds <= FAR * fastest]
        far = [each for each in ready if each not in close]
        taken: dict[str, Estimate] = {}
        for group in ([close] if close else []) + [[each] for each in far]:
            works, paces = [each.work for each in group], [each.pace for each in group]
            samples = interleaved(works, SECONDS_EACH * len(group), cancel, paces=paces)
            taken |= {each.runtime: samples.latency(index) for index, each in enumerate(group)}
            if group is close:
                order = sorted(range(len(close)), key=lambda index: taken[close[index].runtime].value)
                ratio = samples.ratio(order[1], order[0]) if len(order) > 1 else None
    for name, latency in taken.items():
        rate = Estimate(
            value=size / latency.value, low=size / latency.high, high=size / latency.low, unit="1/s", source="measured"
        )
        cells[name] = Cell(runtime=name, batch=size, threads=threads, latency=latency, throughput=rate)
    won = None
    if close:
        first, *others = (close[index].runtime for index in order)
        if not others and far:  # by far, so that each was timed by itself
            second = min(far, key=lambda each: taken[each.runtime].value).runtime
            ratio = _quotient(taken[second], taken[first])
            others = [second]
        won = Winner(batch=size, threads=threads, runtime=first, second=others[0] if others else None, ratio=ratio)
    return [cells[name] for name in names], won


def _quotient(over: Estimate, under: Estimate) -> Estimate:
    """Of two that were timed apart: its interval holds every quotient of theirs."""
    low, high = over.low / under.high, over.high / under.low
    return Estimate(value=over.value / under.value, low=low, high=high, unit="×", source="measured")


def _ready(
    subject: Subject,
    name: str,
    batch: Inputs,
    threads: int,
    prepared: dict[tuple[str, int], Prepared | WorkbenchError],
    cancel: threading.Event | None,
) -> _Ready:
    """A runtime on a batch, warm; what failed once is not tried at every batch."""
    key = (name, threads)
    if key not in prepared:
        try:
            own = subject.deployment.replace(runtime=name, threads=threads, batch=len(batch))
            prepared[key] = subject.prepared(own)
        except WorkbenchError as error:
            prepared[key] = error
    run = prepared[key]
    if isinstance(run, WorkbenchError):
        raise run
    work = attempted(name, lambda: run.bound(batch))
    attempted(name, work)  # what is compiled at the first call fails there
    return _Ready(name, work, warmed(work, cancel=cancel))
