"""How soon does a model that was just loaded answer, and does what is simulated run as integers?

python bench/loading.py [--threads N]

For the two larger models of the zoo, with a store that is empty. The budgets are those of the design.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import workbench as wb
from workbench.bench import Bench
from workbench.inputs import Inputs
from workbench.store import Store

NAMES = ("efficientnet-lite0", "minilm-l6")
PREFLIGHT_BUDGET = {"efficientnet-lite0": 3.0, "minilm-l6": 5.0}
ESTIMATE_BUDGET = {"efficientnet-lite0": 1.0}
ROUNDS = 3


def recipe(weight_bits: int, activation_bits: int | None = 8) -> wb.Recipe:
    return wb.Recipe(quantization=wb.Quantization(weight_bits=weight_bits, activation_bits=activation_bits))


def budgeted(seconds: float, budget: float | None) -> str:
    if budget is None:
        return f"{seconds:.2f} s"
    return f"{seconds:.2f} s, budget {budget:g} s{'' if seconds <= budget else ': EXCEEDED'}"


def last(bench: Bench, what: wb.Recipe) -> wb.Report:
    *_, report = bench.stream(what)
    return report


def preflight(name: str) -> None:
    begun = time.perf_counter()
    bench = wb.zoo.load(name, store=Store(tempfile.mkdtemp()))
    started = time.perf_counter()
    print(f"  loaded in {started - begun:.2f} s: {bench.description}")
    answers = bench.preflight_stream()
    next(answers)
    now = time.perf_counter()
    budget = budgeted(now - started, PREFLIGHT_BUDGET[name])
    print(f"  first preflight answer: {budget} (with loading: {now - begun:.2f} s)")
    *_, whole = answers
    print(f"  whole preflight, with every runtime tried: {time.perf_counter() - started:.2f} s")
    for check in whole.runtimes:
        print(f"    {check.runtime} {check.precision}: {'works' if check.works else 'does not work'}. {check.said}")
    for warning in whole.warnings:
        print(f"    warning: {warning}")


def first_estimate(name: str) -> None:
    """From W8 A8, with everything warm, to the first report at fewer weight bits that were not seen before."""
    bench = wb.zoo.load(name, store=Store(tempfile.mkdtemp()))
    last(bench, recipe(8))
    times, seen = [], []
    for bits in (6, 5, 4)[:ROUNDS]:
        started = time.perf_counter()
        stream = bench.stream(recipe(bits))
        seen.append(next(stream).evaluated)
        times.append(time.perf_counter() - started)
        stream.close()
    spent = budgeted(float(np.median(times)), ESTIMATE_BUDGET.get(name))
    print(f"  bits changed to first estimate, on {min(seen)} of {len(bench.task)} examples: median {spent}")


def deployed(bench: Bench, inputs: Inputs, what: wb.Recipe) -> torch.Tensor:
    """What onnxruntime returns for the exported graph."""
    path = bench.export(what, Path(tempfile.mkdtemp()) / "model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    outputs = []
    for start in range(0, len(inputs), 10):
        batch = inputs[start : start + 10]
        given = {name: tensor.numpy() for name, tensor in zip(names, batch.tensors, strict=True)}
        outputs.append(torch.from_numpy(session.run(None, given)[0]))
    return torch.cat(outputs)


def photographs(bench: Bench) -> None:
    task = bench.task
    print(f"  {bench.baseline.metric.name} in fp32: {bench.baseline.accuracy}")
    plain = wb.Task.fidelity(task.inputs, calibration=task.calibration)
    same = last(Bench(wb.zoo.model(bench.name), plain, store=bench.store), recipe(8))
    print(f"  W8 A8 agrees with fp32: {same.accuracy}")
    answers = deployed(bench, task.inputs, recipe(8)).argmax(1)
    known = wb.Task.classification(task.inputs, answers, calibration=task.calibration)
    agreement = last(Bench(wb.zoo.model(bench.name), known, store=bench.store), recipe(8)).accuracy
    print(f"  W8 A8 in onnxruntime answers as the simulation does: {agreement.value:.1%}")


def sentences(bench: Bench) -> None:
    task = bench.task
    for title, what in (("fp32", wb.Recipe()), ("W8", recipe(8, None)), ("W8 A8", recipe(8))):
        report = last(bench, what)
        told = ", ".join(f"{score.metric.name} {score.value.value:.1%}" for score in report.scores)
        print(f"  {title}: cosine to fp32 {report.accuracy.value:.4f}, {told}")
    vectors = deployed(bench, task.inputs, recipe(8))
    known = wb.Task.embedding(task.inputs, reference=vectors, calibration=task.calibration)
    cosine = last(Bench(wb.zoo.model(bench.name), known, store=bench.store), recipe(8)).accuracy
    print(f"  W8 A8 in onnxruntime: cosine to the simulation {cosine.value:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reasons = dict(wb.zoo.offers())
    for name in NAMES:
        print(name)
        if reasons[name] is not None:
            print(f"  skipped: {reasons[name]}")
            continue
        preflight(name)
        bench = wb.zoo.load(name, store=Store(tempfile.mkdtemp()))
        first_estimate(name)
        photographs(bench) if name == "efficientnet-lite0" else sentences(bench)


if __name__ == "__main__":
    main()
