"""Whether a disagreement is a tie: a value in the middle between two grid points, rounded to the other one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from workbench.grid import Grid
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.outputs import selected
from workbench.quantization.quantizer import LayerSpec
from workbench.quantization.simulation import Replacement

NEAR = 1e-3
"""Steps from the middle within which sums in another order can land on the other side."""
TRIED = 16
"""Values that are tried, the nearest ones first."""


class Undecided:
    """A grid on which some values that lie in the middle between two points go to the other one."""

    def __init__(self, grid: Grid) -> None:
        """
        Args:
            grid: With one scale.
        """
        self._grid = grid
        self.other: tuple[int, ...] = ()
        """Places, in the flattened input, of the values that go to the other point."""
        self.near: tuple[int, ...] = ()
        """Places of the values nearest to a middle, the nearest first; known after a run."""
        self.distances: tuple[float, ...] = ()
        """Theirs to the middle, in steps."""

    def fake_quantize(self, x: Tensor) -> Tensor:
        """See `Grid.fake_quantize`."""
        made = self._grid.fake_quantize(x)
        place = (x / self._grid.scale).reshape(-1)
        beyond = place - place.floor() - 0.5  # from the middle, in steps
        nearest = beyond.abs().topk(min(TRIED, len(beyond)), largest=False)
        self.near = tuple(nearest.indices[nearest.values < NEAR].tolist())
        self.distances = tuple(nearest.values[nearest.values < NEAR].tolist())
        if self.other:
            at = list(self.other)
            lower, upper = place[at].floor() * self._grid.scale, place[at].ceil() * self._grid.scale
            flat = made.reshape(-1).clone()
            flat[at] = torch.where((flat[at] - lower).abs() < (flat[at] - upper).abs(), upper, lower)
            made = flat.reshape(x.shape)
        return made


@torch.inference_mode()
def tie(
    network: Network, asked: Mapping[str, LayerSpec], layer: str, example: Inputs, theirs: Tensor, allowed: float
) -> str:
    """A sentence if rounding some values at a layer's input the other way explains what ran; else nothing.

    Args:
        network: What is simulated.
        asked: How its layers are quantized.
        layer: At whose input the disagreement starts.
        example: One, a batch of itself.
        theirs: What ran gave for it.
        allowed: The difference of outputs that floats alone make.
    """
    spec = asked[layer]
    sites = network.layers[layer].sites
    grid = network.quantizer.activation_grid(spec.activation) if spec.activation else None
    if network.graph_only or grid is None or len(sites) != 1:
        return ""
    rounding = Undecided(grid)
    found = network.quantizer.parameters(layer, spec)
    own = {name.rpartition(".")[2]: value for name, value in found.items()}
    replaced = {sites[0]: Replacement(network.module.get_submodule(sites[0]), lambda: own, rounding)}

    def distance(other: tuple[int, ...]) -> float:
        rounding.other = other
        stages = network.simulation.stages
        whole = network.simulation.run_part(stages, example.channels_last(), None, asked, replaced)
        return float((selected(whole, network.output) - theirs).abs().max())

    chosen: tuple[int, ...] = ()
    best = distance(chosen)
    near, distances = rounding.near, rounding.distances
    for place in near:
        if best <= allowed:
            break
        at = distance((*chosen, place))
        if at < best:
            best, chosen = at, (*chosen, place)
    if best > allowed or not chosen:
        return ""
    steps = max(distances[near.index(place)] for place in chosen)
    one = len(chosen) == 1
    values = f"{'one value' if one else f'{len(chosen)} values'} at its input lie{'s' * one}"
    return (
        f"A tie in rounding: {values} {f'within {steps:.1e} of a step from' if steps else 'exactly in'} the middle "
        "between two grid points, and sums in another order round to the other one."
    )
