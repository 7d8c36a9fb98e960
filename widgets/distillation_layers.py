"""Single layers of a student: how wide each is, and from which of the teacher's it learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from widgets.choices import choices_view
from widgets.distillation_words import SHARES
from widgets.formatting import count

if TYPE_CHECKING:
    from widgets.distilling import Sketch
    from workbench.recipe import Distillation

AS_ALL = "as all"


def paired(settings: Distillation, sketch: Sketch | None) -> dict[str, str]:
    """Layers of the student and the teacher's from which they learn: those that were chosen, else as proposed."""
    if settings.features is None:
        return {}
    return dict(settings.features.pairs or (sketch.pairs if sketch is not None else {}))


def pairs_view(settings: Distillation, sketch: Sketch | None, disabled: bool) -> dict[str, Any]:
    """A row of two drop-downs for each pair; the next pair that could be added is the first that is free."""
    pairs = paired(settings, sketch)
    info = sketch.info if sketch is not None else None
    ours, theirs = (info.layers, info.teacher_layers) if info is not None else ({}, {})
    free = [name for name in ours if name not in pairs]
    return {
        "hidden": settings.features is None,
        "own": bool(settings.features and settings.features.pairs),
        "rows": [
            {
                "name": mine,
                "student": _layers_view(mine, ours, disabled, taken=[name for name in pairs if name != mine]),
                "teacher": _layers_view(other, theirs, disabled),
            }
            for mine, other in pairs.items()
        ],
        "next": {"student": free[-1], "teacher": _alike(ours[free[-1]], theirs)} if free and theirs else None,
        "disabled": disabled,
    }


def _layers_view(
    value: str, layers: Mapping[str, Sequence[int]], disabled: bool, taken: Sequence[str] = ()
) -> dict[str, Any]:
    """A drop-down of layers with their shapes; one that is not among them is shown by its name."""
    texts = {name: f"{name} · {'×'.join(map(str, shape))}" for name, shape in layers.items()}
    view = choices_view(value, {value: value} | texts if value not in texts else texts, disabled, ordered=False)
    for option in view["options"]:
        option["disabled"] = option["value"] in taken
    return view


def _alike(shape: Sequence[int], layers: Mapping[str, Sequence[int]]) -> str:
    """The last layer with the same positions, or at least as many dimensions; else the last one."""
    alike = [name for name, other in layers.items() if list(other[1:]) == list(shape[1:])]
    alike = alike or [name for name, other in layers.items() if len(other) == len(shape)]
    return (alike or list(layers))[-1]


def widths_view(settings: Distillation, sketch: Sketch | None, disabled: bool) -> dict[str, Any]:
    """A layer to choose, and its share of the model's channels; in a line those that have one of their own."""
    possible = settings.student is None and settings.form == "width"
    info = sketch.info if sketch is not None else None
    channels = info.channels if info is not None else {}
    own = settings.layers
    shares = {None: AS_ALL} | {share: SHARES.get(share, f"×{share:g}") for share in sorted({*SHARES, *own.values()})}
    names = [*channels, *(name for name in own if name not in channels)]
    return {
        "hidden": not possible or not names,
        "layers": [{"value": name, "text": _named(name, channels), "share": own.get(name)} for name in names],
        "shares": [{"value": share, "text": text, "disabled": False} for share, text in shares.items()],
        "line": ", ".join(f"{name} {shares[share]}" for name, share in own.items()),
        "disabled": disabled,
    }


def _named(name: str, channels: Mapping[str, tuple[int, int]]) -> str:
    if name not in channels:
        return name
    ours, theirs = channels[name]
    return f"{name} · {count(ours)} of {count(theirs)}"
