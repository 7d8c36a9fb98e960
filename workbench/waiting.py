"""Waiting that a cancel ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from workbench.errors import Cancelled

LOOKED_SECONDS = 0.05
"""Between two looks whether it was cancelled."""


@contextlib.contextmanager
def alone(lock: threading.Lock, cancel: threading.Event | None) -> Iterator[None]:
    """Holds a lock, once nobody else does.

    Args:
        lock: Is waited for.
        cancel: Ends the waiting.

    Raises:
        Cancelled: `cancel` was set while somebody else held the lock.
    """
    while not lock.acquire(timeout=LOOKED_SECONDS):
        if cancel is not None and cancel.is_set():
            raise Cancelled
    try:
        yield
    finally:
        lock.release()
