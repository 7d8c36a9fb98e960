"""Which share of its channels each layer of a narrower student keeps."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.distillation.ties import Ties
from workbench.errors import WorkbenchError, nearest
from workbench.recipe import Quantization

FIXED = "output is the model's, or added to it or to the model's input"


def shares_of(tied: Ties, width: float, layers: Mapping[str, float]) -> dict[str, float]:
    """The share of the channels that each layer keeps.

    Args:
        tied: Which layers have to agree, and which are fixed.
        width: Of all layers that nothing else is said of.
        layers: By name or wildcard; an exact name wins, then the longest wildcard.

    Raises:
        WorkbenchError: No layer of a name can be made narrower, or layers that have to agree would not.
    """
    free = [name for name in tied.sets if name not in tied.fixed]
    own: dict[str, float] = {}
    for pattern in sorted(layers, key=lambda p: (p in tied.sets, len(p), p)):
        if pattern in tied.fixed:
            raise WorkbenchError(f"layers: {pattern} keeps its width (its {FIXED}). Leave it out.")
        named = [name for name in free if Quantization.matches(pattern, name)]
        if not named:
            raise WorkbenchError(f"layers: no layer {pattern!r} can be made narrower. {nearest(pattern, free)}")
        own |= dict.fromkeys(named, layers[pattern])
    of_sets: dict[int, str] = {}
    for name, share in own.items():
        other = of_sets.setdefault(tied.sets[name], name)
        if own[other] != share:
            raise WorkbenchError(
                f"layers: the outputs of {other} and {name} meet, so that both need the same width; "
                f"these are {own[other]:g} and {share:g}."
            )
    return {name: own[of_sets[number]] if number in of_sets else width for name, number in tied.sets.items()}


def why_kept(fixed: bool, share: float) -> str:
    """Why a layer has as many channels as before."""
    if fixed:
        return FIXED
    return "asked to keep the width" if share == 1 else "too few channels to lose one at this width"
