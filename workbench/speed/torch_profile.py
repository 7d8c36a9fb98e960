"""torch's profiler, with a mark around every module, so that an operator knows whose it is."""

from __future__ import annotations

import copy
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.errors import Cancelled
from workbench.inputs import Inputs
from workbench.outputs import selected
from workbench.runtimes import Prepared
from workbench.runtimes.eager import parameters, threads
from workbench.speed.kernels import Kernel, means, quiet_half
from workbench.speed.subject import Subject
from workbench.tracing import running
from workbench.twins import twin_with

SECONDS, LEAST_CALLS, MOST_CALLS = 0.5, 5, 60
WARM_CALLS = 3
MARK, CALL = "workbench.module:", "workbench.call"


def profile(subject: Subject, run: Prepared, batch: Inputs, cancel: threading.Event | None) -> list[Kernel]:  # noqa: ARG001 - see `layer_times.PROFILERS`
    """Seconds of each operator that the module calls, by the innermost module that calls it.

    Args:
        subject: Whose weights lie on their grids.
        run: Ready.
        batch: On what.
        cancel: Checked between calls.

    Raises:
        Cancelled: `cancel` was set.
    """
    source, deployment = subject.source, subject.deployment
    module = twin_with(source.module, parameters(subject.layers))
    placed = batch.channels_last()
    if deployment.precision == "bf16":
        module, placed = copy.deepcopy(module).to(torch.bfloat16), placed.floating(torch.bfloat16)
    with _marked(module), threads(deployment.threads), torch.inference_mode(), running():
        for _ in range(WARM_CALLS):
            selected(placed.call(module), source.output)
        with torch.autograd.profiler.profile(use_kineto=False) as profiler:
            stop, calls = time.perf_counter() + SECONDS, 0
            while calls < LEAST_CALLS or (time.perf_counter() < stop and calls < MOST_CALLS):
                if cancel is not None and cancel.is_set():
                    raise Cancelled
                with torch.profiler.record_function(CALL):
                    selected(placed.call(module), source.output).cpu()
                calls += 1
    return _kernels(list(profiler.function_events or ()), dict(module.named_modules()))


def _kernels(events: list[Any], modules: dict[str, nn.Module]) -> list[Kernel]:
    rows: list[dict[tuple[str, str], float]] = []
    deepest: dict[tuple[str, str], str] = {}
    for call in (event for event in events if event.name == CALL):
        taken: dict[tuple[str, str], float] = defaultdict(float)
        waiting = [(child, "") for child in reversed(call.cpu_children)]
        while waiting:
            event, owner = waiting.pop()
            if event.name.startswith(MARK):
                inner = event.name.removeprefix(MARK)
                waiting += [(child, inner) for child in reversed(event.cpu_children)]
            else:
                taken[owner, event.name] += event.time_range.elapsed_us() * 1e-6
                deepest[owner, event.name] = _longest(event)
        rows.append(taken)
    keys = list(dict.fromkeys(key for taken in rows for key in taken))
    if not keys:
        return []
    times = np.array([[taken.get(key, 0.0) for key in keys] for taken in rows])
    found = []
    for (owner, operator), seconds in zip(keys, means(quiet_half(times)), strict=True):
        module = modules.get(owner)
        layers = (owner,) if module is not None and any(True for _ in module.parameters(recurse=False)) else ()
        kind = operator.removeprefix("aten::")
        kernel = deepest[owner, operator].removeprefix("aten::")
        found.append(Kernel(operator, kernel, layers, owner or kind, (kind,), seconds))
    return found


def _longest(event: Any) -> str:
    """What an operator ends up calling: its longest child's longest child, and so on."""
    while event.cpu_children:
        child = max(event.cpu_children, key=lambda each: each.time_range.elapsed_us())
        if child.time_range.elapsed_us() < event.time_range.elapsed_us() / 2:
            break
        event = child
    return str(event.name)


@contextmanager
def _marked(module: nn.Module) -> Iterator[None]:
    """A mark in the profile around every module that has no modules within."""
    open_marks: list[Any] = []

    def enter(name: str) -> Any:
        def hook(*_: Any) -> None:
            mark = torch.profiler.record_function(MARK + name)
            mark.__enter__()
            open_marks.append(mark)

        return hook

    def leave(*_: Any) -> None:
        open_marks.pop().__exit__(None, None, None)

    hooks = []
    for name, part in module.named_modules():
        if not any(True for _ in part.children()):
            hooks += [part.register_forward_pre_hook(enter(name)), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
