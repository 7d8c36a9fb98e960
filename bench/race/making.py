"""From a recipe to a session, and from an exported graph to a session, by the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from peers.graphs import GraphPeer

import workbench as wb
from race.cases import Case
from workbench import runtimes
from workbench.quantization.quantizer import specs
from workbench.runtimes import Prepared

RECIPES = {
    sums: wb.Recipe(quantization=wb.Quantization(weight_bits=8, activation_bits=8, range="minmax", sums=sums))
    for sums in ("none", "shortcut")
}
"""By what becomes of residual additions: some networks have none, and not every kernel gains from rounding them."""
RUNTIMES = ("onnxruntime", "openvino")
ROUNDS = 3


def quantized(bench: wb.Bench, sums: str) -> dict[str, Any]:
    network = bench._network
    return network.quantized(specs(RECIPES[sums].quantization, network.layers))


def deployed(bench: wb.Bench, layers: dict[str, Any], runtime: str, batch: int, threads: int) -> Prepared:
    deployment = wb.Deployment(runtime=runtime, batch=batch, threads=threads)
    return runtimes.prepare(deployment, bench._network, layers)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def making(case: Case, peers: Sequence[GraphPeer], threads: int) -> dict[str, Any]:
    """Seconds from a loaded, exported network that nothing is known of to a session for one example.

    In turn, `ROUNDS` times; medians. Export and imports are left out for all; calibration is in for all. Ours has the
    shortcuts of residual additions rounded, which takes longer.
    """
    one = case.arrays(case.batch(1))
    taken: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for runtime in RUNTIMES:
            bench = case.fresh()
            spent = seconds(lambda b=bench, r=runtime: deployed(b, quantized(b, "shortcut"), r, 1, threads))
            taken.setdefault(runtime, []).append(spent)
        for peer in peers:
            spent = seconds(lambda p=peer: p.open(p.make(case.job), threads, one))
            taken.setdefault(peer.name, []).append(spent)
    medians = {name: statistics.median(all_) for name, all_ in taken.items()}
    examples = sum(len(next(iter(batch.values()))) for batch in case.job.calibration)
    return {"seconds": medians, "examples": examples, "export": case.export_seconds}


def to_latency(case: Case) -> dict[str, list[float]]:
    """Seconds from a recipe that is new to a bench to its int8 latency, by runtime: quantization, session and timing.

    The first of each is W8 A8 on a bench that has looked at nothing, its calibration included.
    """
    return {runtime: _to_latency(case, runtime) for runtime in RUNTIMES}


def _to_latency(case: Case, runtime: str) -> list[float]:
    bench, first = case.fresh(), RECIPES["none"]
    recipes = [
        first.replace(
            quantization=first.quantization.replace(weight_bits=bits), deployment=wb.Deployment(runtime=runtime)
        )
        for bits in range(8, 1, -1)
    ]
    return [seconds(lambda r=recipe: bench.latency(r)) for recipe in recipes]
