"""What a training leaves: the weights of student and control, kept in one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench import tensor_files
from workbench.errors import WorkbenchError

FORMAT = 2


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
        tensor_files.save(path, *self._parts())

    def packed(self) -> bytes:
        """What `save` writes."""
        return tensor_files.packed(*self._parts())

    def _parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        about = {"format": FORMAT, "steps": self.steps, "seconds": self.seconds, "cancelled": self.cancelled}
        both = (("student", self.student_state), ("control", self.control_state))
        return about, {f"{who}.{name}": value for who, state in both for name, value in state.items()}

    @classmethod
    def load(cls, path: Path) -> Trained:
        """Read what `save` wrote.

        Raises:
            OSError: There is no such file, or it cannot be read.
            WorkbenchError: It is truncated, altered, or not of this kind.
        """
        try:
            return cls.unpacked(path.read_bytes())
        except (ValueError, KeyError, TypeError) as error:
            raise WorkbenchError(
                f"{path.name} cannot be used as a trained student: {error}. Delete it and distil again."
            ) from error

    @classmethod
    def unpacked(cls, content: bytes) -> Trained:
        """The reverse of `packed`.

        Raises:
            ValueError, KeyError, TypeError: It is something else.
        """
        about, tensors = tensor_files.unpacked(content)
        if about.pop("format") != FORMAT:
            raise ValueError("it has another format than this version writes")
        parts: dict[str, dict[str, Tensor]] = {"student": {}, "control": {}}
        for key, tensor in tensors.items():
            who, _, name = key.partition(".")
            parts[who][name] = tensor
        return cls(student_state=parts["student"], control_state=parts["control"], **about)
