"""Processes of our own interpreter that work for this one: started when needed, kept for a while, never left behind.

A helper reads lines from its input and answers in lines. Its input ends when this process does, and then it ends too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

IDLE_SECONDS = 20.0
"""Then a helper, which takes as much memory as torch does, is ended."""


class Helpers:
    """Processes that run one piece of code; who needs one gets one to itself."""

    def __init__(self, code: str) -> None:
        """
        Args:
            code: What a process runs, as after ``python -c``.
        """
        self._code = code
        self._resting: list[tuple[subprocess.Popen[str], threading.Timer]] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one(self) -> Iterator[subprocess.Popen[str]]:
        """A process with pipes of text for input and output, ended if it is left by an exception."""
        process = self._awake() or _started(self._code)
        try:
            yield process
        except BaseException:
            end(process)  # it is in the middle of something
            raise
        self._rest(process)

    def warm(self) -> None:
        """Have one started, so that it is there when it is needed."""
        process = self._awake() or _started(self._code)
        self._rest(process)

    def _awake(self) -> subprocess.Popen[str] | None:
        with self._lock:
            while self._resting:
                process, timer = self._resting.pop()
                timer.cancel()
                if process.poll() is None:
                    return process
        return None

    def _rest(self, process: subprocess.Popen[str]) -> None:
        timer = threading.Timer(IDLE_SECONDS, self._retire, (process,))
        timer.daemon = True
        with self._lock:
            self._resting.append((process, timer))
        timer.start()

    def _retire(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            before = len(self._resting)
            self._resting = [each for each in self._resting if each[0] is not process]
            if len(self._resting) == before:  # it was woken up in this moment
                return
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process and those that it started."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)  # compilers start processes of their own
        else:
            process.kill()
    process.wait()


def ending(process: subprocess.Popen[str]) -> str:
    """How a process ended: ``SIGKILL``, or ``code 1``."""
    code = process.wait()
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"code {code}"


def search_paths() -> list[str]:
    """Where modules are found here, whatever the folder of another process."""
    return [str(Path(path).absolute()) for path in sys.path]


def answers() -> TextIO:
    """In a helper: where it answers. What libraries print goes elsewhere, and a crash leaves no core file."""
    with contextlib.suppress(ImportError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    opened = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return opened


def _started(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter and code
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search_paths())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
