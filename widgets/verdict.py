"""What the numbers mean in a sentence, and the one change that would help most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from widgets.part import Message, Part, source
from workbench.report import Report


def verdict_view(
    report: Report | None, *, stale: bool = False, busy: bool = False, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """The picture of a report's advice and notes, and of what looks wrong with the model itself."""
    if report is None:
        quiet = "Measuring the model as it is…" if busy else "Nothing was measured yet."
        return {
            "verdict": "",
            "reason": quiet,
            "suggestion": "",
            "offer": False,
            "notes": "",
            "warnings": list(warnings),
            "state": "empty",
        }
    advice, notes = report.advice, [note for note in report.remarks if note != report.untimed]  # a problem of its own
    waiting = "Counting; the sentence comes with the last image." if busy else ""
    return {
        "verdict": advice.verdict if advice else "",
        "reason": advice.reason if advice else waiting,
        "suggestion": advice.suggestion if advice else "",
        "offer": advice is not None and advice.recipe is not None,
        "notes": " ".join(note for note in notes if advice is None or note not in advice.reason),
        "warnings": list(warnings),
        "state": "stale" if stale else "final" if advice else "growing",
    }


class Verdict(Part):
    """The sentence under the tiles, with a button that applies its suggestion."""

    _esm = source("verdict.js")
    watches: ClassVar[tuple[str, ...]] = ("report", "stale", "busy", "preflight")
    _said: Report | None = None

    def draw(self) -> dict[str, Any]:
        """The sentence; while a new one is on its way, the last one, greyed."""
        session = self.session
        report, stale = session.report, session.stale
        if report is not None and report.advice is not None:
            self._said = report
        elif report is not None and session.busy and self._said is not None:
            report, stale = self._said, True
        elif report is None:
            self._said = None
        warnings = session.preflight.warnings if session.preflight is not None else ()
        return verdict_view(report, stale=stale, busy=session.busy, warnings=warnings)

    def actions(self) -> dict[str, Any]:
        """``take``: apply the suggestion."""
        return {"take": self._take}

    def _take(self, _: Message) -> None:
        self.session.take_advice()
