"""One recipe's timing, with all that says how far it can be believed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from workbench import runtimes
from workbench.errors import Cancelled
from workbench.inputs import Inputs
from workbench.randomness import seeded
from workbench.recipe import Recipe
from workbench.report import Estimate
from workbench.runtimes import Prepared
from workbench.runtimes.timing import Samples, Work, interleaved
from workbench.speed.disturbances import NOTICED_CHANGE, disturbances, reading
from workbench.speed.energy import EnergyCounter
from workbench.speed.memory import peak_growth
from workbench.speed.subject import Subject
from workbench.speed.words import duration, factor
from workbench.statistics import median_interval, quantile_interval
from workbench.tables import columns, table

NOISE_SECONDS = 0.4
TAIL_SECONDS, LONGEST_TAIL = 0.6, 3.0
"""Single calls are timed as long; up to the longest where there are fewer than `TAIL_CALLS`."""
TAIL_CALLS, MOST_CALLS = 400, 20_000
"""As many as the interval of the 99th percentile needs; and at most."""
LOAD_SECONDS, MOST_LOADS = 1.0, 5
"""Of loading it again, and how often at most; what takes longer once is loaded once."""
ONCE = "It loads slowly, and was loaded once: the machine was compared with itself in one session."
SLICES = 12
"""Of these seconds, after each of which energy is read: its counters move about once in a millisecond."""


class TimingDetails(BaseModel):
    """How fast a recipe runs here, and how sure that is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    latency: Estimate
    """Seconds per call."""
    throughput: Estimate
    """Examples per second."""
    noise: Estimate
    """The recipe against itself, prepared twice: 1 within the interval if the machine can be believed, and
    differences as small as the interval mean nothing."""
    p50: Estimate | None = None
    """Seconds that half of all calls take at most, each call timed for itself."""
    p95: Estimate | None = None
    """None where there were too few calls for it; so below."""
    p99: Estimate | None = None
    calls: int = 0
    """As many were timed for themselves."""
    load: Estimate | None = None
    """Seconds from the recipe's numbers to a session that runs, imports and export done before."""
    peak_memory: Estimate | None = None
    """Bytes by which the process grew at most, to load the model and run it; predicted where it cannot be measured."""
    energy: Estimate | None = None
    """Joules per call of the processor's package, whatever else it did; None where no counter can be read."""
    disturbances: tuple[str, ...] = ()
    """What makes these figures doubtful, with what to do."""
    notes: tuple[str, ...] = ()
    stage: str = ""
    """What is being done; empty where nothing is left to do."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return not self.stage

    def __str__(self) -> str:
        lines = [f"Timing of {self._headline()}", *columns(("", ""), list(self._said()))[1:]]
        return "\n".join([*lines, *(f"  ! {each}" for each in self.disturbances), *(f"  {n}" for n in self.notes)])

    def _repr_html_(self) -> str:
        return table(self._headline(), ("", ""), list(self._said()), (*self.disturbances, *self.notes))

    def _headline(self) -> str:
        deployment = self.recipe.deployment
        threads = "1 thread" if deployment.threads == 1 else f"{deployment.threads} threads"
        text = f"{self.recipe.label} in {deployment.runtime}, batch {deployment.batch}, {threads}"
        return f"{text}; {self.stage}" if self.stage else text

    def _said(self) -> Iterator[tuple[str, str]]:
        yield "latency", duration(self.latency)
        yield "throughput", f"{self.throughput.value:,.0f} examples/s"
        for name in ("p50", "p95", "p99", "load"):
            found: Estimate | None = getattr(self, name)
            if found is not None:
                yield name, duration(found)
        if self.peak_memory is not None:
            yield "peak memory", f"{self.peak_memory.value / 1e6:,.1f} MB ({self.peak_memory.source})"
        if self.energy is not None:
            yield "energy", f"{self.energy.value * 1e3:,.3g} mJ a call"
        yield "against itself", factor(self.noise)


def timed(
    subject: Subject,
    predicted_memory: Callable[[], float | None],
    lock: threading.RLock,
    cancel: threading.Event | None = None,
) -> Iterator[TimingDetails]:
    """Time a recipe: against itself first, then call by call, then how it loads.

    Args:
        subject: What is timed.
        predicted_memory: Bytes that it needs, where that is known.
        lock: Held while something is timed.
        cancel: Checked between calls.

    Raises:
        WorkbenchError: The runtime cannot run it.
        Cancelled: `cancel` was set.
    """
    deployment = subject.deployment
    batch = subject.batch(deployment.batch)
    if runtimes.get(deployment.runtime).takes == "graph":
        _ = subject.source.graph  # exported once a model, so it is no part of loading
    loading = _Loading(subject, batch)
    with lock, seeded():
        peak = peak_growth(loading.load)
        slow = loading.seconds[0] > LOAD_SECONDS
        if not slow:
            loading.load()
        works = [(loading.runs[-1] if at else loading.runs[0]).bound(batch) for at in range(2)]
        before = reading()
        samples = interleaved(works, NOISE_SECONDS, cancel)
    note = loading.runs[0].note
    noise = samples.ratio(1, 0)
    drift = tuple(_drift(samples))
    latency = samples.latency(0)
    details = TimingDetails(
        recipe=subject.recipe,
        latency=latency,
        throughput=_rate(latency, deployment.batch),
        noise=noise,
        disturbances=(*disturbances(before, reading(), deployment.threads, noise), *drift),
        notes=(*((note,) if note else ()), *((ONCE,) if slow else ())),
        stage="call by call",
    )
    yield details
    with lock, seeded():
        calls, energy = _call_by_call(works[0], cancel)
        doubts = (*disturbances(before, reading(), deployment.threads, noise), *drift)
    share = {name: quantile_interval(calls, at, "s") for name, at in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    too_few = [name for name, found in share.items() if found is None]
    if too_few:
        details = _noted(details, f"{len(calls)} calls are too few for {' and '.join(too_few)}.")
    told = {"calls": len(calls), "energy": energy, "disturbances": doubts, "stage": "loading"}
    details = details.model_copy(update={**share, **told})
    yield details
    del works
    with lock, seeded():
        if not slow:  # once more, now that all that a process does once was done
            loading.runs.clear()  # what they hold must not be there a second time
            loading.seconds.clear()
            peak = peak_growth(loading.load)
        while not slow and len(loading.seconds) < MOST_LOADS and sum(loading.seconds) < LOAD_SECONDS:
            if cancel is not None and cancel.is_set():
                raise Cancelled
            loading.load()
    memory = Estimate.exact(peak, "B") if peak is not None else None
    expected = None if peak is not None else predicted_memory()
    if expected is not None:
        memory = Estimate.exact(expected, "B", "predicted")
    yield details.model_copy(update={"load": loading.estimate(), "peak_memory": memory, "stage": ""})


class _Loading:
    """Loads a recipe, and knows how long that took."""

    def __init__(self, subject: Subject, batch: Inputs) -> None:
        self._subject, self._batch = subject, batch
        self.runs: list[Prepared] = []
        self.seconds: list[float] = []

    def load(self) -> None:
        """Once more, and run it once."""
        started = time.perf_counter()
        run = self._subject.prepared(self._subject.deployment)
        self.seconds.append(time.perf_counter() - started)
        self.runs.append(run)
        run.run(self._batch)

    def estimate(self) -> Estimate:
        """Its median, with the whole range."""
        value = float(np.median(self.seconds))
        return Estimate(value=value, low=min(self.seconds), high=max(self.seconds), unit="s", source="measured")


def _rate(latency: Estimate, batch: int) -> Estimate:
    low, high = batch / latency.high, batch / latency.low
    return Estimate(value=batch / latency.value, low=low, high=high, unit="1/s", source="measured")


def _noted(details: TimingDetails, note: str) -> TimingDetails:
    return details.model_copy(update={"notes": (*details.notes, note)})


def _drift(samples: Samples) -> Iterator[str]:
    """Both sides became slower or faster together: the clock, where the system does not tell it, or other load."""
    both = samples.times.mean(axis=1)
    third = len(both) // 3
    if third < 2:
        return
    change = float(np.median(both[-third:]) / np.median(both[:third])) - 1
    if abs(change) > NOTICED_CHANGE:
        yield (
            f"Calls became {abs(change):.0%} {'slower' if change > 0 else 'faster'} while they were timed: the "
            "processor's clock or other load has changed. Measure again."
        )


def _call_by_call(work: Work, cancel: threading.Event | None) -> tuple[NDArray[np.float64], Estimate | None]:
    """Seconds of single calls, shape (calls,), and joules per call."""
    counter = EnergyCounter.found()
    taken: list[float] = []
    joules: list[float] = []
    began = now = time.perf_counter()
    counted, read = 0, began
    while len(taken) < MOST_CALLS and (
        now < began + TAIL_SECONDS or (len(taken) < TAIL_CALLS and now < began + LONGEST_TAIL)
    ):
        if cancel is not None and cancel.is_set():
            raise Cancelled
        started = time.perf_counter()
        work()
        now = time.perf_counter()
        taken.append(now - started)
        if counter is not None and now > read + TAIL_SECONDS / SLICES:
            try:
                joules.append(counter.joules() / (len(taken) - counted))
            except (OSError, ValueError):  # it cannot be read any more; times are good all the same
                counter = None
                joules.clear()
            counted, read = len(taken), now
    return np.array(taken), median_interval(np.array(joules), "J") if joules else None
