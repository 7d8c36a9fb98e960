"""What a session trains: one lesson, or one for each of several seeds and what they come to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from workbench.errors import Cancelled
from workbench.levers.seed_study import repetitions
from workbench.recipe import Distillation, Finetuning, Recipe

SEEDS = (1, 3, 5)
"""How many seeds a distillation can be run with."""


@dataclass(frozen=True)
class Lesson:
    """One training: how it runs, and what it makes of the recipe on the screen."""

    kind: str
    """``distillation`` or ``finetuning``."""
    what: str
    """The start of a sentence about it."""
    settings: Distillation | Finetuning
    run: Callable[[threading.Event], Iterator[Any]]
    """Yields progress, whose last says whether it was cancelled; of several seeds a `Lap` before each one's progress,
    and in the end what is `Compared`."""
    learned: Callable[[], bool]
    """Whether a training that was stopped, or broke off, left something to be used."""
    applied: Callable[[Recipe], Recipe]
    """The recipe with what was learned."""
    then: Callable[[Recipe], Lesson | None] | None = None
    """What is trained after it, given the recipe that is then on the screen; None: nothing."""


class Lap(NamedTuple):
    """One of several trainings that differ in their seed."""

    number: int
    """From 1."""
    of: int
    seed: int


class Compared(NamedTuple):
    """What several seeds came to, as far as they were compared."""

    study: Any
    """A `SeedStudy`."""


def in_laps(
    bench: Any, settings: Distillation, seeds: int, pause: threading.Event, cancel: threading.Event
) -> Iterator[Any]:
    """One training for each seed, and the comparison of all; a cancelled one is the last, and what was finished before
    it is compared."""
    if seeds == 1:
        yield from bench.distil(settings, cancel, pause)
        return
    for number, each in enumerate(repetitions(settings, seeds), start=1):
        yield Lap(number, seeds, each.seed)
        for progress in bench.distil(each, cancel, pause):
            yield progress
        if progress.cancelled:
            if number > 1:
                yield Compared(bench.seeds_so_far(settings, seeds))
            return
    with contextlib.suppress(Cancelled):  # what was trained is used all the same
        yield from map(Compared, bench.over_seeds_stream(settings, seeds, cancel))
