"""Points of accuracy against fp32 at low bits, ours and peers' on the same calibration images, in five tables.

    python bench/accuracy.py [--threads N] [--samples K] [--store FOLDER] [--only TABLE ...]

Calibration: up to three disjoint samples of the training images, without labels; the mean and the worst of them are
printed, and the seconds to prepare. A row's best peer is the one with the highest mean on the test images, whatever
time it took, while ours is what was declared beforehand: `auto` within the allowed time, and one fixed recipe. The
difference is paired over the same examples, with its 95 % interval. Nothing of ours is chosen by test data. The
samples' seeds were drawn after the methods were finished. With --store, a stopped run goes on where it was. Peers
that cannot be imported are named: pip install "acceleration-workbench[peers]".
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # the peers' progress bars; read when tqdm is imported

import torch
from contest import mixing, sections
from contest.results import Kept

import workbench as wb

TABLES = {
    "post-training": sections.post_training,
    "linear": sections.linear_only,
    "fine-tuned": sections.finetuned,
    "mix": mixing.report,
    "large": sections.large,
}
SAMPLES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=SAMPLES, choices=range(1, SAMPLES + 1))
    parser.add_argument("--store", type=Path, help="keeps each result, and goes on from those that are there")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="TABLE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")  # the peers' own
    kept = Kept((options.store or Path(tempfile.mkdtemp())) / f"accuracy-{wb.__version__}.json")
    print(f"calibration seed {sections.SEED}, {options.threads} thread(s)")
    for name in options.only:
        table = TABLES[name](kept, options.samples)
        if table is not None:
            table.print()


if __name__ == "__main__":
    main()
