"""How good is a plan: against every mix of {2, 3, 4, 6, 8} bits for the weights of seed-cnn's five layers.

    python bench/planning.py [--threads N] [--store FOLDER] [--method NAME] [--correction NAME] [--evaluations N]

The 3,125 mixes are measured on all 10,000 images at 8-bit activations, once: with --store, the drops are kept
there. The planner measures 40 of them, on a bench that has seen none, and the area that its frontier dominates is
compared with that of the true one; then it plans for the accuracy of uniform 4 bits with fewer bytes: of the same
method and correction, and of plain rounding to nearest.

Plans are chosen and scored on the same test images, as is the exhaustive frontier: how well the search finds what is
there is what this says, and the drop of a chosen mix looks a little better than it is. `bench/accuracy.py` plans on
training images.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import torch

import workbench as wb
from workbench.files import write_atomically
from workbench.planning.frontier import hypervolume, non_dominated
from workbench.planning.space import Space
from workbench.store import Store

BITS = (2, 3, 4, 6, 8)
TARGET = 40
"""Evaluations after which 99 % of the area is to be reached."""
EVERY = 250
"""Mixes after which the drops are written."""


def template(method: str, correction: str = "none") -> wb.Recipe:
    return wb.Recipe(quantization=wb.Quantization(activation_bits=8, method=method, correction=correction))


def named(recipe: wb.Recipe) -> str:
    """``quantease with correction bias``."""
    return f"{recipe.quantization.method} with correction {recipe.quantization.correction}"


def exhaustive(bench: wb.Bench, start: wb.Recipe, file: Path) -> dict[wb.Recipe, tuple[float, float]]:
    """Size and drop of every mix; the layers at the start change slowest, so that their outputs are used again."""
    space = Space(start, BITS, bench._network.layers)
    known = json.loads(file.read_text()) if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    found = {}
    for count, options in enumerate(itertools.product(*(range(len(own)) for own in space.options))):
        recipe = space.recipe(options)
        key = f"{recipe.key}-{wb.__version__}"
        if key not in known:
            *_, report = bench.stream(recipe)
            known[key] = [report.size.value, report.drop.value]
            if count % EVERY == EVERY - 1:
                write_atomically(file, json.dumps(known).encode())
        found[recipe] = tuple(known[key])
    write_atomically(file, json.dumps(known).encode())
    return found


def points(reports: tuple[wb.Report, ...]) -> list[tuple[float, float]]:
    return [(report.size.value, report.drop.value) for report in reports]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--method", default="nearest")
    parser.add_argument("--correction", default="none")
    parser.add_argument("--evaluations", type=int, default=TARGET)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.store or Path(tempfile.mkdtemp())
    start = template(options.method, options.correction)

    other = wb.zoo.load("seed-cnn", store=Store(tempfile.mkdtemp()))
    started = time.perf_counter()
    mixes = exhaustive(other, start, folder / "bench" / f"planning-{options.method}-{options.correction}.json")
    every = list(mixes.values())
    true = [every[index] for index in non_dominated(every)]
    print(
        f"seed-cnn, {named(start)}, {len(every):,} mixes on {len(other.task):,} images "
        f"({time.perf_counter() - started:.0f} s); {len(true)} are on the frontier"
    )
    reference = (max(size for size, _ in every), max(drop for _, drop in true))
    whole = hypervolume(every, reference)

    bench = wb.zoo.load("seed-cnn", store=Store(tempfile.mkdtemp()))
    assert bench.baseline.complete
    started, last = time.perf_counter(), 0
    print(f"target: 99 % of the area after at most {TARGET} evaluations; here at most {options.evaluations} are spent")
    for plan in bench.plan_stream(bits=BITS, evaluations=options.evaluations, template=start):
        if plan.evaluations != last and (plan.evaluations % 5 == 0 or plan.complete):
            last = plan.evaluations
            share = hypervolume(points(plan.frontier), reference) / whole
            taken = f"{time.perf_counter() - started:.0f} s"
            print(f"  {plan.evaluations:3} evaluations: {share:.2%} of the area, {taken}")
    print(plan)

    for against in dict.fromkeys([start, template("nearest")]):
        against_uniform(against, other, start, mixes, options.evaluations)


def against_uniform(
    against: wb.Recipe,
    other: wb.Bench,
    start: wb.Recipe,
    mixes: dict[wb.Recipe, tuple[float, float]],
    evaluations: int,
) -> None:
    """Mixes of one method against 4 bits for all layers, of the same method or of another."""
    every = list(mixes.values())
    *_, uniform = other.stream(against.replace(quantization=against.quantization.replace(weight_bits=4)))
    size, drop = uniform.size.value, uniform.drop.value
    print(f"uniform 4 bits, {named(against)}: {size / 1000:.1f} kB, drop {drop * 100:.2f} points")
    fewest = min((s for s, d in every if d <= drop), default=None)
    if fewest is None:
        print(f"  no mix of {named(start)} loses as little")
        return
    best = next(recipe for recipe, point in mixes.items() if point[0] == fewest and point[1] <= drop)
    print(
        f"  of all mixes of {named(start)}, the smallest that loses no more: {best.label}, {fewest / 1000:.1f} kB, "
        f"{1 - fewest / size:.0%} fewer"
    )
    if fewest > 0.7 * size:
        reachable = min(d for s, d in every if s <= 0.7 * size)
        print(f"  30 % fewer bytes is impossible for this method: no mix of {0.7 * size / 1000:.1f} kB loses less than "
              f"{reachable * 100:.2f} points")  # fmt: skip
    fresh = wb.zoo.load("seed-cnn", store=Store(tempfile.mkdtemp()))
    try:
        found = fresh.plan(max_drop=drop, bits=BITS, evaluations=evaluations, template=start).report
    except wb.WorkbenchError as error:
        print(f"  the plan: {error}")
        return
    print(
        f"  the plan for that drop: {found.recipe.label}, {found.size.value / 1000:.1f} kB, "
        f"{1 - found.size.value / size:.0%} fewer (target 30 %), drop {found.drop.value * 100:.2f} points"
    )


if __name__ == "__main__":
    main()
