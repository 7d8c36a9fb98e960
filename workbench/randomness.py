"""Random numbers that a model draws while it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Every run draws the same numbers, and the generator of the process goes on as if nothing had been drawn.

    Args:
        seed: Of the numbers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
