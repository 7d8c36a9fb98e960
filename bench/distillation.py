"""Does a teacher help, and when: students of seed-cnn beside their controls, in five parts, each with its target.

    python bench/distillation.py [--only PART ...] [--seeds K] [--threads N] [--store FOLDER]

labels      500 labels and 10,000 images without, all answered by the teacher, against the 500 labels alone: the same
            student, first weights, order and number of samples seen, both from random weights. The control is its last
            weights after 8 x 10,500 / 500 = 168 passes over its labels, without early stopping
full        every image has its label, 8 epochs, settings as the page begins with, and as `Distillation()` has them
small       a student of at most 7,000 parameters, and what it takes, the teacher's answers and the start of the
            process that trains included
bits        seed-cnn on 2-bit weights and 8-bit activations, trained on from the fp32 network's outputs, from the
            teacher's, and from the labels alone
throughput  steps of the instrument and of a bare loop with the same arithmetic, in turns; and beside that loop a whole
            training, with its evaluations, its checkpoints and the process that it runs in

Accuracy is on all 10,000 test images; intervals are Student's over the seeds, of one seed those of its images. Students
are kept in the store, a temporary one by default; with --store, a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from contest.plain_distillation import step_seconds

import workbench as wb
from widgets.state import FIRST_DISTILLATION
from workbench.distillation.learner import BATCH
from workbench.levers.seed_study import SeedStudy, repetitions
from workbench.report import Estimate
from workbench.statistics import repeated
from workbench.store import Store

LABELS, UNLABELLED, FEW_LABELS_TARGET = 500, 10_000, 8.0
SMALL_PARAMETERS, SMALL_ACCURACY, SMALL_SECONDS = 7_000, 88.0, 120.0
THROUGHPUT_TARGET = 0.9
STEPS = 300


def few_labels(bench: wb.Bench, seeds: int) -> None:
    settings = wb.Distillation(images=LABELS + UNLABELLED, labels=LABELS)
    study = compared(bench, "labels", settings, seeds)
    verdict(f"{FEW_LABELS_TARGET:g} points better", 100 * study.difference.value >= FEW_LABELS_TARGET)


def full_labels(bench: wb.Bench, seeds: int) -> None:
    for begun in (FIRST_DISTILLATION, wb.Distillation()):
        study = compared(bench, "full", begun.replace(labels=begun.images), seeds)
        verdict("not below the control by more than the interval", study.difference.high >= 0)


def small(bench: wb.Bench, seeds: int) -> None:
    settings = FIRST_DISTILLATION.replace(width=0.25, images=18_000, labels=18_000)
    taken = [trained(bench, each) for each in repetitions(settings, seeds)]
    study = compared(bench, "small", settings, seeds)
    size = study.comparisons[0].parameters
    seconds = max(taken)
    print(f"  {size:,} parameters, at most {seconds:.0f} s from the call to the student")
    met = size <= SMALL_PARAMETERS and 100 * study.student.value >= SMALL_ACCURACY and seconds <= SMALL_SECONDS
    verdict(f"<= {SMALL_PARAMETERS:,} parameters, >= {SMALL_ACCURACY:g} %, <= {SMALL_SECONDS:.0f} s", met)


def few_bits(bench: wb.Bench, seeds: int) -> None:
    grids = wb.Quantization(weight_bits=2, activation_bits=8)
    ways = {
        "labels alone": wb.Finetuning(distillation=0.0),
        "fp32's outputs": wb.Finetuning(),
        "both": wb.Finetuning(distillation=0.5),
        "teacher-cnn's": wb.Finetuning(teacher="teacher-cnn"),
    }
    plain = ways["labels alone"]
    print(f"bits: seed-cnn at W2 A8, {plain.images:,} images, {plain.epochs} epochs; difference against labels alone")
    gained: dict[str, Estimate] = {}
    recipes = {
        name: [wb.Recipe(quantization=grids, finetuning=training.replace(seed=seed)) for seed in range(seeds)]
        for name, training in ways.items()
    }
    for name, own in recipes.items():
        reached = mean([whole(bench, recipe).accuracy for recipe in own])
        pairs = zip(own, recipes["labels alone"], strict=True)
        gained[name] = mean([bench.difference(recipe, other) for recipe, other in pairs])
        print(f"  {name:15} {said(reached)} %, difference {said(gained[name], '+')} points", flush=True)
    for name in ("fp32's outputs", "teacher-cnn's"):
        verdict(f"{name} not below labels alone by more than the interval", gained[name].high >= 0)


def throughput(bench: wb.Bench, _: int) -> None:
    settings = wb.Distillation(loss="kd")
    ours, theirs = step_seconds(settings, STEPS)
    ratio = float(np.median(np.array(theirs) / np.array(ours)))
    each = [f"{1e3 * np.median(seconds):.2f} ms" for seconds in (ours, theirs)]
    print(f"throughput: {settings.label} and its control, {STEPS} steps of each in turns")
    print(
        f"  instrument {each[0]} a step of both, bare loop {each[1]}: {ratio:.2f} of the bare loop's samples per second"
    )
    verdict(f">= {THROUGHPUT_TARGET} step for step, which is the same arithmetic", ratio >= THROUGHPUT_TARGET)
    bare = 2 * BATCH / np.median(theirs)
    once = settings.replace(seed=1_000)
    seconds = trained(bench, once)
    *_, last = bench.distil(once)  # from the store
    for what, time_taken in (
        ("a whole training in its process, evaluations and checkpoints included", last.seconds),
        ("from the call to the student, the teacher's answers and the start of the process as well", seconds),
    ):  # more work than the bare loop has, and not what the target is about
        speed = 2 * BATCH * last.steps / time_taken
        print(f"  bare loop {bare:,.0f} samples/s, {what}: {speed:,.0f} samples/s, {speed / bare:.2f}")


def compared(bench: wb.Bench, part: str, settings: wb.Distillation, seeds: int) -> SeedStudy:
    study = bench.over_seeds(settings, seeds)
    print(f"{part}: {settings!r}")
    print("\n".join(f"  {line}" for line in str(study).splitlines()))
    return study


def whole(bench: wb.Bench, recipe: wb.Recipe) -> wb.Report:
    """All but the timing, which is not what is asked here."""
    *_, report = bench.stream(recipe)
    return report


def trained(bench: wb.Bench, settings: wb.Distillation) -> float:
    """Seconds from the call to student and control; of those that are in the store, of their training alone."""
    was_there, begun = bench.distilled(settings), time.perf_counter()
    *_, last = bench.distil(settings)
    if was_there:
        print("  found in the store: its seconds are without the teacher's answers and the start of the process")
    return last.seconds if was_there else time.perf_counter() - begun


def mean(estimates: list[Estimate]) -> Estimate:
    """Over seeds; of one alone with the interval of its images."""
    if len(estimates) == 1:
        return estimates[0]
    return repeated([each.value for each in estimates], "", "measured")


def said(estimate: Estimate, sign: str = "") -> str:
    low, value, high = (f"{100 * each:{sign}.2f}" for each in (estimate.low, estimate.value, estimate.high))
    return f"{value} ({low} … {high})"


def verdict(target: str, met: bool) -> None:
    print(f"  target: {target}: {'met' if met else 'NOT met'}", flush=True)


PARTS: dict[str, Callable[[wb.Bench, int], None]] = {
    "labels": few_labels,
    "full": full_labels,
    "small": small,
    "bits": few_bits,
    "throughput": throughput,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = wb.zoo.load("seed-cnn", store=Store(options.store or tempfile.mkdtemp()))
    print(f"seeds 0 to {options.seeds - 1}, {options.threads} thread(s)")
    for name in options.only:
        PARTS[name](bench, options.seeds)


if __name__ == "__main__":
    main()
