"""What went wrong: in words for the page, with its traceback for the log."""

from __future__ import annotations

import logging
import sys

import traitlets

from workbench.errors import WorkbenchError

LOG = logging.getLogger("widgets")
LONGEST = 200  # characters of a foreign error's text on the page


def in_words(what: str, error: BaseException) -> str:
    """A sentence for the page. What is not a user's slip also goes to the log, with its traceback.

    Args:
        what: What was being done, as the start of a sentence: ``Measuring W4``.
        error: What it ended with.
    """
    if isinstance(error, WorkbenchError | traitlets.TraitError):
        return str(error)
    _to_the_console()
    LOG.error("%s failed", what, exc_info=(type(error), error, error.__traceback__))
    first = next(iter(str(error).splitlines()), "")
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return f"{what} failed: {text[:LONGEST]}; details are in the log."


def _to_the_console() -> None:
    """Makes sure that the log is read somewhere: in a kernel, `sys.stderr` of a thread or a callback leads nowhere."""
    if not LOG.handlers and sys.__stderr__ is not None:
        handler = logging.StreamHandler(sys.__stderr__)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        LOG.addHandler(handler)
