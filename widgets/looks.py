"""One look at a recipe: its heading and button, how far it is, what it found, and of which recipe that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from widgets.agreement_matrix import matrix_view
from widgets.formatting import count
from widgets.heat_map import sweep_view
from widgets.interaction import interaction_view
from widgets.speed_rows import agreement_view, layers_view, timing_view
from widgets.waterfall import share_done, waterfall_view
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
    "confusion": ("Where student and teacher differ", "What one answers where the other answers what.", "Compare"),
    "interaction": ("Where the loss comes from", "Each lever of the recipe alone, and all together.", "Take apart"),
}  # fmt: skip
"""Of each look: its heading, what it does, and its button."""


UNTIMED = ("confusion", "interaction")
"""Looks whose findings do not depend on what runs."""
UNCLOCKED = (*UNTIMED, "agreement")
"""And on how fast."""


def section_view(
    kind: str,
    finding: Finding | None,
    recipe: Recipe,
    looking: tuple[str, ...],
    *,
    clocking: bool = True,
    why: str = "",
) -> dict[str, Any]:
    """The picture of one look.

    Args:
        kind: Which.
        finding: What is known, of this recipe or an earlier one.
        recipe: The one on the screen.
        looking: What is being looked at, and what waits.
        clocking: Whether the first of these has begun.
        why: The reason why this cannot be looked at; empty where it can.
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
        "why": why,
        "state": state,
        "working": said,
        "share": _share(kind, result) if working and mine and looking[0] == kind else 0.0,
        "remark": "" if finding is None or result is None else _of(kind, finding, stopped=stopped),
        "reason": finding.reason if finding is not None and mine else "",
        "timed": kind not in UNCLOCKED,
        "warnings": list(getattr(result, "disturbances", ())),
        "notes": [note for note in (*getattr(result, "notes", ()), getattr(result, "note", None)) if note],
        "body": _body(kind, result) if result is not None else _blank(kind, recipe) if working else None,
    }


VIEWS = {
    "waterfall": waterfall_view,
    "layers": layers_view,
    "timing": timing_view,
    "agreement": agreement_view,
    "confusion": matrix_view,
    "interaction": interaction_view,
}
"""The picture of what each look found; a sweep's also depends on the machine."""


def _body(kind: str, result: Any) -> dict[str, Any]:
    if kind == "sweep":
        return sweep_view(result, sorted({1, cores()}))
    return VIEWS[kind](result)


def _blank(kind: str, recipe: Recipe) -> Any:
    """The place that is kept for what is to come, where its size is known."""
    if kind == "waterfall":
        return _body(kind, Waterfall(recipe=recipe, stage="preparing"))
    return _body(kind, Sweep(recipe=recipe, stage="preparing")) if kind == "sweep" else None


def _of(kind: str, finding: Finding, *, stopped: bool) -> str:
    if kind in UNTIMED:
        return f"{finding.recipe.label} · stopped" if stopped else finding.recipe.label
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
