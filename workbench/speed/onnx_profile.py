"""onnxruntime's profiler: a trace of every kernel of every call, as JSON."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from workbench.errors import Cancelled
from workbench.inputs import Inputs
from workbench.runtimes import Prepared
from workbench.runtimes.onnx_runtime import opened, options_for, written
from workbench.speed.kernels import Kernel, means, quiet_half
from workbench.speed.origins import Origins
from workbench.speed.subject import Subject

SECONDS, LEAST_CALLS, MOST_CALLS = 0.4, 5, 400
WARM_CALLS = 5
CUT = 0.5e-6
"""Durations are whole microseconds with the rest cut off, which is half of one on average."""
END = "_kernel_time"


def profile(subject: Subject, run: Prepared, batch: Inputs, cancel: threading.Event | None) -> list[Kernel]:  # noqa: ARG001 - see `layer_times.PROFILERS`
    """Seconds of each kernel of a session of its own, which is set up like the one that is timed.

    Args:
        subject: What runs.
        run: Ready.
        batch: On what.
        cancel: Checked between calls.

    Raises:
        Cancelled: `cancel` was set.
    """
    graph = subject.source.graph
    options = options_for(subject.layers, subject.deployment)
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        content, _ = written(graph, subject.layers)
        session = opened(content, options, subject.deployment)
        arrays = (np.ascontiguousarray(tensor.numpy()) for tensor in batch.tensors)
        inputs = {name: array for name, array in zip(graph.inputs, arrays, strict=True) if name}
        try:
            _run(session, inputs, cancel)
        finally:
            trace = Path(session.end_profiling())
        calls = _calls(json.loads(trace.read_text()))[WARM_CALLS:]
        optimised = onnx.load(options.optimized_model_filepath, load_external_data=False)
    tensors = {node.name: tuple(node.input) for node in optimised.graph.node}
    names = list(dict.fromkeys(name for call in calls for name in call))
    kinds = {name: kind for call in calls for name, (kind, _) in call.items()}
    times = np.array([[call[name][1] if name in call else 0.0 for name in names] for call in calls])
    origins = Origins(graph).found([(name, kinds[name]) for name in names], tensors)
    return [
        Kernel(name, kinds[name], origin.layers, origin.name, origin.kinds, seconds)
        for name, origin, seconds in zip(names, origins, means(quiet_half(times)), strict=True)
    ]


def _run(session: Any, inputs: dict[str, Any], cancel: threading.Event | None) -> None:
    stop = time.perf_counter() + SECONDS
    done = 0
    while done < LEAST_CALLS + WARM_CALLS or (time.perf_counter() < stop and done < MOST_CALLS):
        if cancel is not None and cancel.is_set():
            raise Cancelled
        session.run(None, inputs)
        done += 1


def _calls(events: list[dict[str, Any]]) -> list[dict[str, tuple[str, float]]]:
    """Kernels of each call with their operator and seconds; a call ends with the event of the whole run."""
    found: list[dict[str, tuple[str, float]]] = []
    call: dict[str, tuple[str, float]] = {}
    for event in sorted(events, key=lambda event: event["ts"] + event.get("dur", 0)):
        if event.get("cat") == "Node" and event["name"].endswith(END):
            name = event["name"].removesuffix(END)
            before = call.get(name, ("", 0.0))[1]  # a node within a loop runs more than once
            call[name] = (event["args"]["op_name"], before + event["dur"] * 1e-6 + CUT)
        elif event.get("cat") == "Session" and event["name"] == "model_run":
            found.append(call)
            call = {}
    return found
