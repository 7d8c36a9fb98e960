"""OpenVINO's performance counters: averages of every node over all calls since the model was compiled."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from workbench.errors import Cancelled
from workbench.inputs import Inputs
from workbench.report import Estimate
from workbench.runtimes import Prepared
from workbench.speed.kernels import Kernel, means, quiet_half
from workbench.speed.origins import Origins
from workbench.speed.subject import Subject

NONE = ("undef", "unknown")
"""Beginnings of the kernels of what is not run: fused into another, a constant, a view."""
SECONDS, MOST_COPIES = 1.0, 24
COPY_SECONDS, LEAST_CALLS = 0.01, 20
"""Of calls of one copy: so short that other load does not interrupt most of them."""
WARM_CALLS = 10
CUT = 0.5e-6
"""Averages are whole microseconds with the rest cut off, which is half of one on average."""


def profile(subject: Subject, run: Prepared, batch: Inputs, cancel: threading.Event | None) -> list[Kernel]:
    """Seconds of each node, of a few compiled models that are set up like the one that is timed.

    Args:
        subject: What runs.
        run: Ready.
        batch: On what.
        cancel: Checked between calls.

    Raises:
        Cancelled: `cancel` was set.
    """
    copies: list[dict[str, float]] = []
    ran: dict[str, tuple[str, str]] = {}
    executed: set[str] = set()
    stop = time.perf_counter() + SECONDS
    while not copies or (time.perf_counter() < stop and len(copies) < MOST_COPIES):
        # an average cannot be begun anew, but in another copy
        request = run.counting(batch)  # type: ignore[attr-defined]  # what openvino prepares has it
        copies.append(_counted(request, cancel))
        for info in request.get_profiling_info():
            ran.setdefault(info.node_name, (info.node_type, info.exec_type))
            if info.status.name == "EXECUTED":
                executed.add(info.node_name)
    names = [name for name, (_, kernel) in ran.items() if not kernel.startswith(NONE)]
    origins = Origins(subject.source.graph).found([(name, ran[name][0]) for name in names], {})
    # what takes less than a microsecond is called not executed
    kept = [at for at, name in enumerate(names) if name in executed or origins[at].layers]
    times = np.array([[copy.get(names[at], 0.0) for at in kept] for copy in copies])
    found = []
    for at, seconds in zip(kept, means(quiet_half(times)), strict=True):
        name, origin = names[at], origins[at]
        found.append(Kernel(name, ran[name][1], origin.layers, origin.name, origin.kinds, _rounded(seconds)))
    return found


def _counted(request: Any, cancel: threading.Event | None) -> dict[str, float]:
    """Seconds per call of every node of one copy: a first call also makes kernels, and is taken off."""
    for _ in range(WARM_CALLS):
        request.infer()
    early = _totals(request, WARM_CALLS)
    calls, stop = WARM_CALLS, time.perf_counter() + COPY_SECONDS
    while calls < WARM_CALLS + LEAST_CALLS or time.perf_counter() < stop:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        request.infer()
        calls += 1
    return {
        name: max(0.0, (total - early.get(name, 0.0)) / (calls - WARM_CALLS))
        for name, total in _totals(request, calls).items()
    }


def _totals(request: Any, calls: int) -> dict[str, float]:
    """Seconds of all calls together, by node."""
    infos = request.get_profiling_info()
    return {info.node_name: (info.real_time.total_seconds() + CUT) * calls for info in infos}


def _rounded(seconds: Estimate) -> Estimate:
    """With what the counters cut off in its interval."""
    return seconds.model_copy(update={"low": max(0.0, seconds.low - CUT), "high": seconds.high + CUT})
