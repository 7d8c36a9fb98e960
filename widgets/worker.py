"""One background thread that only ever works on the latest request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from workbench.speed.memory import give_back

RESTED = 2.0
"""Seconds without a job after which the memory of the last ones is given back."""

Job = Callable[[threading.Event], None]
"""Gets the event that is set when its result is no longer wanted."""
Failed = Callable[[BaseException], None]


class _Request(NamedTuple):
    job: Job
    failed: Failed
    cancel: threading.Event


class Worker:
    """A latest-wins queue of length one with a daemon thread behind it.

    A control that is dragged makes requests faster than they can be answered. Each new one cancels
    what runs and replaces what waits, so the thread is never more than one cancelled step behind the hand.

    The thread starts with the first request: a process that only imported this can still be forked.
    """

    def __init__(self, name: str = "workbench") -> None:
        self._name = name
        self._changed = threading.Condition()
        self._waiting: _Request | None = None
        self._running: _Request | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "idle" if self.idle else "working"
        return f"Worker({self._name!r}, {state})"

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return self._running is None and self._waiting is None

    @property
    def closed(self) -> bool:
        """Whether it takes no more jobs."""
        return self._closed

    @property
    def here(self) -> bool:
        """Whether the caller is the worker's own thread, which must not wait for itself."""
        return threading.current_thread() is self._thread

    def submit(self, job: Job, failed: Failed) -> None:
        """Cancel the running job, forget the waiting one, and do this one next.

        Args:
            job: Called in the thread with its cancel event.
            failed: Called in the thread with whatever the job raised, `workbench.errors.Cancelled` included.

        Raises:
            RuntimeError: The worker is closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError(f"the worker {self._name!r} is closed")
            self._cancel()
            self._waiting = _Request(job, failed, threading.Event())
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def cancel(self) -> bool:
        """Ask the running job to stop and forget the waiting one, which then never starts.

        Returns:
            Whether a job was running; it is for that job to say how it ended.
        """
        with self._changed:
            return self._cancel()

    def _cancel(self) -> bool:
        self._waiting = None
        if self._running is not None:
            self._running.cancel.set()
        self._changed.notify_all()
        return self._running is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Block until nothing runs and nothing waits.

        Args:
            timeout: Seconds; None for no limit.

        Returns:
            False when the time was up first.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self.idle, timeout)

    def close(self, timeout: float = 2.0) -> bool:
        """Cancel everything, refuse what comes later, and join the thread; may be called again.

        Args:
            timeout: Seconds to wait for a job that does not look at its cancel event.

        Returns:
            Whether the thread has ended.
        """
        with self._changed:
            self._closed = True
            self._cancel()
            thread = self._thread
        if thread is None:
            return True
        if not self.here:
            # at the exit of the interpreter the thread may already be frozen: the limit holds even then
            thread.join(timeout)
        return not thread.is_alive()

    def _report(self, request: _Request, error: BaseException) -> None:
        try:
            request.failed(error)
        except BaseException:  # the callback has had its chance; the thread lives on
            logging.getLogger(__name__).exception("a job of %r failed, and then what should have said so", self._name)

    def _loop(self) -> None:
        worked = False
        while True:
            with self._changed:
                called = self._changed.wait_for(
                    lambda: self._waiting is not None or self._closed, RESTED if worked else None
                )
                if called and self._waiting is None:
                    return
                request = self._running = self._waiting
                self._waiting = None
            if request is None:
                give_back()
                worked = False
                continue
            worked = True
            try:
                request.job(request.cancel)
            except BaseException as error:
                self._report(request, error)
            # an idle thread must not keep alive what the job was bound to
            del request
            with self._changed:
                self._running = None
                self._changed.notify_all()


class Pace:
    """Lets something happen at most so often, the first time at once."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last: float | None = None

    def due(self) -> bool:
        """Whether `seconds` have passed since this was last True."""
        now = self._clock()
        if self._last is not None and now - self._last < self._seconds:
            return False
        self._last = now
        return True
