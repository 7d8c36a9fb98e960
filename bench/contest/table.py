"""A table of methods by settings, and who is best in each row."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from contest.results import Result, difference

WITHIN = 0.5
"""Points that the worst calibration sample may lie below the mean."""
NAME, CELL = 42, 25


class Target(NamedTuple):
    """What a setting is to reach."""

    points: float
    """Against fp32."""
    seconds: float


class Table:
    """Results of several calibration samples."""

    def __init__(
        self,
        title: str,
        settings: Sequence[str],
        fp32: Sequence[bool],
        recommended: Sequence[str],
        *,
        targets: Sequence[Target | None] = (),
        groups: Tensor | None = None,
    ) -> None:
        """
        Args:
            title: Above it.
            settings: Columns.
            fp32: What the network in fp32 has right.
            recommended: Which methods of ours are judged, declared beforehand.
            targets: One a setting.
            groups: See `difference`.
        """
        self._title, self._settings, self._fp32 = title, settings, fp32
        self._recommended, self._targets, self._groups = recommended, targets or [None] * len(settings), groups
        self._found: dict[tuple[str, str], list[Result]] = {}
        self._peers: list[str] = []
        self._names: list[str] = []

    def add(self, name: str, setting: str, result: Result, *, peer: bool) -> None:
        """Take in the result of one more calibration sample."""
        if name not in self._names:
            self._names.append(name)
            if peer:
                self._peers.append(name)
        self._found.setdefault((name, setting), []).append(result)

    def print(self) -> None:
        """All methods, then a verdict for each setting."""
        samples = max(len(results) for results in self._found.values())
        print(f"\n{self._title}")
        print(f"Points against fp32: mean (worst) of {samples} calibration sample(s), then seconds to prepare\n")
        print(f"{'':{NAME}}" + "".join(f"{setting:>{CELL}}" for setting in self._settings))
        if any(self._targets):
            texts = [f"{t.points:.2f}{'':8}{f'<= {t.seconds:g} s':>7}" if t else "" for t in self._targets]
            print(f"{'target':{NAME}}" + "".join(f"{text:>{CELL}}" for text in texts))
        for name in self._names:
            cells = "".join(f"{self._cell(name, setting):>{CELL}}" for setting in self._settings)
            results = [r for setting in self._settings for r in self._found.get((name, setting), ())]
            notes = dict.fromkeys(result.note for result in results if result.note)
            print(f"{name:{NAME}}{cells}" + "".join(f"  {note}" for note in notes))
        print()
        for setting, target in zip(self._settings, self._targets, strict=True):
            self._judge(setting, target)

    def _points(self, results: list[Result]) -> list[float]:
        return [100 * (sum(r.hits) - sum(self._fp32)) / len(self._fp32) for r in results if r.hits is not None]

    def _cell(self, name: str, setting: str) -> str:
        results = self._found.get((name, setting), [])
        points = self._points(results)
        if not points or len(points) < len(results):
            return "-"
        seconds = statistics.mean(result.seconds for result in results)
        return f"{statistics.mean(points):.2f} ({min(points):.2f}) {seconds:6.1f}"

    def _judge(self, setting: str, target: Target | None) -> None:
        complete = {
            name: self._found[name, setting]
            for name in self._names
            if (name, setting) in self._found and all(r.hits is not None for r in self._found[name, setting])
        }
        peers = {name: results for name, results in complete.items() if name in self._peers}
        best = max(peers, key=lambda name: statistics.mean(self._points(peers[name])), default=None)
        for name in self._recommended:
            if name not in complete:
                continue
            points = self._points(complete[name])
            seconds = statistics.mean(result.seconds for result in complete[name])
            parts = [f"{setting}, ours ({name})"]
            if best is not None:
                found = difference(complete[name], peers[best], self._groups)
                parts += [f"against {best}: {found}", found.standing]
            else:
                parts.append("no peer has this setting")
            if target is not None:
                reached = statistics.mean(points) >= target.points
                steady = min(points) >= statistics.mean(points) - WITHIN
                in_time = seconds <= target.seconds
                parts.append(
                    f"target {'reached' if reached else 'missed'}, worst "
                    f"{'within' if steady else 'not within'} {WITHIN}, {'' if in_time else 'not '}in time"
                )
            print("; ".join(parts))
