"""A planned mix of bits and grids against the same method at one width for all layers."""

from __future__ import annotations

import time
from functools import partial

from peers import brevitas_methods, other_methods

import workbench as wb
from contest import ours, sections
from contest.results import Difference, Kept, Result, difference

AVERAGE, UNIFORM = 2.5, 3
PLANNED_ON = 5000
"""Training images with labels, none of them for calibration, on which the planner measures its candidates."""
NARROW, WIDE = 2, 3
GRIDS = ("symmetric", "codebook")
"""From which the plan chooses for each layer; all layers on one of them are what it is compared with."""
PLANNED = "planned mix"
PLAIN = {grid: f"uniform {UNIFORM} bits, {grid}" for grid in GRIDS}
METHODS = {"nearest": {}, "quantease + hessian + bias": ours.GOOD}


def recipe(method: str, bits: int, grid: str = GRIDS[0]) -> wb.Recipe:
    return wb.Recipe(quantization=wb.Quantization(weight_bits=bits, activation_bits=8, scheme=grid, **METHODS[method]))


def planning_bench(sample: int) -> wb.Bench:
    """The plan is chosen on images of the training set: no test image is looked at."""
    images, labels = wb.zoo.task().training.tensors
    held_out = sections.shuffled()[-PLANNED_ON:]
    task = wb.Task.classification(images[held_out], labels[held_out], calibration=sections.calibration(sample))
    return ours.fresh(wb.zoo.model("seed-cnn"), task)


def planned(method: str, sample: int) -> Result:
    started = time.perf_counter()
    bench = planning_bench(sample)
    sizes = [bench._network.artifact(recipe(method, bits).quantization, "") for bits in (NARROW, WIDE)]
    share = (AVERAGE - NARROW) / (WIDE - NARROW)
    budget = len(sizes[0]) + share * (len(sizes[1]) - len(sizes[0]))
    plan = bench.plan(max_bytes=budget, template=recipe(method, UNIFORM), bits=(2, 3, 4, 6, 8), schemes=GRIDS)
    seconds = time.perf_counter() - started
    rows = plan.report.layers
    average = sum(row.parameters * row.weight_bits for row in rows) / sum(row.parameters for row in rows)
    grids = plan.recipe.quantization
    note = ", ".join(f"{row.name} {row.weight_bits} {grids.scheme_for(row.name)}" for row in rows)
    size = plan.report.size.value
    test = sections.seed_bench(sections.calibration(sample))
    return Result(
        ours.measured(test, plan.recipe).hits,
        seconds,
        f"{average:.2f} bits a weight, {size / 1000:.2f} kB of {budget / 1000:.2f}: {note}",
    )


def uniform(grid: str, method: str, sample: int) -> Result:
    found = recipe(method, UNIFORM, grid)
    bench = sections.seed_bench(sections.calibration(sample))
    size = len(bench._network.artifact(found.quantization, ""))
    return ours.measured(bench, found)._replace(note=f"{size / 1000:.2f} kB")


def report(kept: Kept, samples: int) -> None:
    """Make what is missing and print what there is."""
    fp32 = sum(sections.seed_fp32())
    print(f"\nseed-cnn, activations 8 bits, a plan of bits and grids against uniform {UNIFORM} bits, same method; the")
    print(f"plan may be as large as {AVERAGE} bits on the {GRIDS[0]} grid would be, codebooks included;")
    print(f"planned on {PLANNED_ON:,} training images, then measured once on the 10,000 test images")
    for method in METHODS:
        makers = {PLANNED: planned} | {name: partial(uniform, grid) for grid, name in PLAIN.items()}
        found: dict[str, list[Result]] = {name: [] for name in makers}
        for sample in range(samples):
            for name, make in makers.items():
                key = f"mix | {method} | {name} | {AVERAGE} bits on {len(GRIDS)} grids | sample {sample + 1}"
                found[name].append(kept.made(key, partial(make, method, sample)))
        print(f"\n{method}")
        for name, results in found.items():
            for sample, result in enumerate(results, start=1):
                points = 100 * (sum(result.hits or ()) - fp32) / len(result.hits or ())
                print(f"{name:25} sample {sample}  {points:6.2f} points  {result.seconds:6.1f} s  {result.note}")
        others = {name: found[name] for name in PLAIN.values()}
        if best := best_peer(kept, samples):
            others[f"the best peer at W{UNIFORM}A8, {best[0]}"] = best[1]
        for name, results in others.items():
            print(verdict(found[PLANNED], name, difference(found[PLANNED], results)))


def best_peer(kept: Kept, samples: int) -> tuple[str, list[Result]] | None:
    """The peer with the highest mean on the same samples; None where the table after training was not made."""
    made: dict[str, list[Result]] = {}
    for name in (*brevitas_methods.METHODS, *other_methods.METHODS):
        keys = (f"post-training | {name} | W{UNIFORM}A8 | sample {sample + 1}" for sample in range(samples))
        results = [result for key in keys if (result := kept.known(key)) is not None and result.hits is not None]
        if len(results) == samples:
            made[name] = results
    return max(made.items(), key=lambda each: sum(sum(result.hits or ()) for result in each[1]), default=None)


def verdict(planned: list[Result], name: str, against: Difference) -> str:
    """Whether the plan is better by more than chance, at the average that it may have."""
    average = max(float(result.note.partition(" bits a weight")[0]) for result in planned)
    met = against.low > 0 and average <= AVERAGE
    return (
        f"{PLANNED} against {name}: {against}; target, better at an average of at most {AVERAGE} bits a weight (it has "
        f"{average:.2f}): {'met' if met else 'NOT met'}"
    )
