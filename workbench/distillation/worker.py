"""What runs in a process of its own, where students are trained so that the notebook stays live.

`apart` starts it as ``python -c "from workbench.distillation.worker import main; main()"`` and keeps it for a while.
It reads messages, a line of JSON each: ``{"job": folder, ...}`` begins a training; ``{"say": "cancel"}``, ``"pause"``
and ``"go on"`` are for the one that runs. It answers with ``{"progress": ...}``, and at last with one line that has an
``end``.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

import torch

from workbench import errors, helper_process
from workbench.distillation import job
from workbench.distillation.progress import DivergenceError
from workbench.distillation.trainer import distil


class _Listener(threading.Thread):
    """Reads what the parent says, also while a training runs; when the parent is gone, so is this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.cancel, self.pause = threading.Event(), threading.Event()

    def run(self) -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if "job" in message:
                self.cancel.clear()  # what was said to the one before came too late
                self.pause.clear()
                self.jobs.put(message)
            elif message["say"] == "cancel":
                self.cancel.set()
            elif message["say"] == "pause":
                self.pause.set()
            else:
                self.pause.clear()
        os._exit(0)


def main() -> None:
    """Train what is asked for, one after the other, until the input ends."""
    answers = helper_process.answers()
    listener = _Listener()
    listener.start()
    while True:
        message = listener.jobs.get()
        answers.write(job.line(end=_trained(message, listener, answers)))
        answers.flush()


def _trained(message: dict[str, Any], listener: _Listener, answers: TextIO) -> dict[str, Any]:
    """How a training ended."""
    sys.path[:] = message["paths"]
    torch.set_num_threads(message["threads"])
    folder = Path(message["job"])
    try:
        arguments = job.read(folder, pickle.loads)  # our parent wrote it a moment ago
    except Exception as error:  # a class that can be imported there and not here
        return {"unreadable": f"{type(error).__name__}: {error}"}
    try:
        training = distil(**arguments, cancel=listener.cancel, pause=listener.pause)
        while True:
            try:
                progress = next(training)
            except StopIteration as finished:
                return job.handed_back(folder, finished.value)
            answers.write(job.line(progress=progress.to_dict()))
            answers.flush()
    except DivergenceError as error:
        return {"error": type(error).__name__, "text": str(error), **job.handed_back(folder, error.trained)}
    except (errors.WorkbenchError, errors.Cancelled) as error:
        return {"error": type(error).__name__, "text": str(error)}
    except Exception as error:  # a model's own code can raise anything
        return {"error": "WorkbenchError", "text": f"The training failed: {type(error).__name__}: {error}"}
