"""One network at one batch and thread count: who is how fast, in the same rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from peers.graphs import GraphPeer, Opened

from race.cases import Case
from race.making import RUNTIMES, deployed
from workbench.runtimes import Prepared
from workbench.runtimes.timing import Samples, interleaved

PILOT_SECONDS, SECONDS = 0.5, 2.0


class Interval(NamedTuple):
    """A median and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Cell(NamedTuple):
    """What was measured."""

    runtime: str
    """Ours: the fastest of a trial that does not count."""
    sums: str
    """What its recipe does with residual additions."""
    seconds: Mapping[str, float]
    """Median per call: ``ours``, and the peers by name."""
    peer: str
    """The fastest."""
    ratio: Interval
    """Ours over the fastest peer's: below 1, ours is faster."""
    noise: Interval
    """Ours over a second session of the same."""
    fidelity: Mapping[str, float]
    """dB of signal over noise, against fp32's output for the same inputs."""

    @property
    def verdict(self) -> str:
        """Whether ours is slower by more than the machine's own noise."""
        beyond = max(1.0, self.noise.high, 1 / self.noise.low)
        if self.ratio.low <= 1 or self.ratio.value <= beyond:
            return "faster" if self.ratio.high < 1 else "not slower"
        return "SLOWER"


def cell(
    case: Case, layers: Mapping[str, dict[str, Any]], files: Mapping[GraphPeer, Path], batch: int, threads: int
) -> Cell:
    """Time ours, ours once more, and every peer.

    Args:
        case: The network.
        layers: Ours, quantized, by what becomes of residual additions.
        files: What the peers made.
        batch: Examples in a call.
        threads: Within an operator.
    """
    inputs = case.batch(batch)
    arrays = case.arrays(inputs)
    ours = {
        (runtime, sums): deployed(case.bench, made, runtime, batch, threads)
        for runtime in RUNTIMES
        for sums, made in layers.items()
    }
    trial = interleaved([prepared.bound(inputs) for prepared in ours.values()], PILOT_SECONDS)
    best = fastest(list(ours), trial)
    twin = deployed(case.bench, layers[best[1]], best[0], batch, threads)
    theirs: dict[str, Opened] = {peer.name: peer.open(path, threads, arrays) for peer, path in files.items()}
    works = [prepared.bound(inputs) for prepared in (ours[best], twin)]
    found = interleaved([*works, *(opened.work for opened in theirs.values())], SECONDS)
    peer = fastest(list(theirs), Samples(found.times[:, 2:]))
    at = 2 + list(theirs).index(peer)
    wanted = case.bench._network.call(inputs).numpy()
    outputs = {"ours": output(ours[best], inputs), **{name: opened.output() for name, opened in theirs.items()}}
    return Cell(
        *best,
        {"ours": found.latency(0).value, **{name: found.latency(2 + i).value for i, name in enumerate(theirs)}},
        peer,
        interval(found, 0, at),
        interval(found, 0, 1),
        {name: decibels(wanted, made) for name, made in outputs.items()},
    )


def output(prepared: Prepared, inputs: Any) -> NDArray[np.float32]:
    return prepared.run(inputs).numpy()


def interval(found: Samples, over: int, under: int) -> Interval:
    ratio = found.ratio(over, under)
    return Interval(ratio.value, ratio.low, ratio.high)


def fastest(names: Sequence[Any], found: Samples) -> Any:
    return names[int(np.argmin(np.median(found.times, axis=0)))]


def decibels(wanted: NDArray[Any], made: NDArray[Any]) -> float:
    noise = np.square(wanted - made).sum()
    return float(10 * np.log10(np.square(wanted).sum() / max(noise, 1e-30)))
