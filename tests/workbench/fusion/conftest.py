from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "levers"))
from in_this_process import trained_here

__all__ = ["trained_here"]
