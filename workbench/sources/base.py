"""What was read from a source, and what all sources need for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from torch import Tensor

from workbench.errors import TaskError, WorkbenchError
from workbench.inputs import Inputs

MEMORY = 4_000_000_000
"""Bytes that examples may take; more would push a notebook's kernel out of memory before anything was measured."""


@dataclass(frozen=True, eq=False)
class Examples:
    """What was read."""

    inputs: Inputs
    targets: Tensor | None = None
    """Shape (n, ...)."""
    classes: tuple[str, ...] = ()
    """Names of the classes, where the source has them."""
    notes: tuple[str, ...] = ()
    """What was left out, and why."""

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        targets = "no targets" if self.targets is None else f"targets {tuple(self.targets.shape)}"
        return f"Examples({self.inputs!r}, {targets})"

    def with_targets(self, targets: Tensor | None) -> Examples:
        """The same inputs with other targets."""
        return replace(self, targets=targets)

    def first(self, limit: int | None) -> Examples:
        """The first examples, all of them for None."""
        if limit is None or limit >= len(self):
            return self
        targets = None if self.targets is None else self.targets[:limit]
        return replace(self, inputs=self.inputs[:limit], targets=targets)


def check_memory(what: str, examples: float, size: float, remedy: str) -> None:
    """Refuse examples that do not fit.

    Args:
        what: Which data.
        examples: How many there are.
        size: Of all of them, bytes.
        remedy: How to take a part, with ``{n}`` where the number of examples goes.

    Raises:
        TaskError: They take more than 4 GB; the size is told, and how to take a part.
    """
    if size > MEMORY:
        fitting = max(1, int(examples * MEMORY / size))
        fitting -= fitting % 10 ** max(0, len(str(fitting)) - 2)
        raise TaskError(
            f"{what}: {examples:,.0f} examples take about {size / 1e9:.1f} GB of memory, more than "
            f"{MEMORY / 1e9:.0f} GB. Take a part, such as {remedy.format(n=fitting)}."
        )


def optional(module: str, needed_for: str, install: str) -> Any:
    """A package that not everyone needs.

    Raises:
        WorkbenchError: It is not installed; the command that installs it is told.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise WorkbenchError(
            f"{needed_for} needs {module.partition('.')[0]}, which is not installed; pip install {install}"
        ) from error
