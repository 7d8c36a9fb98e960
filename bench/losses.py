"""Which settings teach most at a short budget: a student of half the width by each loss, temperature and weight.

    python bench/losses.py [--seeds K] [--epochs N] [--threads N] [--initial random model] [--labels N ...]

What the defaults of `workbench.Distillation` rest on: accuracy on training images that are held out, never on test
images, with few labels and with all of them, from random weights and from the model's.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile

import numpy as np
import torch

import workbench as wb
from workbench.distillation import losses
from workbench.store import Store

VARIED = {
    "dist, temperature 1": {"loss": "dist", "temperature": 1.0},
    "dist, temperature 4": {"loss": "dist", "temperature": 4.0},
    "dist, weight 0.9": {"loss": "dist", "weight": 0.9},
    "kd, temperature 4": {"loss": "kd", "temperature": 4.0},
    "kd, weight 0.9": {"loss": "kd", "weight": 0.9},
}


def main() -> None:
    defaults = wb.Distillation()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--initial", nargs="+", choices=("random", "model"), default=["random", "model"])
    parser.add_argument("--labels", nargs="+", type=int, default=[defaults.labels, defaults.images])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = wb.zoo.load("seed-cnn", store=Store(tempfile.mkdtemp()))
    tried: dict[str, dict[str, object]] = {name: {"loss": name} for name in (*losses.LOSSES, *losses.FORMER)}
    tried |= VARIED | {f"+ {name}": {"features": wb.Features(loss=name)} for name in losses.FEATURE_LOSSES}
    print(
        f"student of {defaults.width:g} times the width, {defaults.images:,} images, {options.epochs} epochs, "
        f"temperature {defaults.temperature:g}, weight {defaults.weight:g}, loss {defaults.loss} where nothing else is "
        f"said, {options.seeds} seeds: accuracy on held-out images ± standard deviation over the seeds"
    )
    for labels, initial in itertools.product(options.labels, options.initial):
        print(f"{labels:,} labels, first weights: {initial}")
        plain = defaults.replace(epochs=options.epochs, labels=labels, initial=initial)
        controls: list[float] = []
        for name, changes in tried.items():
            ends = [_trained(bench, plain.replace(seed=seed, **changes)) for seed in range(options.seeds)]
            controls = [control for _, control in ends]
            print(f"  {name:20} {_percent([student for student, _ in ends])}", flush=True)
        print(f"  {'no teacher':20} {_percent(controls)}", flush=True)


def _trained(bench: wb.Bench, settings: wb.Distillation) -> tuple[float, float]:
    """Held-out accuracy of student and control."""
    *_, last = bench.distil(settings)
    assert last.student is not None and last.control is not None
    return last.student.value, last.control.value


def _percent(values: list[float]) -> str:
    spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.2f} %{spread}"


if __name__ == "__main__":
    main()
