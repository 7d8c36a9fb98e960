"""Where a disagreement of what runs and what is simulated starts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workbench.errors import Cancelled
from workbench.exporting.comparing import Run, simulated
from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import LayerSpec

EXAMPLES = 4
"""Differing examples that are looked at."""
SECONDS = 60.0
"""A search that takes longer, of a runtime that compiles for seconds, ends without an answer."""
NOISE = 1e-4
"""Share of the largest output by which floating point kernels that add in another order may differ."""

Prepare = Callable[[Mapping[str, QuantizedLayer]], Run]
"""Makes the network ready to run with these layers on their grids."""


@dataclass(frozen=True)
class Onset:
    """What was found."""

    layer: str | None
    """With all layers before it on their grids both still give the same; None where no layer makes them differ."""
    distance: float | None
    """Largest difference of outputs with the layers up to it on their grids, as a share of the largest output."""
    reason: str = ""


def onset(
    network: Network,
    asked: Mapping[str, LayerSpec],
    examples: Inputs,
    prepare: Prepare,
    cancel: threading.Event | None = None,
) -> Onset:
    """The first layer that makes what runs differ from what is simulated, by bisection.

    Whatever runs, only the layers up to some place are put on their grids, in both; kernels that give the same up
    to there are not where it starts. Works for every runtime, as nothing within what runs has to be looked at.

    Args:
        network: What is simulated.
        asked: How its layers are quantized.
        examples: Some that differ, of one shape.
        prepare: Makes what runs; it must be that of the comparison.
        cancel: Checked before each try.

    Raises:
        Cancelled: `cancel` was set.
    """
    names = [name for name, spec in asked.items() if any(spec)]
    stop = time.monotonic() + SECONDS

    def distance(many: int) -> float:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        kept = upto(asked, names[many - 1] if many else None)
        ours = simulated(network, kept, examples)
        theirs = prepare(network.quantized(kept))(examples).to(ours.dtype)
        return float((theirs - ours).abs().max() / ours.abs().max().clamp(min=1e-30))

    plain = distance(0)
    if plain > NOISE:
        return Onset(
            next(iter(network.layers), None), plain, "Its floating point numbers differ before any layer is quantized."
        )
    allowed = max(NOISE, 10 * plain)
    whole = distance(len(names))
    if whole <= allowed:
        return Onset(None, None, "Two of their outputs are equal but for float rounding, which decides.")
    low, high, found = 0, len(names), whole  # alike with `low` layers, apart with `high`
    while high - low > 1:
        if time.monotonic() > stop:
            return Onset(None, None, f"Where it starts was not found within {SECONDS:g} seconds.")
        middle = (low + high) // 2
        at = distance(middle)
        low, high, found = (middle, high, found) if at <= allowed else (low, middle, at)
    return Onset(names[high - 1], found)


def upto(asked: Mapping[str, LayerSpec], layer: str | None) -> dict[str, LayerSpec]:
    """What is asked of the layers up to one, this one included, and nothing of the others; of none for None."""
    names = list(asked)
    count = 0 if layer is None else names.index(layer) + 1
    return {name: asked[name] if at < count else LayerSpec(None, None) for at, name in enumerate(names)}
