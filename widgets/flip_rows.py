"""A page of the examples that flip: each as a picture or a text, with both answers and what undoes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from widgets.formatting import count, percent
from widgets.thumbnails import shown

if TYPE_CHECKING:
    from workbench.explaining.flips import Answer, Flip, FlipList
    from workbench.task import Task

ROWS = 12
"""On a page."""
ALL = ""
"""No filter."""
NONE = "–"
"""The filter for flips that no layer undoes alone."""
REMEMBERED = 500


def flips_view(
    flips: FlipList | None, task: Task | None, page: Mapping[str, Any], pictures: dict[Any, dict[str, str]]
) -> dict[str, Any] | None:
    """The picture of a page.

    Args:
        flips: What is known; None where nothing was asked for.
        task: Whose examples they are.
        page: ``kind`` (``lost`` or ``gained``), ``layer`` (one that undoes them, `NONE` or `ALL`) and the place
            ``at`` of its first row.
        pictures: Examples that were shown before, which is added to.
    """
    if flips is None:
        return None
    words = {"lost": "Lost", "gained": "Won"} if flips.metric.counted else {"lost": "Worse", "gained": "Better"}
    totals = {"lost": flips.lost_total, "gained": flips.gained_total}
    kind = page["kind"]
    listed = getattr(flips, kind)
    filters = _filters(listed, complete=flips.complete)
    layer = page["layer"] if any(each["value"] == page["layer"] for each in filters) else ALL
    some = [flip for flip in listed if _passes(flip, layer)]
    at = min(page["at"], max(0, len(some) - 1)) // ROWS * ROWS
    rows = [_row(flip, flips, task, pictures) for flip in some[at : at + ROWS]]
    cut = len(listed) < totals[kind]
    return {
        "title": "Examples that flip" if flips.metric.counted else "Examples that changed most",
        "kind": kind,
        "layer": layer,
        "at": at,
        "size": ROWS,
        "tabs": [{"kind": each, "text": f"{word} {count(totals[each])}"} for each, word in words.items()],
        "filters": filters,
        "counted": flips.metric.counted,
        "rows": rows,
        "total": len(some),
        "where": f"{at + 1}–{at + len(rows)} of {count(len(some))}" if rows else "none",
        "note": f"The list holds {count(len(listed))} of {count(totals[kind])}." if cut else "",
        "complete": flips.complete,
        "sentence": flips.sentence,
    }


def _filters(listed: tuple[Flip, ...], *, complete: bool) -> list[dict[str, str]]:
    """Layers by how many flips they undo, and what none undoes."""
    undone = Counter(name for flip in listed for name in flip.undone_by)
    made = [{"value": ALL, "text": "all layers"}]
    made += [{"value": name, "text": f"{name} ({count(n)})"} for name, n in undone.most_common()]
    alone = sum(not flip.undone_by for flip in listed)
    return [*made, {"value": NONE, "text": f"none alone ({count(alone)})"}] if complete and alone else made


def _passes(flip: Flip, layer: str) -> bool:
    return layer == ALL or (not flip.undone_by if layer == NONE else layer in flip.undone_by)


def _row(flip: Flip, flips: FlipList, task: Task | None, pictures: dict[Any, dict[str, str]]) -> dict[str, Any]:
    by = list(flip.undone_by)
    return {
        "index": flip.index,
        "kind": flip.kind,
        "target": flip.target,
        "fp32": _said(flip.fp32),
        "now": _said(flip.now),
        "right": {"fp32": flip.kind == "lost", "now": flip.kind == "gained"},
        "undone": by[0] if by else flips.undone(flip),
        "more": f"also {', '.join(by[1:])}" if len(by) > 1 else "",
        **picture_of(flip.index, task, pictures),
    }


def _said(answer: Answer) -> dict[str, str]:
    sure = "" if answer.probability is None else str(percent(answer.probability).text.split(".")[0]) + "\u202f%"
    return {"text": answer.text, "sure": sure}


def picture_of(index: int, task: Task | None, pictures: dict[Any, dict[str, str]]) -> dict[str, str]:
    """As `shown`, of an example by its place in the task; what was shown before is looked up."""
    if task is None:
        return {"picture": "", "text": ""}
    key = (id(task), index)
    if key not in pictures:
        if len(pictures) >= REMEMBERED:
            pictures.clear()
        pictures[key] = shown(task.inputs[index : index + 1])
    return pictures[key]
