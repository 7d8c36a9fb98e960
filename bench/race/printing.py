"""What a person reads of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from peers.graphs import GraphPeer

from race.cells import Cell

SHARE_TO_MAKE = 0.5
"""Of a peer's time at most."""
LATENCY_SECONDS = 0.5


def made(name: str, found: Mapping[str, Any], peers: Iterable[GraphPeer]) -> str:
    """A network's line: ours against the peer of the same runtime."""
    parts = [f"{name:19} {found['examples']:4} examples, export {found['export']:5.1f} s"]
    for peer in peers:
        ours, theirs = found["seconds"][peer.runtime], found["seconds"][peer.name]
        met = "" if ours / theirs <= SHARE_TO_MAKE else f", ABOVE {SHARE_TO_MAKE}"
        parts.append(f"{peer.runtime} {ours:5.2f} s, {peer.name} {theirs:5.2f} s: {ours / theirs:.2f}{met}")
    return "   ".join(parts)


def timed(name: str, batch: int, threads: int, cell: Cell) -> str:
    """A cell's line: ours against the fastest peer, and against itself."""
    quality = cell.fidelity
    times = "  ".join(f"{who} {seconds * 1e3:.3f} ms ({quality[who]:.0f} dB)" for who, seconds in cell.seconds.items())
    rounded = ", shortcuts rounded" if cell.sums == "shortcut" else ""
    return (
        f"{name:19} batch {batch:2}, {threads} thread{'s' if threads > 1 else ' '}  {cell.verdict:10} "
        f"{cell.ratio} of {cell.peer}, A/A {cell.noise}   in {cell.runtime}{rounded}: {times}"
    )


def to_latency(taken: list[float]) -> str:
    median, worst = statistics.median(taken), max(taken)
    met = f"{'within' if worst <= LATENCY_SECONDS else 'ABOVE'} {LATENCY_SECONDS} s"
    return f"recipe -> measured int8 latency, seed-cnn: median {median:.2f} s, worst {worst:.2f} s, {met}"
