"""A runtime meets a model of unknown kind in a process of its own first.

Graph compilers are native code that a strange model can crash or keep busy for ever, and with it the notebook and
everything in it. So the first time, they prepare and run it elsewhere, under a time limit; what came of it is
remembered. Models that are built from torch's layers and ours alone are not tried again by our own runtimes: these
met them in the tests.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.grid import QuantizedLayer
from workbench.helper_process import Helpers, end, ending, search_paths
from workbench.recipe import Deployment
from workbench.runtimes.base import Runtime, Source
from workbench.runtimes.trial import Shipped, Trial

SECONDS = 120.0
"""A compiler that takes longer is ended."""
OURS = ("torch.nn.", "workbench.")

_helpers = Helpers("from workbench.runtimes.trial import main; main()")
_answers: dict[str, str | None] = {}
_one = threading.Lock()  # two trials at once would take the memory of two


def tried(runtime: Runtime, source: Source, layers: Mapping[str, QuantizedLayer], deployment: Deployment) -> None:
    """Let a runtime prepare and run a model in another process, unless that was done or need not be.

    Args:
        runtime: See `Runtime.takes`: one that takes modules runs what this process runs anyway.
        source: The model.
        layers: Quantized layers by name.
        deployment: What is asked.

    Raises:
        WorkbenchError: It crashed, was not done in time, or refused; in words.
    """
    if runtime.takes != "graph" or _familiar(runtime, source):
        return
    key = _key(runtime, source, layers, deployment)
    with _one:
        if key not in _answers:
            shipped = Shipped(source.graph, source.example)
            _answers[key] = _asked(Trial(runtime, shipped, dict(layers), deployment))
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
    """Of the operators, their shapes, and the kinds of kernels that will run; the numbers are no matter."""
    kinds = {(layer.integer, layer.weight is not None, layer.activation_grid is not None) for layer in layers.values()}
    how = (type(runtime).__module__, runtime.name, deployment.device, deployment.precision, sorted(kinds))
    digest = hashlib.sha256(repr(how).encode())
    for node in source.graph.proto.graph.node:
        digest.update(node.SerializeToString())
    for tensor in source.graph.proto.graph.initializer:
        digest.update(repr((tensor.name, tensor.data_type, tuple(tensor.dims))).encode())
    return digest.hexdigest()


def _asked(trial: Trial) -> str | None:
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
            error_there = _answer(path)
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


def _answer(path: Path) -> str | None:
    """What the helper says about a trial.

    Args:
        path: Of its file.

    Raises:
        TimeoutError: It said nothing in time.
        EOFError: It ended; the message says how.
    """
    late = threading.Event()
    with _helpers.one() as process:

        def expire() -> None:
            late.set()
            end(process)

        clock = threading.Timer(SECONDS, expire)
        clock.start()
        try:
            assert process.stdin is not None and process.stdout is not None  # noqa: S101
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{path}\n")
                process.stdin.flush()
            line = process.stdout.readline()
        finally:
            clock.cancel()
        if late.is_set() and not line:
            raise TimeoutError
        if not line:
            raise EOFError(ending(process))
    answer: str | None = json.loads(line)
    return answer
