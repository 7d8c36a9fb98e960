"""Where the time goes: what each lever brings, which runtime wins, seconds of each layer, and how sure all that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from widgets.formatting import count
from widgets.heat_map import sweep_view
from widgets.part import Message, Part, source, text_of
from widgets.speed_rows import agreement_view, layers_view, timing_view
from widgets.waterfall import share_done, waterfall_view
from workbench.errors import WorkbenchError
from workbench.speed import Sweep, Waterfall
from workbench.speed.disturbances import cores

if TYPE_CHECKING:
    from widgets.clocking import Finding
    from workbench.recipe import Recipe

TITLES: dict[str, tuple[str, str, str]] = {
    "waterfall": ("What makes it faster", "From plain PyTorch to this recipe, lever by lever.", "Take apart"),
    "sweep": ("Which runtime wins", "Every runtime at three batches, on one core and on all.", "Try all"),
    "layers": ("Seconds of each layer", "By the runtime’s own profiler.", "Profile"),
    "timing": ("How far to believe it", "Slowest calls, loading, memory, and the machine’s noise.", "Time in detail"),
    "agreement": ("Does it run as simulated", "Its answers beside the simulation’s, on every example.", "Compare"),
}  # fmt: skip
"""Of each look: its heading, what it does, and its button."""


def section_view(
    kind: str, finding: Finding | None, recipe: Recipe, looking: tuple[str, ...], *, clocking: bool = True
) -> dict[str, Any]:
    """The picture of one look.

    Args:
        kind: Which.
        finding: What is known, of this recipe or an earlier one.
        recipe: The one on the screen.
        looking: What is being looked at, and what waits.
        clocking: Whether the first of these has begun.
    """
    title, about, verb = TITLES[kind]
    working, mine = kind in looking, finding is not None and finding.recipe == recipe
    result = finding.result if finding is not None else None
    stale = finding is not None and not mine
    state = "empty" if result is None else "stale" if stale else "growing" if working else "final"
    said = ""
    if working:
        said = _progress(kind, result if mine else None) if looking[0] == kind and clocking else "Waits…"
        if looking[0] == kind and not clocking:
            said = "Waits until the machine is quiet…"
    stopped = mine and finding is not None and not finding.done and not working
    return {
        "kind": kind,
        "title": title,
        "about": about,
        "ask": verb if result is None or stale else "Again",
        "go": result is None or stale,
        "state": state,
        "working": said,
        "share": _share(kind, result) if working and mine and looking[0] == kind else 0.0,
        "remark": "" if finding is None or result is None else _of(finding, stopped=stopped),
        "reason": finding.reason if finding is not None and mine else "",
        "warnings": list(getattr(result, "disturbances", ())),
        "notes": [note for note in (*getattr(result, "notes", ()), getattr(result, "note", None)) if note],
        "body": _body(kind, result) if result is not None else _blank(kind, recipe) if working else None,
    }


def _body(kind: str, result: Any) -> dict[str, Any]:
    if kind == "sweep":
        return sweep_view(result, sorted({1, cores()}))
    views = {"waterfall": waterfall_view, "layers": layers_view, "timing": timing_view, "agreement": agreement_view}
    return views[kind](result)


def _blank(kind: str, recipe: Recipe) -> Any:
    """The place that is kept for what is to come, where its size is known."""
    if kind == "waterfall":
        return _body(kind, Waterfall(recipe=recipe, stage="preparing"))
    return _body(kind, Sweep(recipe=recipe, stage="preparing")) if kind == "sweep" else None


def _of(finding: Finding, *, stopped: bool) -> str:
    deployment = finding.recipe.deployment
    threads = "1 thread" if deployment.threads == 1 else f"{deployment.threads} threads"
    text = f"{finding.recipe.label} · {deployment.runtime} · batch {count(deployment.batch)} · {threads}"
    doubtful = " · ▲ disturbed" if getattr(finding.result, "disturbances", ()) else ""
    return f"{text} · stopped" if stopped else f"{text}{doubtful}"


def _progress(kind: str, result: Any) -> str:
    if kind == "agreement" and result is not None:
        compared = result.examples < result.total
        return f"{count(result.examples)} of {count(result.total)} examples" if compared else "Looking where it starts…"
    stage = getattr(result, "stage", "")
    return f"{stage}…" if stage else "Preparing…"


def _share(kind: str, result: Any) -> float:
    if kind == "waterfall":
        return round(share_done(result), 3)
    if kind == "sweep":
        return round(len(result.cells) / max(1, result.total), 3)
    if kind == "agreement":
        return round(result.examples / max(1, result.total), 3)
    return 0.5


class SpeedPanel(Part):
    """Five looks at the speed of the recipe on the screen, each with one button, its progress and a way to end it."""

    _esm = source("speed_rows.js", "waterfall.js", "heat_map.js", "speed_panel.js")
    watches: ClassVar[tuple[str, ...]] = ("recipe", "model", "findings", "looking", "clocking")

    def draw(self) -> dict[str, Any]:
        """What was found out; what belongs to an earlier recipe is greyed."""
        session = self.session
        findings, looking = session.findings, session.looking
        return {
            "model": session.model,
            "sections": [
                section_view(kind, findings.get(kind), session.recipe, looking, clocking=session.clocking)
                for kind in TITLES
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
