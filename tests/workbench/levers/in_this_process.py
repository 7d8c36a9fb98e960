"""Trainings without a process of their own: it takes seconds to start, and makes the same bits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workbench.distillation import apart, trainer


@pytest.fixture(autouse=True, scope="module")
def trained_here() -> Iterator[None]:
    """Module by module, so that it is over before tests of that process begin."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(apart, "distil", trainer.distil)
        patched.setattr(apart, "warm", lambda: None)
        yield
