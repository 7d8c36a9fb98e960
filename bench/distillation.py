"""Does a teacher help: a student of half the width at the default settings, beside its control.

python bench/distillation.py [--seeds N] [--threads N]
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
import torch

import workbench as wb
from workbench.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = wb.zoo.load("seed-cnn", store=Store(tempfile.mkdtemp()))
    settings = wb.Distillation()
    print(
        f"student of {settings.width:g} times the width, {settings.images:,} images of which {settings.labels} "
        f"have a label, {settings.epochs} epochs, {options.seeds} seeds, {options.threads} thread(s)"
    )
    found = [bench.measure(wb.Recipe(distillation=settings.replace(seed=seed))) for seed in range(options.seeds)]
    for who in ("teacher", "student", "control"):
        reached = np.array([getattr(report.distillation, who).value for report in found]) * 100
        print(f"  {who:8} {reached.mean():.2f} % ± {reached.std(ddof=1):.2f}")
    difference = np.array([report.distillation.difference.value for report in found]) * 100
    print(f"  difference {difference.mean():+.2f} points (each seed: {', '.join(f'{d:+.2f}' for d in difference)})")
    print(f"  both trainings together: {np.median([report.distillation.seconds for report in found]):.0f} s")


if __name__ == "__main__":
    main()
