"""Trains in a process of its own: what the notebook does meanwhile does not wait, and a crash there ends only that."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import queue
import subprocess
import tempfile
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

from workbench import errors
from workbench.checkpoints import CheckpointFile
from workbench.distillation import job, trainer
from workbench.distillation.goal import CLASSES, Goal
from workbench.distillation.progress import DivergenceError, Progress, with_note
from workbench.distillation.students import Own
from workbench.distillation.teacher import TeacherLogits
from workbench.distillation.trained import Trained
from workbench.errors import WorkbenchError
from workbench.helper_process import Helpers, ending, search_paths
from workbench.recipe import Distillation

LISTENED_SECONDS = 0.05
"""Between two looks whether it was cancelled or paused."""
HERE = "It trains in this process, which answers less quickly meanwhile: it cannot be handed to another one ({reason})."
NO_FILE = "What was learned came back without a file, as none could be written ({reason}): look for space on the disk."

_helpers = Helpers("from workbench.distillation.worker import main; main()")


def warm() -> None:
    """Start the other process, which takes seconds, before there is something to train."""
    if not _in_a_pool():
        _helpers.warm()


def distil(
    model: nn.Module,
    example: Tensor,
    settings: Distillation,
    inputs: Tensor,
    labels: Tensor,
    teacher_logits: TeacherLogits | Sequence[TeacherLogits],
    validation: tuple[Tensor, Tensor],
    cancel: threading.Event | None = None,
    teacher: nn.Module | None = None,
    own: Mapping[str, Own] | None = None,
    *,
    others: Sequence[nn.Module] = (),
    goal: Goal = CLASSES,
    pause: threading.Event | None = None,
    checkpoint: CheckpointFile | None = None,
) -> Generator[Progress, None, Trained]:
    """As `workbench.distillation.trainer.distil`, with the same bits, in another process with as many threads.

    Networks of classes that were defined in a notebook are handed over by value. What cannot be handed over is
    trained in this process, and `Progress.note` says so. A process of a pool trains by itself.

    Raises:
        WorkbenchError: The other process ended, in words how; a training that is started again goes on from the
            latest checkpoint.
    """
    known = [teacher_logits] if isinstance(teacher_logits, TeacherLogits) else list(teacher_logits)
    together = {
        "model": model,
        "example": example.clone(),  # a part of a larger tensor would be handed over whole
        "settings": settings,
        "teacher": teacher,
        "own": {name: made for name, made in (own or {}).items() if name == settings.student},
        "others": tuple(others),
        "goal": goal,
        "checkpoint": checkpoint,
    }
    arguments: dict[str, Any] = {**together, "inputs": inputs, "labels": labels, "teacher_logits": known}
    arguments |= {"validation": validation, "cancel": cancel, "pause": pause}
    if _in_a_pool():
        return (yield from trainer.distil(**arguments))
    with contextlib.ExitStack() as stack:
        folder, reason = _folder(stack)
        if not reason:
            reason = _packed(folder, together, *job.taken_apart(inputs, labels, known, validation))
        if not reason:
            try:
                return (yield from _followed(folder, cancel, pause, checkpoint))
            except _NotHandedOverError as error:
                reason = str(error)
    return (yield from with_note(trainer.distil(**arguments), HERE.format(reason=_first_line(reason))))


def _folder(stack: contextlib.ExitStack) -> tuple[Path, str]:
    """Of a job, until the stack is left; or why there is none."""
    try:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="training-"))), ""
    except OSError as error:
        return Path(), str(error)


def _packed(folder: Path, together: Mapping[str, Any], tensors: Mapping[str, Tensor], prints: list[str]) -> str:
    """Put a job into its folder; why that cannot be done, or nothing."""
    told = {**together, "settings": together["settings"].model_dump_json(), "fingerprints": prints}
    try:
        job.write(folder, cloudpickle.dumps(told), tensors)
    except Exception as error:  # pickling runs code of the model, and may raise anything
        return f"{type(error).__name__}: {error}"
    return ""


class _NotHandedOverError(Exception):
    """The other process could not read the job."""


def _followed(
    folder: Path, cancel: threading.Event | None, pause: threading.Event | None, checkpoint: CheckpointFile | None
) -> Generator[Progress, None, Trained]:
    """Progress as it comes from the other process; the last one when the student is here."""
    last: Progress | None = None
    with _helpers.one() as process:
        lines = _lines(process)
        _say(process, job=str(folder), paths=search_paths(), threads=torch.get_num_threads())
        said = {"cancel": False, "pause": False}
        end: dict[str, Any] | None = None
        while end is None:
            for what, event in (("cancel", cancel), ("pause", pause)):
                if event is not None and event.is_set() != said[what]:
                    said[what] = not said[what]
                    _say(process, say=what if said[what] else "go on")
            try:
                line = lines.get(timeout=LISTENED_SECONDS)
            except queue.Empty:
                continue
            if not line:
                raise WorkbenchError(_died(process, checkpoint))
            message = json.loads(line)
            if "progress" in message:
                progress = Progress.from_dict(message["progress"])
                if progress.done:
                    last = progress
                else:
                    yield progress
            else:
                end = message["end"]
    if "unreadable" in end:
        raise _NotHandedOverError(end["unreadable"])
    if end.get("error") == "DivergenceError":
        raise DivergenceError(end["text"], job.found(folder, end))
    if "error" in end:
        raise getattr(errors, end["error"])(end["text"])
    trained = job.found(folder, end)
    assert trained is not None  # noqa: S101 - it ended well
    assert last is not None  # noqa: S101 - every training ends with it
    yield last.noted(NO_FILE.format(reason=end["reason"])) if "reason" in end else last
    return trained


def _lines(process: subprocess.Popen[str]) -> queue.SimpleQueue[str]:
    """The answers to one job, until the last one; an empty line where the process is gone."""
    found: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None  # noqa: S101 - it was started with one
        for line in process.stdout:
            found.put(line)
            if line.startswith('{"end"'):
                return
        found.put("")

    threading.Thread(target=read, daemon=True).start()
    return found


def _say(process: subprocess.Popen[str], **message: Any) -> None:
    assert process.stdin is not None  # noqa: S101 - it was started with one
    with contextlib.suppress(BrokenPipeError):  # it is gone, which its answers tell
        process.stdin.write(job.line(**message))
        process.stdin.flush()


def _died(process: subprocess.Popen[str], checkpoint: CheckpointFile | None) -> str:
    found = checkpoint.read() if checkpoint else None
    how = ending(process)
    hint = ", as the system does where memory is short" if how == "SIGKILL" else ""
    again = "begins anew" if found is None else f"goes on from step {found[0]['student']['taken']:,}"
    return (
        f"The process that trains ended ({how}{hint}); everything else is as it was. Start the training again: it "
        f"{again}."
    )


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:200]


def _in_a_pool() -> bool:
    """Whether this process was started to compute: no page waits for it, and one more process would be one too many."""
    return multiprocessing.parent_process() is not None
