"""Models and tasks that come along, ready to measure: ``zoo.load("seed-cnn")``."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from torch import nn

from workbench.task import Task
from workbench.zoo import registry
from workbench.zoo.checkpoints import data_folder
from workbench.zoo.registry import Offer

if TYPE_CHECKING:
    from workbench.bench import Bench
    from workbench.store import Store

__all__ = ["Offer", "about", "load", "model", "names", "offers", "task"]


def names() -> tuple[str, ...]:
    """Models that can be loaded here."""
    return tuple(offer.name for offer in offers() if offer.reason is None)


def offers() -> tuple[Offer, ...]:
    """All models of the zoo, and why one cannot be loaded here: a package that it needs is missing."""
    return tuple(Offer(entry.name, entry.reason) for entry in registry.ENTRIES)


def about(name: str) -> str:
    """What a model is, in one line.

    Raises:
        WorkbenchError: No such name.
    """
    return registry.entry(name).description


def model(name: str) -> nn.Module:
    """A trained network in evaluation mode.

    Raises:
        WorkbenchError: No such name, a package is missing, or the weights are missing, truncated or altered.
    """
    return registry.usable(name).model()


def task(name: str = "seed-cnn") -> Task:
    """What a model of the zoo is measured on; read once.

    Raises:
        WorkbenchError: No such name, a package is missing, or a data file is missing, truncated or altered.
    """
    return _made(registry.usable(name))


@lru_cache
def _made(entry: registry.Entry) -> Task:
    return entry.task()


def load(name: str, *, store: Store | None = None) -> Bench:
    """A model of the zoo on its task.

    Example:
        >>> load("seed-cnn").parameters
        93322

    Args:
        name: One of `names`.
        store: Where reports are kept; the user's own store by default.

    Raises:
        WorkbenchError: No such name, a package is missing, or a file is missing or altered.
    """
    from workbench.bench import Bench

    chosen = registry.usable(name)
    alike = [e for e in reversed(registry.ENTRIES) if e.task is chosen.task and e is not chosen]
    bench = Bench(chosen.model(), task(name), name=name, store=store, teachers={e.name: e.model for e in alike})
    bench.licence = chosen.licence
    bench.frontier_file = data_folder() / "frontier" / f"{name}.json"
    return bench
