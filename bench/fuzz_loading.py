"""Loads thousands of damaged and hostile model files, and counts how each ends.

python bench/fuzz_loading.py [--files N] [--seed S] [--workers W]

Exits with 1 if any crashed, hung (10 s of processor time), took more than 1 GiB, ran code, or left a model half loaded.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/workbench/loading"))
from fuzzing import FAILURES, run
from mutations import ENDINGS, mutated


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    kinds = [kind for kind in ENDINGS if kind != "config" or importlib.util.find_spec("transformers")]
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary"
        files = mutated(Path(folder), options.files, options.seed, kinds, canary)
        began = time.monotonic()
        outcomes = []
        for outcome in run(files, canary, options.workers):
            outcomes.append(outcome)
            if outcome.result in FAILURES:
                print(f"{outcome.result}: {outcome.path.parent.name}/{outcome.path.name} {outcome.detail}", flush=True)
    spent = time.monotonic() - began
    counts = Counter((outcome.kind, outcome.result) for outcome in outcomes)
    results = [*sorted({result for _, result in counts} - set(FAILURES)), *FAILURES]
    print(f"{'':12}" + "".join(f"{result:>14}" for result in results))
    for kind in kinds:
        print(f"{kind:12}" + "".join(f"{counts[kind, result]:14}" for result in results))
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    print(
        f"{len(outcomes)} files in {spent:.0f} s, seed {options.seed}; slowest {slowest.seconds:.1f} s ({slowest.kind})"
    )
    return int(any(outcome.result in FAILURES for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
