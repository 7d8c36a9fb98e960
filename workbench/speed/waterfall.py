"""Which lever makes it faster, and by how much: one step after the other, each against the one before."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from pydantic import BaseModel, ConfigDict

from workbench.errors import Cancelled, WorkbenchError
from workbench.inputs import Inputs
from workbench.outputs import selected
from workbench.randomness import seeded
from workbench.recipe import Recipe
from workbench.report import Estimate
from workbench.runtimes.eager import threads
from workbench.runtimes.timing import Work, compare, interleaved
from workbench.speed.disturbances import cores, disturbances, reading
from workbench.speed.subject import Subject, attempted
from workbench.speed.words import duration, factor
from workbench.tables import Tabular
from workbench.tracing import running

Lever = Literal["software optimisation", "low precision", "parallel execution"]
TORCH = ("eager", "inductor")
"""Runtimes of torch modules; the others run the exported graph."""
GRAPH_RUNTIME = "onnxruntime"
"""Stands for them where the recipe's runtime is none."""
STEP_SECONDS = 0.4


class Step(BaseModel):
    """One thing more that was done to be faster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    lever: Lever
    seconds: Estimate | None = None
    """Per call; None where the step was skipped, or is still to come."""
    factor: Estimate | None = None
    """How many times faster than the step before, timed in turn with it; below 1: slower."""
    total: Estimate | None = None
    """How many times faster than the first step: the product of all factors so far."""
    note: str = ""
    """What a reader has to know of it."""
    reason: str = ""
    """Why it was skipped."""


class Waterfall(Tabular, BaseModel):
    """From plain PyTorch to the recipe, lever by lever."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    steps: tuple[Step, ...] = ()
    disturbances: tuple[str, ...] = ()
    """What makes these figures doubtful, with what to do."""
    stage: str = ""
    """Which step is being timed; empty where nothing is left to do."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return not self.stage

    @property
    def total(self) -> Estimate | None:
        """How many times faster everything together is; None before two steps were timed."""
        timed = [step.total for step in self.steps if step.total is not None]
        return timed[-1] if len(timed) > 1 else None

    @property
    def levers(self) -> Mapping[Lever, Estimate]:
        """What each lever brings by itself: the product of its steps' factors. Their product is the total."""
        found: dict[Lever, Estimate] = {}
        for lever in get_args(Lever):
            own = [step.factor for step in self.steps if step.factor is not None and step.lever == lever]
            if own:
                found[lever] = product(own)
        return found

    def _headline(self) -> str:
        total = f": {factor(self.total)} in all" if self.total else ""
        text = f"Waterfall of {self.recipe.label}, batch {self.recipe.deployment.batch}{total}"
        return f"{text}; {self.stage}…" if self.stage else text

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        rows: list[tuple[str, ...]] = []
        for step in self.steps:
            if step.seconds is None or step.factor is None or step.total is None:
                rows.append((step.name, step.lever, "–", "–", "–", step.reason))
            else:
                told = (duration(step.seconds), factor(step.factor), factor(step.total))
                rows.append((step.name, step.lever, *told, step.note))
        return ("step", "lever", "a call", "against the step before", "against the first", ""), rows

    def _said(self) -> list[str]:
        return [*(f"{lever}: {factor(each)}" for lever, each in self.levers.items()), *self.disturbances]


def product(factors: Sequence[Estimate]) -> Estimate:
    """Factors that were measured apart, multiplied; the intervals' relative half-widths add up by their squares."""
    value = math.prod(each.value for each in factors)
    low, high = (
        math.exp(sign * math.hypot(*(math.log(end(each) / each.value) for each in factors)))
        for sign, end in ((-1, lambda each: each.low), (1, lambda each: each.high))
    )
    source = factors[0].source if factors else "measured"
    return Estimate(value=value, low=value * low, high=value * high, unit="×", source=source)


class _Planned(NamedTuple):
    name: str
    lever: Lever
    work: Callable[[Inputs], Work]
    """Ready to run on a batch.

    Raises:
        WorkbenchError: It cannot be; the step is skipped.
    """
    note: str = ""


def waterfall(subject: Subject, lock: threading.RLock, cancel: threading.Event | None = None) -> Iterator[Waterfall]:
    """Time one step after the other.

    Args:
        subject: Whose recipe is at the end.
        lock: Held while something is timed.
        cancel: Checked between calls, and before a step is prepared.

    Yields:
        After every step, with all steps so far; before the first, and at last with an empty `stage`.

    Raises:
        Cancelled: `cancel` was set.
    """
    found = Waterfall(recipe=subject.recipe, stage="eager")
    batch = subject.batch(subject.deployment.batch)
    planned = list(_planned(subject))
    before, last = reading(), None
    for number, plan in enumerate(planned):
        found = found.model_copy(update={"stage": plan.name})
        yield found
        if cancel is not None and cancel.is_set():
            raise Cancelled
        with lock:
            step, last = _timed(plan, batch, last, [s.factor for s in found.steps if s.factor is not None], cancel)
        doubts = disturbances(before, reading(), subject.deployment.threads) if number == len(planned) - 1 else ()
        found = found.model_copy(update={"steps": (*found.steps, step), "disturbances": doubts})
    yield found.model_copy(update={"stage": ""})


def _timed(
    plan: _Planned,
    batch: Inputs,
    last: Work | None,
    factors: list[Estimate],
    cancel: threading.Event | None,
) -> tuple[Step, Work | None]:
    """A step, and what the next one is compared with."""
    try:
        work = attempted(plan.name, lambda: plan.work(batch))
        with seeded():
            attempted(plan.name, work)  # what is compiled at the first call fails there
            if last is None:
                seconds = interleaved([work], STEP_SECONDS / 2, cancel).latency(0)
                own = Estimate.exact(1.0, "×")
            else:
                timing = compare(work, last, STEP_SECONDS, cancel)
                seconds, own = timing.candidate, timing.speedup
    except WorkbenchError as error:
        return Step(name=plan.name, lever=plan.lever, reason=str(error)), last
    total = product([*factors, own])
    note = f"{plan.note} {_slower(own)}".strip() if last is not None else plan.note
    return Step(name=plan.name, lever=plan.lever, seconds=seconds, factor=own, total=total, note=note), work


def _slower(own: Estimate) -> str:
    if own.includes(1):
        return "Not distinguishable from the step before."
    return "Slower here." if own.value < 1 else ""


def _planned(subject: Subject) -> Iterator[_Planned]:
    recipe, deployment = subject.recipe, subject.deployment
    plain = deployment.replace(threads=1, precision="fp32")
    graph = deployment.runtime if deployment.runtime not in TORCH else GRAPH_RUNTIME
    here = cores()
    most = deployment.threads if deployment.threads > 1 else here

    def run(runtime: str, *, quantized: bool = False, threads: int = 1, own: bool = False) -> Callable[[Inputs], Work]:
        chosen = (deployment if own else plain).replace(runtime=runtime, threads=threads)
        return lambda batch: subject.prepared(chosen, quantized=quantized).bound(batch)

    def refused(why: str) -> Callable[[Inputs], Work]:
        def refuse(_: Inputs) -> Work:
            raise WorkbenchError(why)

        return refuse

    images = any(tensor.dim() == 4 for tensor in subject.batch(1).tensors)
    only = refused("The model is an ONNX graph: torch does not run it.") if subject.source.graph_only else None
    layout = run("eager") if images else refused("No input is a batch of images: there are no channels to put last.")
    yield _Planned("eager", "software optimisation", only or (lambda batch: _contiguous(subject, batch)))
    yield _Planned("channels-last", "software optimisation", only or layout)
    yield _Planned("inductor", "software optimisation", only or run("inductor"))
    told = f"The recipe's runtime, {deployment.runtime}, runs no graphs." if graph != deployment.runtime else ""
    yield _Planned(f"{graph} fp32", "software optimisation", run(graph), told)
    bf16 = deployment.precision != "fp32"
    lower = subject.layers or bf16
    low = run(graph, quantized=True, own=True) if lower else refused("The recipe leaves everything in fp32.")
    name = recipe.label + (f" {deployment.precision}" if bf16 else "") if lower else "low precision"
    yield _Planned(name, "low precision", low)
    if most > 1:
        note = f"The recipe asks for 1; {here} processors are here." if deployment.threads == 1 else ""
        yield _Planned(
            f"{most} threads", "parallel execution", run(graph, quantized=True, threads=most, own=True), note
        )
    else:
        yield _Planned("threads", "parallel execution", refused("This process may use one processor alone."))


def _contiguous(subject: Subject, batch: Inputs) -> Work:
    """The module as PyTorch makes one: operator by operator, images with their channels first, one thread."""
    source = subject.source
    device = subject.deployment.device
    module = copy.deepcopy(source.module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    module = module.to(device)
    tensors = [tensor.contiguous().to(device) for tensor in batch.tensors]
    count = len(batch.positional)
    placed = Inputs(*tensors[:count], **dict(zip(batch.named, tensors[count:], strict=True)))

    @torch.inference_mode()
    def work() -> object:
        with running(), threads(1):
            return selected(placed.call(module), source.output).cpu()  # waits for the device

    return work
