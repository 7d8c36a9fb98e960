"""How much memory a batch takes: predicted before anything is allocated, and measured where the system tells."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Callable
from pathlib import Path

from workbench.errors import RecipeError

PROC = Path("/proc")


def available() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    found = _available_here()
    with contextlib.suppress(OSError, ValueError):  # a container may have less than the machine
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        found = min(found, limit - used) if found is not None else limit - used
    return found


def _available_here() -> int | None:
    with contextlib.suppress(OSError):
        match = re.search(r"^MemAvailable:\s+(\d+) kB", (PROC / "meminfo").read_text(), re.M)
        if match:
            return int(match[1]) * 1024
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def refuse_beyond(batch: int, fixed: float, each: float, free: int | None) -> None:
    """Stops before a batch that does not fit is made.

    Args:
        batch: Examples.
        fixed: Bytes whatever the batch is: weights.
        each: Bytes for each example: what torch, operator by operator, has at the same time. Runtimes that plan their
            memory ahead take somewhat less.
        free: Bytes that can be had; None lets everything through.

    Raises:
        RecipeError: It does not fit; the largest batch that does is named.
    """
    needed = fixed + each * batch
    if free is None or needed <= free:
        return
    most = int(max(free - fixed, 0) // max(each, 1))
    do = f"The largest batch that fits is {most:,}." if most else "Not even one example fits: free some memory."
    raise RecipeError(
        f"deployment.batch = {batch:,}: it needs about {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free. {do}"
    )


def peak_growth(work: Callable[[], object]) -> int | None:
    """By how much the resident memory of this process grows at most while something is done.

    What other threads of the process take meanwhile counts as well, and memory that it holds already and uses again
    does not.

    Args:
        work: What is done, in any case.

    Returns:
        Bytes; None where the system does not tell (it is Linux that does).
    """
    give_back()  # so that its use is seen as growth
    try:
        (PROC / "self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
    except (OSError, ValueError):
        work()
        return None
    work()
    try:
        return max(0, _status("VmHWM") - before)
    except (OSError, ValueError):
        return None


def give_back() -> None:
    """Return what was freed to the system, where the C library keeps it back (glibc); milliseconds.

    After an export or a calibration it keeps hundreds of megabytes, which thirty kernels on one machine do not have.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", (PROC / "self/status").read_text(), re.M)
    if match is None:
        raise ValueError(f"/proc/self/status has no {field}")
    return int(match[1]) * 1024
