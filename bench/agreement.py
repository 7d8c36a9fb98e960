"""What runs against what is simulated: answers on 10,000 images, in every runtime that is here.

    python bench/agreement.py [runtime ...]

Prints the share of images with the same answer, the largest difference of an output, and where and why the two part.
"""

from __future__ import annotations

import sys
import time

import workbench as wb
from workbench import Deployment, Quantization, Recipe

BITS = ((8, 8), (4, 8), (4, 4), (2, 8))
LEAST = {(8, 8): 0.999, (4, 8): 0.995}
"""What is asked for, of runtimes with integer kernels."""
EXACT = ("onnxruntime", "openvino")


def main() -> int:
    bench = wb.zoo.load("seed-cnn")
    runtimes = sys.argv[1:] or [offer.name for offer in bench.runtimes() if offer.reason is None]
    kept = True
    print(f"seed-cnn, {len(bench.task):,} images; 'apart' is the largest difference of an output, of the largest one")
    print(f"{'runtime':13}{'bits':8}{'same answer':>13}{'differ':>8}{'apart':>11}{'first':>9}{'all':>8}")
    for runtime in runtimes:
        for weight, activation in BITS:
            quantization = Quantization(weight_bits=weight, activation_bits=activation)
            recipe = Recipe(quantization=quantization, deployment=Deployment(runtime=runtime))
            for _ in bench.stream(recipe):  # what is simulated is known by then, as on a page
                pass
            started, first = time.perf_counter(), 0.0
            for found in bench.agreement_stream(recipe):  # noqa: B007 - the last one is printed
                first = first or time.perf_counter() - started
            seconds = time.perf_counter() - started
            asked = LEAST.get((weight, activation)) if runtime in EXACT else None
            kept &= asked is None or found.rate.value >= asked
            print(
                f"{runtime:13}{recipe.label:8}{found.rate.value:12.2%} {found.disagreements:8}"
                f"{found.largest / found.span:11.1e}{first:7.2f} s{seconds:6.2f} s"
                f"{'' if asked is None else f'  asked: {asked:.1%}'}"
            )
            if found.layer or found.reason:
                start = f"starts at {found.layer}. " if found.layer else ""
                print(f"{'':13}{start}{found.reason}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
