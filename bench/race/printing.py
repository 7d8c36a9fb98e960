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


def above(found: Mapping[str, Any], peers: Iterable[GraphPeer]) -> list[str]:
    """Peers of whose time ours takes a larger share than it may."""
    taken = found["seconds"]
    return [peer.name for peer in peers if taken[peer.runtime] > SHARE_TO_MAKE * taken[peer.name]]


def made(name: str, found: Mapping[str, Any], peers: Iterable[GraphPeer], also: Iterable[GraphPeer] = ()) -> str:
    """A network's line: ours against the peer of the same runtime.

    Args:
        name: Of the network.
        found: What `making` found.
        peers: Those that ours is held against.
        also: Others that were made.
    """
    peers = list(peers)
    missed = above(found, peers)
    parts = [f"{name:19} {found['examples']:4} examples, export {found['export']:5.1f} s"]
    for peer in (*peers, *also):
        ours, theirs = found["seconds"][peer.runtime], found["seconds"][peer.name]
        met = f", ABOVE {SHARE_TO_MAKE}" if peer.name in missed else ""
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


def to_latency(taken: Mapping[str, list[float]]) -> str:
    """A line for each runtime; the first recipe has the calibration in it, and stands apart."""
    return "\n".join(_to_latency(runtime, *all_) for runtime, all_ in taken.items())


def _to_latency(runtime: str, first: float, *later: float) -> str:
    median, worst = statistics.median(later), max(later)
    met = f"{'within' if worst <= LATENCY_SECONDS else 'ABOVE'} {LATENCY_SECONDS} s"
    return (
        f"new recipe -> measured int8 latency, seed-cnn in {runtime:11}: median {median:.2f} s, worst {worst:.2f} s, "
        f"{met}; first recipe, calibration included: {first:.2f} s"
    )
