"""Can the machine be believed? A recipe is compared with itself, prepared twice, 20 times over.

    python bench/noise.py [--runtime onnxruntime] [--batch 1] [--threads 1] [--comparisons 20]

Every line is a comparison as a report makes it (0.4 s): how many times faster the one is than the other, with its 95 %
interval. Exit code 1 unless 18 of 20 intervals hold 1 and the median deviation from 1 is at most 5 %. Before them it
says how far several sessions of the same graph lie apart when they are timed long in the same rounds: what no single
comparison can average out, and `workbench.runtimes.timing.SAME` allows for.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np

import workbench as wb
from workbench import runtimes
from workbench.quantization.quantizer import specs
from workbench.runtimes import timing
from workbench.speed.disturbances import disturbances, reading

SESSIONS = 6
ENOUGH, FARTHEST = 0.9, 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--comparisons", type=int, default=20)
    parser.add_argument("--bits", type=int, default=8, help="of weights and activations; 0: fp32")
    options = parser.parse_args()
    bits = options.bits or None
    recipe = wb.Recipe(
        quantization=wb.Quantization(weight_bits=bits, activation_bits=bits),
        deployment=wb.Deployment(runtime=options.runtime, batch=options.batch, threads=options.threads),
    )
    bench = wb.zoo.load("seed-cnn")
    bench.check(recipe)
    network = bench._network
    layers = network.quantized(specs(recipe.quantization, network.layers))
    batch = bench.task.calibration.cycled(options.batch)

    def work() -> timing.Work:
        return runtimes.prepare(recipe.deployment, network, layers).bound(batch)

    before = reading()
    works = [work() for _ in range(SESSIONS)]
    medians = np.median(timing.interleaved(works, 3.0).times, axis=0)
    apart = medians / np.median(medians) - 1
    print(f"{recipe.label} in {options.runtime}, batch {options.batch}, threads {options.threads}")
    print(f"{SESSIONS} sessions, 3 s: {', '.join(f'{each:+.2%}' for each in apart)} from their median")
    held, off, seconds = 0, [], []
    for seed in range(options.comparisons):
        pair = work(), work()
        started = time.perf_counter()
        speedup = timing.compare(*pair, seed=seed).speedup
        seconds.append(time.perf_counter() - started)
        held += speedup.includes(1)
        off.append(abs(speedup.value - 1))
        print(f"{seed + 1:3d}  {speedup.value:.4f} [{speedup.low:.4f}, {speedup.high:.4f}] {speedup.includes(1)}")
    median = statistics.median(off)
    print(f"1 within the interval: {held} of {options.comparisons} (at least {ENOUGH:.0%})")
    print(f"median deviation: {median:.2%}, largest {max(off):.2%} (median at most {FARTHEST:.0%})")
    print(f"seconds a comparison: {statistics.median(seconds):.2f}")
    for said in disturbances(before, reading(), options.threads):
        print(f"! {said}")
    return 0 if held >= ENOUGH * options.comparisons and median <= FARTHEST else 1


if __name__ == "__main__":
    sys.exit(main())
