"""A training that is handed to another process: what is sent, and what comes back."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from workbench.distillation.teacher import TeacherLogits
from workbench.distillation.trained import Trained
from workbench.recipe import Distillation

ARGUMENTS, TENSORS, RESULT = "arguments", "tensors.safetensors", "result.safetensors"
"""Files of a job in its folder."""


def write(folder: Path, content: bytes, tensors: Mapping[str, Tensor]) -> None:
    """Put a job where the other process finds it.

    Args:
        folder: Of this job, private to the user.
        content: A pickled dict of arguments, without the tensors.
        tensors: What is learned from, by name.
    """
    (folder / ARGUMENTS).write_bytes(content)
    plain = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    safetensors.torch.save_file(plain, folder / TENSORS)


def taken_apart(
    inputs: Tensor, labels: Tensor, known: list[TeacherLogits], validation: tuple[Tensor, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """What is learned from as tensors by name, and the fingerprints that the teacher's outputs have."""
    tensors = {"inputs": inputs, "labels": labels, "held_out": validation[0], "wanted": validation[1]}
    tensors |= {f"logits {view}": each.logits for view, each in enumerate(known)}
    return tensors, [each.inputs for each in known]


def read(folder: Path, loads: Callable[[bytes], Any]) -> dict[str, Any]:
    """The arguments of `workbench.distillation.trainer.distil` that a job has.

    Args:
        folder: Where `write` put it.
        loads: Reads what was pickled.

    Raises:
        Exception: Whatever unpickling raises, where a class cannot be found here.
    """
    arguments: dict[str, Any] = loads((folder / ARGUMENTS).read_bytes())
    tensors = safetensors.torch.load_file(folder / TENSORS)
    with contextlib.suppress(OSError):  # if the parent is killed, nobody else will
        (folder / TENSORS).unlink()
    prints = arguments.pop("fingerprints")
    known = [TeacherLogits(tensors[f"logits {view}"], text) for view, text in enumerate(prints)]
    return {
        **arguments,
        "settings": Distillation.model_validate_json(arguments["settings"]),
        "inputs": tensors["inputs"],
        "labels": tensors["labels"],
        "teacher_logits": known,
        "validation": (tensors["held_out"], tensors["wanted"]),
    }


def handed_back(folder: Path, trained: Trained | None) -> dict[str, Any]:
    """Put what was learned where the one who asked finds it, or, on a full disk, into the answer itself.

    Returns:
        What the last line of the answer has to say of it; see `found`.
    """
    if trained is None:
        return {"result": "none"}
    try:
        trained.save(folder / RESULT)
    except OSError as error:
        return {"result": "here", "content": base64.b64encode(trained.packed()).decode(), "reason": str(error)}
    return {"result": "file"}


def found(folder: Path, end: Mapping[str, Any]) -> Trained | None:
    """The reverse of `handed_back`.

    Raises:
        OSError, WorkbenchError: The file is not there, or damaged.
    """
    if end["result"] == "here":
        return Trained.unpacked(base64.b64decode(end["content"]))
    return Trained.load(folder / RESULT) if end["result"] == "file" else None


def line(**message: Any) -> str:
    """A message of either side."""
    return json.dumps(message) + "\n"
