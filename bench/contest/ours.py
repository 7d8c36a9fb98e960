"""The workbench's own methods, each a recipe that is prepared, timed and measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

from torch import Tensor, nn

import workbench as wb
from contest.results import Result
from workbench.bench import Bench
from workbench.quantization.quantizer import specs
from workbench.store import Store

GOOD = {"method": "quantease", "range": "hessian", "correction": "bias"}
"""The fixed recipe that is recommended."""
METHODS: dict[str, dict[str, str]] = {
    "nearest": {"method": "nearest"},
    "nearest + hessian + bias": {"method": "nearest", "range": "hessian", "correction": "bias"},
    "gptq + hessian + bias": {**GOOD, "method": "gptq"},
    "adaround + hessian + bias": {**GOOD, "method": "adaround"},
    "brecq + hessian + bias": {**GOOD, "method": "brecq"},
    "quantease + hessian + bias": GOOD,
}
AUTO = "auto, within the allowed time"
RECOMMENDED = (AUTO, "quantease + hessian + bias")
SHARE_OF_TIME = 0.9
"""Of what is allowed, for `auto`: what it chose is then made ready as well."""


def fresh(network: nn.Module, task: wb.Task) -> Bench:
    """A bench that has measured nothing but the baseline."""
    made = Bench(network, task, store=Store(tempfile.mkdtemp()))
    assert made.baseline.complete
    return made


def hits(bench: Bench, recipe: wb.Recipe) -> list[bool]:
    """Which of the task's examples are right, in the task's order."""
    network = bench._network_for(recipe)
    asked = specs(recipe.quantization, network.layers)
    outcomes = bench._evaluation.all(network, asked, bench._network)
    right = outcomes.metrics[0].scores(outcomes.statistics[0])
    in_order = right.new_empty(right.shape)
    in_order[outcomes.order] = right
    return in_order.bool().tolist()


def measured(bench: Bench, recipe: wb.Recipe, spent: float = 0.0) -> Result:
    """The time to the first report, whose thousand examples are part of it, and then all examples."""
    started = time.perf_counter()
    stream = bench.stream(recipe)
    next(stream)
    spent += time.perf_counter() - started
    for _ in stream:
        pass
    return Result(hits(bench, recipe), spent)


def fixed(make: Callable[[Tensor], Bench], calibration: Tensor, quantization: wb.Quantization) -> Result:
    return measured(make(calibration), wb.Recipe(quantization=quantization))


def automatic(
    make: Callable[[Tensor], Bench], calibration: Tensor, quantization: wb.Quantization, seconds: float
) -> Result:
    """The method that `auto` chooses by calibration data alone."""
    bench = make(calibration)
    started = time.perf_counter()
    chosen = bench.auto(wb.Recipe(quantization=quantization), SHARE_OF_TIME * seconds)
    q = chosen.quantization
    found = measured(bench, chosen, time.perf_counter() - started)
    return found._replace(note=f"{q.weight_bits}/{q.activation_bits} bits: {q.method} {q.scheme} {q.range}")
