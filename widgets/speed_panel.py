"""Where the time goes: what each lever brings, which runtime wins, seconds of each layer, and how sure all that is."""

from __future__ import annotations

from typing import Any, ClassVar

from widgets.looks import section_view
from widgets.part import Message, Part, source, text_of
from workbench.errors import WorkbenchError

SHOWN = ("waterfall", "sweep", "layers", "timing", "agreement")
"""Of `TITLES`, those that are about speed."""


class SpeedPanel(Part):
    """Five looks at the speed of the recipe on the screen, each with one button, its progress and a way to end it."""

    _esm = source("looks.js", "speed_rows.js", "waterfall.js", "heat_map.js", "speed_panel.js")
    watches: ClassVar[tuple[str, ...]] = ("recipe", "model", "findings", "looking", "clocking")

    def draw(self) -> dict[str, Any]:
        """What was found out; what belongs to an earlier recipe is greyed."""
        session = self.session
        findings, looking = session.findings, session.looking
        return {
            "model": session.model,
            "sections": [
                section_view(kind, findings.get(kind), session.recipe, looking, clocking=session.clocking)
                for kind in SHOWN
            ],
        }

    def actions(self) -> dict[str, Any]:
        """What the browser may ask for.

        ``look`` at a ``kind``; ``stop`` that ``kind``; ``use`` a ``runtime``, ``batch`` and ``threads`` of the sweep.
        """
        return {
            "look": lambda message: self.session.look(text_of(message, "kind")),
            "stop": lambda message: self.session.stop_looking(text_of(message, "kind")),
            "use": self._use,
        }

    def _use(self, message: Message) -> None:
        wanted = (message.get("runtime"), message.get("batch"), message.get("threads"))
        swept = self.session.findings.get("sweep")
        cells = swept.result.cells if swept is not None else ()
        if wanted not in [(cell.runtime, cell.batch, cell.threads) for cell in cells if cell.latency]:
            raise WorkbenchError(f"{wanted!r:.80} was not swept; try all runtimes first.")
        self.session.update(**dict(zip(("runtime", "batch", "threads"), wanted, strict=True)))
