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
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.grid import QuantizedLayer
from workbench.recipe import Deployment
from workbench.runtimes.base import Runtime, Source
from workbench.runtimes.trial import Shipped, Trial

SECONDS = 120.0
"""A compiler that takes longer is ended."""
IDLE_SECONDS = 20.0
"""Then the other process, which takes as much memory as torch does, is ended."""
OURS = ("torch.nn.", "workbench.")
_MAIN = "from workbench.runtimes.trial import main; main()"

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
            path.write_bytes(pickle.dumps(_paths()) + pickle.dumps(trial))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            return (
                f"{name} cannot be tried in a process of its own ({error}); define it in a module that can be imported."
            )
        try:
            error_there = _helper.asked(path)
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


class _Helper:
    """The other process: started when it is needed, ended when it was not for a while."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._idle: threading.Timer | None = None
        self._lock = threading.Lock()

    def asked(self, path: Path) -> str | None:
        """The answer to a trial.

        Args:
            path: Of its file.

        Raises:
            TimeoutError: There was none in time.
            EOFError: The process ended; the message says how.
        """
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            process = self._process if self._process is not None and self._process.poll() is None else _started()
            self._process = process
            late = threading.Event()

            def end() -> None:
                late.set()
                _end(process)

            clock = threading.Timer(SECONDS, end)
            clock.start()
            try:
                assert process.stdin is not None and process.stdout is not None  # noqa: S101
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(f"{path}\n")
                    process.stdin.flush()
                line = process.stdout.readline()
            finally:
                clock.cancel()
            self._idle = threading.Timer(IDLE_SECONDS, self._rest)
            self._idle.daemon = True
            self._idle.start()
        if line:
            answer: str | None = json.loads(line)
            return answer
        if late.is_set():
            raise TimeoutError
        code = process.wait()
        raise EOFError(signal.Signals(-code).name if -code in set(signal.Signals) else f"code {code}")

    def _rest(self) -> None:
        with self._lock:
            if self._process is not None:
                _end(self._process)
            self._process = None


_helper = _Helper()


def _paths() -> list[str]:
    return [str(Path(path).absolute()) for path in sys.path]


def _started() -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter and code
        [sys.executable, "-c", _MAIN],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_paths())},
        stdin=subprocess.PIPE,  # it ends when this process does
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)  # compilers start processes of their own
        else:
            process.kill()
    process.wait()
