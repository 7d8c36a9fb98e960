"""A network with a recipe in it, as a plain torch module: what `Simulation` computes, without its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workbench.grid import Grid, QuantizedLayer
from workbench.network import Network
from workbench.outputs import selected
from workbench.quantization.finding import ProductMode, storage
from workbench.quantization.simulation import rounded_input
from workbench.twins import twin_with


class Rounded(nn.Module):
    """Takes the model's arguments and returns the output that is measured.

    Weights and biases are float32 numbers on their grids; inputs of layers are rounded by torch's own operators.
    """

    def __init__(self, network: Network, layers: Mapping[str, QuantizedLayer]) -> None:
        """
        Args:
            network: With a torch module; left as it is.
            layers: On their grids; those that are missing stay in fp32.
        """
        super().__init__()
        replaced: dict[str, Tensor] = {}
        for layer in layers.values():
            replaced |= layer.parameters()
        self.model = twin_with(network.module, replaced)
        self._output = network.output
        self._products: dict[int, Rounding] = {}
        parameters = dict(self.model.named_parameters())
        for site, grid in _sites(network, layers).items():
            module = self.model.get_submodule(site)
            # not a module around it: the code that owns it may read its weight
            module.__dict__["forward"] = _Before(module.forward, Rounding(grid))
        for name, layer in layers.items():
            known = network.layers[name]
            if known.functional and layer.activation_grid is not None and known.weight_name in parameters:
                self._products[storage(parameters[known.weight_name])] = Rounding(layer.activation_grid)

    def forward(self, *positional: Any, **named: Any) -> Tensor:
        """The measured output for a batch."""
        if not self._products:
            return selected(self.model(*positional, **named), self._output)

        def hear(_: Any, weight: Tensor, other: Tensor, __: Any) -> Tensor:
            rounding = self._products.get(storage(weight))
            return other if rounding is None else rounding.fake_quantize(other)

        with ProductMode(hear):
            return selected(self.model(*positional, **named), self._output)


class Rounding:
    """`Grid.fake_quantize` of a grid with one scale, in operators that every exporter knows."""

    def __init__(self, grid: Grid) -> None:
        """
        Args:
            grid: Of an activation: one scale, every whole number.
        """
        zero = int(grid.zero_point)
        # float32 numbers are float64 numbers as well, so these scalars are the tensors' own values
        self._scale, self._inverse = float(grid.scale), float(grid.scale.reciprocal())
        self._low, self._high = grid.quant_min - zero, grid.quant_max - zero

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Each value moved to the nearest point of the grid."""
        return torch.clamp(torch.round(x * self._inverse), self._low, self._high) * self._scale


class _Before:
    """A forward that rounds its input first."""

    def __init__(self, forward: Callable[..., Any], rounding: Rounding) -> None:
        self._forward = forward
        self._rounding = rounding

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = rounded_input(args, kwargs, self._rounding)
        return self._forward(*args, **kwargs)


def _sites(network: Network, layers: Mapping[str, QuantizedLayer]) -> dict[str, Grid]:
    """The grid of each module's input; of several layers in one module, the first one's, as in the simulation."""
    found: dict[str, Grid] = {}
    for name, layer in network.layers.items():
        grid = layers[name].activation_grid if name in layers else None
        for site in layer.sites if grid is not None else ():
            found.setdefault(site, grid)  # type: ignore[arg-type]
    return found
