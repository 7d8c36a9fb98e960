"""What measures: the machine and the versions that a number depends on."""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path

import torch

import workbench
from workbench import runtimes


@lru_cache
def environment() -> dict[str, str]:
    """Processor and versions by name."""
    return {
        "workbench": workbench.__version__,
        "processor": _processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **runtimes.versions(),
    }


def environment_key() -> str:
    """All of it in one line: reports of another environment are not taken for this one's."""
    return ", ".join(f"{name} {value}" for name, value in environment().items())


def _processor() -> str:
    """The processor's name; /proc/cpuinfo says more than `platform` on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
