"""Scripts that print figures are run by hand: what they import has to be there all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"
LOADED = """
import runpy, sys
for script in sys.argv[1:]:
    print(script, file=sys.stderr)  # the last one before a traceback is the one that failed
    runpy.run_path(script)
"""


def test_every_script_finds_what_it_imports() -> None:
    """In a process of their own, where nothing that another test imported is there."""
    scripts = sorted(map(str, BENCH.glob("*.py")))
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(BENCH)!r}){LOADED}", *scripts]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
