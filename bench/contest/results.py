"""Which examples were right, kept in a file so that a stopped run goes on, and compared pairwise."""

from __future__ import annotations

import base64
import json
import math
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats
from torch import Tensor

from workbench.files import write_atomically


class Result(NamedTuple):
    """One method, prepared with one calibration sample."""

    hits: list[bool] | None
    """Whether each example was right, in the task's order; None where the method has no such setting."""
    seconds: float
    """To prepare: measuring is not counted."""
    note: str = ""


class Kept:
    """Results by key, in a JSON file."""

    def __init__(self, file: Path) -> None:
        """
        Args:
            file: Read if it is there, and written after each result.
        """
        self._file = file
        self._known = json.loads(file.read_text()) if file.exists() else {}
        file.parent.mkdir(parents=True, exist_ok=True)

    def made(self, key: str, make: Callable[[], Result]) -> Result:
        """The result of a key, from the file or made now."""
        if key not in self._known:
            made = make()
            print(f"{key}: {made.note or f'{made.seconds:.1f} s'}", file=sys.stderr, flush=True)
            self._known[key] = {
                "hits": None if made.hits is None else _packed(made.hits),
                "examples": len(made.hits or ()),
                "seconds": made.seconds,
                "note": made.note,
            }
            write_atomically(self._file, json.dumps(self._known).encode())
        return self._result(key)

    def known(self, key: str) -> Result | None:
        """The result of a key, if it was made."""
        return self._result(key) if key in self._known else None

    def _result(self, key: str) -> Result:
        found = self._known[key]
        hits = None if found["hits"] is None else _unpacked(found["hits"], found["examples"])
        return Result(hits, found["seconds"], found["note"])


class Difference(NamedTuple):
    """Points that one method has over another, with its 95 % interval."""

    points: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What may be said of it."""
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "not distinguishable"

    @property
    def standing(self) -> str:
        """Whether one method is best or within its interval of the other, which is the best of all others."""
        if self.points >= 0:
            return "best"
        return "within its interval of best" if self.high >= 0 else "NOT within its interval of best"

    def __str__(self) -> str:
        return f"{self.points:+.2f} [{self.low:+.2f}, {self.high:+.2f}] {self.verdict}"


def difference(ours: list[Result], theirs: list[Result], groups: Tensor | None = None) -> Difference:
    """Paired over the same examples, each averaged over the calibration samples first.

    Args:
        ours: One result a calibration sample.
        theirs: As many.
        groups: Which examples belong together, such as augmentations of one picture, shape (n,): then the groups
            are what is independent. None: every example is.
    """
    pairs = zip(ours, theirs, strict=True)
    each = np.mean([np.subtract(one.hits, other.hits, dtype=float) for one, other in pairs], axis=0)
    if groups is not None:
        each = np.array([each[groups.numpy() == group].mean() for group in groups.unique().numpy()])
    half = stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / math.sqrt(len(each))
    at = float(each.mean())
    return Difference(100 * at, 100 * (at - half), 100 * (at + half))


def _packed(hits: list[bool]) -> str:
    return base64.b64encode(zlib.compress(np.packbits(hits).tobytes())).decode()


def _unpacked(text: str, examples: int) -> list[bool]:
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return np.unpackbits(bits, count=examples).astype(bool).tolist()
