"""What a training leaves: the weights of student and control, kept in one file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.files import write_atomically

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Trained:
    """A student and its control."""

    student_state: dict[str, Tensor]
    control_state: dict[str, Tensor]
    steps: int
    """Optimizer steps of each."""
    seconds: float
    """Wall-clock time of both together."""
    cancelled: bool = False
    """Whether the training was stopped before its end, so that these are the best weights until then."""

    def save(self, path: Path) -> None:
        """Write all as safetensors, with the rest and a checksum in the header; whole or not at all.

        Raises:
            OSError: The file cannot be written. One that was there before is left whole.
        """
        tensors = self._tensors()
        about = {"format": FORMAT, "steps": self.steps, "seconds": self.seconds, "cancelled": self.cancelled}
        text = json.dumps(about, sort_keys=True)
        content = safetensors.torch.save(tensors, {"training": text, "sha256": _checksum(text, tensors)})
        write_atomically(path, content)

    @classmethod
    def load(cls, path: Path) -> Trained:
        """Read what `save` wrote.

        Raises:
            OSError: There is no such file, or it cannot be read.
            WorkbenchError: It is truncated, altered, or not of this kind.
        """
        content = path.read_bytes()
        try:
            tensors = safetensors.torch.load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            text = header["training"]
            if header["sha256"] != _checksum(text, tensors):
                raise ValueError("its content does not match its checksum")
            about: dict[str, Any] = json.loads(text)
            if about.pop("format") != FORMAT:
                raise ValueError("it has another format than this version writes")
            parts: dict[str, dict[str, Tensor]] = {"student": {}, "control": {}}
            for key, tensor in tensors.items():
                who, _, name = key.partition(".")
                parts[who][name] = tensor
            return cls(student_state=parts["student"], control_state=parts["control"], **about)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise WorkbenchError(
                f"{path.name} cannot be used as a trained student: {error}. Delete it and distil again."
            ) from error

    def _tensors(self) -> dict[str, Tensor]:
        both = (("student", self.student_state), ("control", self.control_state))
        return {
            f"{who}.{name}": value.detach().clone(memory_format=torch.contiguous_format)
            for who, state in both
            for name, value in state.items()
        }


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).numpy().data)
    return digest.hexdigest()
