"""A runtime meets a model of unknown kind in a process of its own first.

Graph compilers are native code that a strange model can crash or keep busy for ever, and with it the notebook and
everything in it. So the first time, they prepare and run it elsewhere, under a time limit; what came of it is
remembered. Models that are built from torch's layers and ours alone are not tried again by our own runtimes: these
met them in the tests.

torch's own compiler is not tried: it keeps no frozen graph on disk, only what the C++ compiler made of it, so that
this process would trace and lower the model once more after the other one; and its g++ is a process of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from workbench.errors import Cancelled, WorkbenchError
from workbench.grid import QuantizedLayer
from workbench.helper_process import Helpers, end, ending, search_paths
from workbench.recipe import Deployment
from workbench.runtimes.base import Runtime, Source
from workbench.runtimes.trial import Shipped, Trial

SECONDS = 120.0
"""A compiler that takes longer is ended."""
LOOK_SECONDS = 0.05
"""Between two looks at whether it was cancelled."""
OURS = ("torch.nn.", "workbench.")

_helpers = Helpers("from workbench.runtimes.trial import main; main()")
_answers: dict[str, str | None] = {}
_one = threading.Lock()  # two trials at once would take the memory of two


def tried(
    runtime: Runtime,
    source: Source,
    layers: Mapping[str, QuantizedLayer],
    deployment: Deployment,
    cancel: threading.Event | None = None,
) -> None:
    """Let a runtime prepare and run a model in another process, unless that was done or need not be.

    Args:
        runtime: See `Runtime.takes`: one that takes modules runs what this process runs anyway.
        source: The model.
        layers: Quantized layers by name.
        deployment: What is asked.
        cancel: Ends the trial, and the wait for another one.

    Raises:
        WorkbenchError: It crashed, was not done in time, or refused; in words.
        Cancelled: `cancel` was set; nothing is remembered.
    """
    if runtime.takes != "graph" or _familiar(runtime, source):
        return
    key = _key(runtime, source, layers, deployment)
    while key not in _answers:  # what is known does not wait for the trial of something else
        if cancel is not None and cancel.is_set():
            raise Cancelled
        if _one.acquire(timeout=LOOK_SECONDS):
            try:
                if key not in _answers:
                    shipped = Shipped(source.graph, source.example)
                    _answers[key] = _asked(Trial(runtime, shipped, dict(layers), deployment), cancel)
            finally:
                _one.release()
    reason = _answers[key]
    if reason is not None:
        raise WorkbenchError(reason)


def _familiar(runtime: Runtime, source: Source) -> bool:
    """Whether nothing is new: runtime and layers come with torch or the workbench."""
    if not type(runtime).__module__.startswith("workbench."):
        return False
    if source.graph_only:
        return runtime.name == "onnxruntime"  # it opened the file elsewhere when that was loaded
    return all(type(module).__module__.startswith(OURS) for module in source.module.modules())


def _key(runtime: Runtime, source: Source, layers: Mapping[str, QuantizedLayer], deployment: Deployment) -> str:
    """Of the operators, their shapes, the batch and threads, and the kinds of kernels that will run; the numbers are no
    matter."""
    kinds = {
        (layer.integer, layer.weight is not None, layer.activation_grid is not None, layer.dynamic is not None)
        for layer in layers.values()
    }
    how = (type(runtime).__module__, runtime.name, deployment.model_dump_json(), sorted(kinds))
    digest = hashlib.sha256(repr(how).encode())
    for node in source.graph.proto.graph.node:
        digest.update(node.SerializeToString())
    for tensor in source.graph.proto.graph.initializer:
        digest.update(repr((tensor.name, tensor.data_type, tuple(tensor.dims))).encode())
    return digest.hexdigest()


def _asked(trial: Trial, cancel: threading.Event | None) -> str | None:
    """Why a model cannot be run, or None."""
    name = trial.runtime.name
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial"
        try:
            path.write_bytes(pickle.dumps(search_paths()) + pickle.dumps(trial))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            return (
                f"{name} cannot be tried in a process of its own ({error}); define it in a module that can be imported."
            )
        try:
            error_there = _answer(path, cancel)
        except TimeoutError:
            return f"{name} was not done with this model after {SECONDS:.0f} s and was ended. Choose another runtime."
        except EOFError as ended:
            return (
                f"{name} crashed on this model ({ended}); it was tried in a process of its own, so nothing else "
                "broke. Choose another runtime."
            )
    if error_there is None or error_there.startswith(name):
        return error_there
    return f"{name} cannot take the model: {error_there}"


def _answer(path: Path, cancel: threading.Event | None) -> str | None:
    """What the helper says about a trial.

    Args:
        path: Of its file.
        cancel: Ends it.

    Raises:
        TimeoutError: It said nothing in time.
        EOFError: It ended; the message says how.
        Cancelled: `cancel` was set.
    """
    late, done = threading.Event(), threading.Event()
    with _helpers.one() as process:

        def watch() -> None:
            last = time.monotonic() + SECONDS
            while not done.wait(LOOK_SECONDS):
                cancelled = cancel is not None and cancel.is_set()
                if cancelled or time.monotonic() > last:
                    if not cancelled:
                        late.set()
                    end(process)
                    return

        watcher = threading.Thread(target=watch, name="workbench-trial", daemon=True)
        watcher.start()
        try:
            assert process.stdin is not None and process.stdout is not None  # noqa: S101
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{path}\n")
                process.stdin.flush()
            line = process.stdout.readline()
        finally:
            done.set()
            watcher.join()  # it must not end the process when that works on something else
        if not line and late.is_set():
            raise TimeoutError
        if not line and cancel is not None and cancel.is_set():
            raise Cancelled
        if not line:
            raise EOFError(ending(process))
    answer: str | None = json.loads(line)
    return answer
