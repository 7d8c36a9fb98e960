"""What will work with a model and what will not, found out in seconds and before anything long.

Everything here is tried on one batch, not guessed: runtimes run it, the exporter exports, and the
input's statistics are compared with those that the model's own normalisation layers remember.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import runtimes
from workbench.comparisons import fp32
from workbench.doubts import about_accuracy, about_inputs, about_outputs
from workbench.errors import Cancelled, WorkbenchError
from workbench.evaluation import Evaluation, Outcomes
from workbench.inputs import Inputs
from workbench.layers import LayerInfo, LeftAlone
from workbench.network import Network
from workbench.outputs import selected
from workbench.passes import run_once
from workbench.quantization.quantizer import specs
from workbench.randomness import seeded
from workbench.recipe import Deployment, Quantization, Value
from workbench.report import Estimate, MetricInfo
from workbench.runtimes.unexportable import unexportable
from workbench.task import Task

BASELINE_SECONDS = 2.0
INT8 = Quantization(weight_bits=8, activation_bits=8)


class RuntimeCheck(Value):
    """What a runtime did with one batch."""

    runtime: str
    precision: str
    """``fp32`` or ``int8``."""
    works: bool
    said: str
    """What really ran, or why nothing did."""


class Preflight(Value):
    """What will work with a model on a task; what is not known yet is empty."""

    model: str
    parameters: int
    layers: tuple[LayerInfo, ...]
    left_alone: tuple[LeftAlone, ...] = ()
    runtimes: tuple[RuntimeCheck, ...] = ()
    metric: MetricInfo = MetricInfo(counted=True)
    baseline: Estimate | None = None
    """The fp32 model on the first examples of the task."""
    examples: int = 0
    """How many these were."""
    memory: int
    """Bytes that a measurement needs at most, about."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    complete: bool = False

    @property
    def quantizable(self) -> float:
        """Share of the parameters whose weights can be quantized."""
        return sum(layer.parameters for layer in self.layers if not layer.weights) / max(self.parameters, 1)

    def __str__(self) -> str:
        lines = [f"{self.model}: {self.parameters:,} parameters, {self.quantizable:.1%} of them in layers with grids"]
        lines += [f"  {check.runtime} {check.precision}: {_outcome(check)}" for check in self.runtimes]
        if self.baseline is not None:
            lines.append(f"  {self.metric.name} in fp32 on {self.examples:,} examples: {self.baseline}")
        lines.append(f"  memory: about {self.memory / 1e6:,.0f} MB")
        lines += [f"  warning: {text}" for text in self.warnings]
        lines += [f"  {text}" for text in self.notes]
        for layer in self.layers:
            reasons = [
                f"{what}: {why}" for what, why in (("weights", layer.weights), ("input", layer.activations)) if why
            ]
            lines.append(
                f"  {layer.name}  {layer.kind}  {layer.parameters:,}  {'; '.join(reasons) or 'weights and input'}"
            )
        lines += [f"  {each.name}  {each.kind}  left alone: {each.reason}" for each in self.left_alone]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """A table for a notebook's output."""
        rows = [
            f"<tr><td>{escape(layer.name)}</td><td>{escape(layer.kind)}</td><td>{layer.parameters:,}</td>"
            f"<td>{escape(layer.weights or 'yes')}</td><td>{escape(layer.activations or 'yes')}</td></tr>"
            for layer in self.layers
        ]
        rows += [
            f"<tr><td>{escape(each.name)}</td><td>{escape(each.kind)}</td><td></td>"
            f"<td colspan=2>left alone: {escape(each.reason)}</td></tr>"
            for each in self.left_alone
        ]
        head = "".join(
            f"<th style='text-align:left'>{text}</th>" for text in ("Layer", "Kind", "Parameters", "Weights", "Input")
        )
        said = [f"<b>Warning:</b> {escape(text)}" for text in self.warnings] + [escape(text) for text in self.notes]
        said += [escape(f"{c.runtime} {c.precision}: {_outcome(c)}") for c in self.runtimes]
        return (
            f"<p><b>{escape(self.model)}</b>: {self.parameters:,} parameters, {self.quantizable:.1%} of them in layers "
            f"with grids; about {self.memory / 1e6:,.0f} MB of memory.</p>"
            + "".join(f"<p>{text}</p>" for text in said)
            + f"<table><tr>{head}</tr>{''.join(rows)}</table>"
        )


def _outcome(check: RuntimeCheck) -> str:
    return check.said or ("works" if check.works else "does not work")


def look(
    name: str,
    told: Mapping[str, Any],
    network: Network,
    task: Task,
    evaluation: Evaluation,
    cancel: threading.Event | None = None,
) -> Iterator[Preflight]:
    """Look at a model before anything long, and say more and more.

    Args:
        name: Of the model.
        told: What the model that was given says of itself, see `expectations`.
        network: The private copy.
        task: What it is to be measured on.
        evaluation: Its examples.
        cancel: Checked between the steps.

    Yields:
        First what one batch shows, then with runtimes one by one, and with the baseline; the last one is complete.

    Raises:
        Cancelled: `cancel` was set.
    """

    def go_on() -> None:
        if cancel is not None and cancel.is_set():
            raise Cancelled

    batch = network.example
    found = Preflight(
        model=name,
        parameters=network.parameters,
        layers=tuple(layer.info for layer in network.layers.values()),
        left_alone=network.left_alone,
        memory=_memory(network, task),
        warnings=(*about_outputs(network, batch), *about_inputs(network, task, told)),
        notes=(*task.notes, *network.notes),
    )
    available = _available_memory()
    if available and found.memory > available:
        text = (
            f"A measurement needs about {found.memory / 1e9:.1f} GB, and {available / 1e9:.1f} GB are free; "
            "take fewer or smaller examples."
        )
        found = found.replace(warnings=(*found.warnings, text))
    yield found
    go_on()
    for checks, notes in _tried(network, batch, cancel):
        found = found.replace(runtimes=(*found.runtimes, *checks), notes=(*found.notes, *notes))
        yield found
        go_on()
    outcomes = _baseline(network, evaluation, cancel)
    accuracy = outcomes.accuracy().model_copy(update={"source": "measured"})
    metric = outcomes.metrics[0].info
    doubts = about_accuracy(accuracy, metric, task, len(outcomes), told)
    yield found.replace(
        metric=metric, baseline=accuracy, examples=len(outcomes), warnings=(*found.warnings, *doubts), complete=True
    )


def _baseline(network: Network, evaluation: Evaluation, cancel: threading.Event | None) -> Outcomes:
    stop = time.perf_counter() + BASELINE_SECONDS
    for outcomes in evaluation.stream(network, fp32(network), network, cancel):
        seen = outcomes
        if time.perf_counter() > stop:
            break
    return seen


def _tried(
    network: Network, batch: Inputs, cancel: threading.Event | None
) -> Iterator[tuple[list[RuntimeCheck], list[str]]]:
    """Every runtime that does not compile for long, on one batch, in fp32 and as 8-bit integers."""
    wanted = network.call(batch)
    asked = specs(INT8, network.layers)
    layers = network.quantized(asked)
    if network.simulation.whole:
        text = "The model cannot be cut into stages (torch.fx does not trace it): it is run whole at every change."
        yield [], [text]
    if not layers:
        yield [], ["No layer of the model can be quantized."]
        return
    rounded = selected(network.simulation.run(batch, asked), network.output)
    for runtime, reason in runtimes.offers():
        if runtimes.get(runtime).compiles:
            continue
        if reason is not None:
            yield [RuntimeCheck(runtime=runtime, precision=p, works=False, said=reason) for p in ("fp32", "int8")], []
            continue
        checks, notes = [], []
        for precision, some, right in (("fp32", {}, wanted), ("int8", layers, rounded)):
            try:
                run = runtimes.prepare(Deployment(runtime=runtime), network, some, cancel)
                with seeded():
                    near = _nearness(run.run(batch), right)
            except WorkbenchError as error:
                said = str(error)
                if precision == "fp32" and runtime == "onnxruntime":
                    notes += [f"{part} cannot be exported: {why}" for part, why in unexportable(network.module, batch)]
            except Cancelled:
                raise
            except Exception as error:  # a runtime's own errors share no base
                said = f"{type(error).__name__}: {str(error).strip()[:200]}"
            else:
                said = run.note or ""
                if near < 0.98:
                    said = f"{said} Its output differs from the simulated one (cosine {near:.3f}).".strip()
                works = near >= 0.9 and (precision == "fp32" or run.integer > 0)
                checks.append(RuntimeCheck(runtime=runtime, precision=precision, works=works, said=said))
                continue
            checks.append(RuntimeCheck(runtime=runtime, precision=precision, works=False, said=said))
        yield checks, notes


def _nearness(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape:
        return -1.0
    if not wanted.is_floating_point():
        return float((found == wanted).float().mean())
    return float(F.cosine_similarity(found.double().flatten(), wanted.double().flatten(), dim=0))


@torch.inference_mode()
def _memory(network: Network, task: Task) -> int:
    """Weights in fp32 and rounded, inputs, and the two largest values between layers, for one batch."""
    largest: list[int] = []

    def note(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            largest.append(output.nbytes)

    hooks = [module.register_forward_hook(note) for module in network.module.modules()]
    run_once(network.module, network.example, hooks)
    between = sum(sorted(largest)[-2:]) * network.batch // len(network.example)
    inputs = sum(tensor.nbytes for data in (task.inputs, task.calibration) for _, tensor in data.rows())
    weights = sum(tensor.nbytes for tensor in network.state.values())
    return 2 * weights + weights // 4 + inputs + 2 * between


def _available_memory() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not every system tells
        return 0
