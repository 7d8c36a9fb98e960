"""The errors that a user can cause, and how they are worded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class WorkbenchError(ValueError):
    """Something that was asked for cannot be done; the text says what, why, and what to do."""


class RecipeError(WorkbenchError):
    """A recipe, or a part of one, has a value that is not allowed."""


class TaskError(WorkbenchError):
    """Data that cannot be measured on: empty, of a wrong shape or type, or with NaN in it."""


class StoreError(WorkbenchError):
    """The store cannot be opened, read or written."""


class LoadError(WorkbenchError):
    """A model file, folder or name that cannot be loaded: absent, damaged, unsafe, or not what the model needs."""


class PlanError(WorkbenchError):
    """No choice keeps the budgets; the text and `nearest` say which one comes nearest."""

    def __init__(self, text: str, nearest: Any = None) -> None:
        """
        Args:
            text: What cannot be kept, and what can.
            nearest: The report of what comes nearest.
        """
        super().__init__(text)
        self.nearest = nearest


class Cancelled(Exception):  # noqa: N818 - the caller asked for it, so it is not an error
    """The work was cancelled; what was there before is unchanged."""


def nearest(wrong: str, known: Iterable[str]) -> str:
    """The end of an error text: what was probably meant, or else everything that is known.

    Returns:
        ``"Did you mean 'fc2'?"``, or ``"Known: conv1, conv2."``
    """
    known = list(known)
    close = difflib.get_close_matches(wrong, known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    if not known:
        return "There are none."
    return f"Known: {', '.join(known[:20])}{', …' if len(known) > 20 else '.'}"
