"""What is timed: a network with the numbers of a recipe, and batches of any size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from workbench import runtimes
from workbench.errors import Cancelled, WorkbenchError
from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.recipe import Deployment, Recipe
from workbench.runtimes import Prepared, Source

T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """A recipe's network, ready to be prepared for any deployment."""

    recipe: Recipe
    source: Source
    layers: Mapping[str, QuantizedLayer]
    """That the recipe quantizes."""
    batch: Callable[[int], Inputs]
    """Examples, as many as are asked for.

    Raises:
        WorkbenchError: They would not fit in memory.
    """
    cancel: threading.Event | None = None
    """Of the whole look."""

    @property
    def deployment(self) -> Deployment:
        """The recipe's."""
        return self.recipe.deployment

    def prepared(self, deployment: Deployment, *, quantized: bool = True) -> Prepared:
        """Ready to run as a deployment asks for.

        Args:
            deployment: Any.
            quantized: Whether the recipe's layers are on their grids.

        Raises:
            WorkbenchError: The runtime is not here, or cannot take the model; the reason is told in words.
            Cancelled: `cancel` was set meanwhile.
        """
        return runtimes.prepare(deployment, self.source, self.layers if quantized else {}, self.cancel)


def attempted(runtime: str, work: Callable[[], T]) -> T:
    """What a runtime's library gives, its own exceptions put into words.

    Args:
        runtime: Its name.
        work: What may fail.

    Raises:
        WorkbenchError: It failed.
    """
    try:
        return work()
    except (WorkbenchError, Cancelled):
        raise
    except Exception as error:  # the libraries' exceptions have no public base in common
        first = (str(error).strip() or "no reason given").splitlines()[0][:300]
        raise WorkbenchError(f"{runtime} failed: {type(error).__name__}: {first}") from error
