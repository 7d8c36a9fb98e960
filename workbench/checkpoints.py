"""Where a training is, on disk: a later process goes on from there, bit for bit."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench import tensor_files

FORMAT = 1
NOT_KEPT = "It cannot be resumed if it is interrupted: {error}."


@dataclass(frozen=True)
class CheckpointFile:
    """A file that a training goes on from."""

    path: Path
    made_for: str
    """What it belongs to: settings, data, weights. The file of anything else is not looked at."""
    every: float = 3.0
    """Seconds between two writings."""
    share: float = 0.05
    """Of the time that writing may take: large networks are kept less often."""

    def write(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write the file, whole or not at all.

        Args:
            about: Where the training is, as far as JSON can say it.
            tensors: The rest, by name.

        Raises:
            OSError: It cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tensor_files.save(self.path, {**about, "format": FORMAT, "made_for": self.made_for}, tensors)

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """What `write` was given; None where there is no file, or a damaged or foreign one."""
        try:
            about, tensors = tensor_files.load(self.path)
            if about.pop("format") != FORMAT or about.pop("made_for") != self.made_for:
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return about, tensors

    def remove(self) -> None:
        """Remove the file, and what a process that was killed while it wrote left beside it, where that can be done."""
        with contextlib.suppress(OSError):
            for partial in self.path.parent.glob(f".{self.path.name}.*.partial"):
                partial.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)


def moments(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """An optimizer's state as tensors.

    Args:
        optimizer: After a step.
        names: Of its parameters, by identity.
    """
    return {
        f"moments.{names[id(parameter)]}.{name}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for name, value in state.items()
    }


def set_moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """The reverse of `moments`, for an optimizer that has taken no step.

    Raises:
        ValueError: They have other shapes.
    """
    for name, parameter in parameters.items():
        prefix = f"moments.{name}."
        found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if any(value.shape != parameter.shape for key, value in found.items() if key != "step"):
            raise ValueError(f"the moments of {name} have other shapes than {tuple(parameter.shape)}")
        if found:
            optimizer.state[parameter] = {
                key: value.clone() if key == "step" else torch.empty_like(parameter).copy_(value)
                for key, value in found.items()
            }
