"""int8 here against int8 as others make it: how long a call takes, and how long it takes to make.

    python bench/runtimes.py [--networks NAME ...] [--batches N ...] [--threads N ...] [--store FOLDER]

Ours is the recipe W8 A8, in onnxruntime and in OpenVINO, each with and without rounding the shortcuts of residual
additions; the fastest in a trial that does not count is then timed, in the same rounds, against a second session of
itself (A/A: the machine's noise) and against both peers: onnxruntime's `quantize_static` (QDQ, per channel, minimum
and maximum, after `quant_pre_process`) and NNCF with OpenVINO. Everybody is given the same calibration inputs in the
same batches, the same exported graph, the same threads (none spin) and one stream. "Slower" is said where the
interval of the ratio to the fastest peer lies above 1 and the ratio beyond what A/A shows; "faster" where it lies
below 1. Behind each latency stands how near the output is to fp32's, because a fast answer can be a wrong one.

The time to make it goes from the exported graph to a session, calibration included, export and imports not, on all
cores; ours is set against the peer of the same runtime, onnxruntime's also without the `quant_pre_process` that it
advises. From a recipe to its latency means what a user waits for it: quantization, session and timing. The exit code
is 1 where a cell is slower, or the share of a peer's time to make it larger than it may be. Networks named after
ResNet-18 and MobileNetV2 have their shapes and random weights. With --store, a stopped run goes on where it was.
Peers that cannot be imported are named: pip install "acceleration-workbench[peers]".
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # the peers' progress bars; read when tqdm is imported

import torch
from peers.graphs import GraphPeer
from race import printing
from race.cases import NETWORKS, Case
from race.cells import Cell, Interval, cell
from race.kept import Kept
from race.making import RECIPES, making, quantized, to_latency

import workbench as wb

PEERS = ("onnxruntime_static", "nncf_openvino")


def present() -> list[GraphPeer]:
    found = []
    for name in PEERS:
        try:
            found.append(importlib.import_module(f"peers.{name}").PEER)
        except ImportError as error:
            print(f"{name}: cannot be imported here ({error})")
    return found


def beside(peers: list[GraphPeer]) -> list[GraphPeer]:
    """Other ways to make a peer's graph, whose time is shown as well."""
    modules = (sys.modules[f"peers.{name}"] for name in PEERS if f"peers.{name}" in sys.modules)
    return [module.AT_ONCE for module in modules if getattr(module, "AT_ONCE", None) and module.PEER in peers]


def cells(case: Case, peers: list[GraphPeer], kept: Kept, batches: list[int], threads: list[int]) -> int:
    """Prints a network's cells; gives how many are slower."""
    against = " and ".join(peer.name for peer in peers)
    wanted = {f"{case.name}, batch {b}, {t} threads against {against}": (b, t) for t in threads for b in batches}
    layers, files, slower = {}, {}, 0
    if any(key not in kept for key in wanted):
        layers = {sums: quantized(case.bench, sums) for sums in RECIPES}
        files = {peer: peer.make(case.job) for peer in peers}
    for key, (batch, count) in wanted.items():
        torch.set_num_threads(count)
        found = kept.made(key, lambda b=batch, t=count: cell(case, layers, files, b, t)._asdict())
        shown = Cell(**{**found, "ratio": Interval(*found["ratio"]), "noise": Interval(*found["noise"])})
        print(printing.timed(case.name, batch, count, shown), flush=True)
        slower += shown.verdict == "SLOWER"
    return slower


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--store", type=Path, help="keeps each result, and goes on from those that are there")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # the peers' own
    folder = options.store or Path(tempfile.mkdtemp())
    kept = Kept(folder / f"runtimes-{wb.__version__}.json")
    peers = present()
    if not peers:
        parser.exit(1, "There is nothing to compare with.\n")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cases = [Case(name, folder / name) for name in options.networks]

    print(
        f"seconds to make it, {cores} core{'s' if cores > 1 else ''} (at most {printing.SHARE_TO_MAKE} of the peer's)"
    )
    also, above = beside(peers), 0
    for case in cases:
        case.folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(cores)
        everybody = [*peers, *also]
        against = " and ".join(peer.name for peer in everybody)
        found = kept.made(f"making {case.name} against {against}", lambda c=case, e=everybody: making(c, e, cores))
        print(printing.made(case.name, found, peers, also), flush=True)
        above += len(printing.above(found, peers))
        if case.name == "seed-cnn":
            torch.set_num_threads(1)
            print(
                printing.to_latency(kept.made("to latency in each runtime", lambda case=case: to_latency(case))),
                flush=True,
            )

    print("\nmilliseconds a call, int8; ours over the fastest peer with its 95 % interval; dB against fp32's output")
    slower = sum(cells(case, peers, kept, options.batches, options.threads) for case in cases)
    count = len(cases) * len(options.batches) * len(options.threads)
    print(f"\n{count - slower} of {count} cells are not slower than the fastest peer")
    if slower or above:
        print(f"{slower} cells are slower, {above} shares of the time to make it are above {printing.SHARE_TO_MAKE}")
        sys.exit(1)


if __name__ == "__main__":
    main()
