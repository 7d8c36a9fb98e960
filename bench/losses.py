"""Which loss teaches most at a short budget: a student of half the width by each of them, and without a teacher.

python bench/losses.py [--seeds N] [--epochs N] [--threads N]
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
import torch

import workbench as wb
from workbench.distillation import losses
from workbench.store import Store


def main() -> None:
    defaults = wb.Distillation()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--images", type=int, default=defaults.images)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = wb.zoo.load("seed-cnn", store=Store(tempfile.mkdtemp()))
    plain = defaults.replace(epochs=options.epochs, images=options.images)
    tried = {name: plain.replace(loss=name) for name in (*losses.LOSSES, *losses.FORMER)}
    tried |= {f"kd + {name}": plain.replace(features=wb.Features(loss=name)) for name in losses.FEATURE_LOSSES}
    print(
        f"student of {plain.width:g} times the width, {plain.images:,} images of which {plain.labels} have a label, "
        f"{plain.epochs} epochs, temperature {plain.temperature:g}, {options.seeds} seeds: accuracy on "
        f"{len(bench.task):,} test images ± standard deviation over the seeds"
    )
    control: list[float] = []
    for name, settings in tried.items():
        found = [bench.measure(wb.Recipe(distillation=settings.replace(seed=k))) for k in range(options.seeds)]
        told = [report.distillation for report in found if report.distillation is not None]
        control = [each.control.value for each in told]
        print(
            f"  {name:16} {_percent([each.student.value for each in told])}, {told[0].seconds:.0f} s with the control"
        )
    print(f"  {'no teacher':16} {_percent(control)}")


def _percent(values: list[float]) -> str:
    spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.2f} %{spread}"


if __name__ == "__main__":
    main()
