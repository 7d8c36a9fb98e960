"""What was measured, in a file, so that a stopped run goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.files import write_atomically


class Kept:
    """JSON values by key."""

    def __init__(self, file: Path) -> None:
        """
        Args:
            file: Read if it is there, and written after each value.
        """
        self._file = file
        self._known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        file.parent.mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def made(self, key: str, make: Callable[[], Any]) -> Any:
        """The value of a key, from the file or made now."""
        if key not in self._known:
            print(key, file=sys.stderr, flush=True)
            self._known[key] = make()
            write_atomically(self._file, json.dumps(self._known).encode())
        return self._known[key]
