"""A network that learns while its layers lie on grids."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from workbench.finetuning.lsq import TrainedGrid, straight_through
from workbench.grid import QuantizedLayer, whole_bias
from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.quantization.finding import ProductMode, storage
from workbench.quantization.simulation import rounded_input
from workbench.tracing import running

Slot = tuple[str, str, int]
"""A grid's place: layer, ``weight`` or ``activation``, bits."""
Widths = Mapping[str, tuple[int | None, int | None]]
"""Weight and activation bits of each layer."""


class Twin(nn.Module):
    """A copy of a network whose weights, biases and steps are parameters.

    It computes what `Simulation` computes of the same weights and grids. The copy stays in evaluation mode: it is
    trained as it will run, statistics of norms and all.
    """

    def __init__(self, module: nn.Module, layers: Mapping[str, Layer], grids: Mapping[Slot, TrainedGrid]) -> None:
        """
        Args:
            module: In evaluation mode; copied.
            layers: Those that lie on grids, by name.
            grids: For all bits that they are asked for.
        """
        super().__init__()
        with torch.inference_mode(False):
            self.module = copy.deepcopy(module).eval()
        for parameter in self.module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        self.grids = nn.ModuleList(grids.values())
        self.held = dict(grids)
        self._layers = dict(layers)
        self.shapes = {name: layer.shape for name, layer in layers.items()}
        self._own = dict(self.module.named_parameters(remove_duplicate=False))
        self._rounded: dict[str, TrainedGrid] = {}
        """By module: what takes its input in this run."""
        sites = dict.fromkeys(site for layer in layers.values() for site in layer.sites)
        for site in sites:
            self.module.get_submodule(site).register_forward_pre_hook(self._hook(site), prepend=True, with_kwargs=True)

    def forward(self, inputs: Inputs, widths: Widths) -> Any:
        """What the model returns for a batch.

        Args:
            inputs: The batch.
            widths: Bits of the layers.
        """
        parameters: dict[str, Tensor] = {}
        heard: dict[int, TrainedGrid] = {}
        self._rounded.clear()
        for name, layer in self._layers.items():
            weight_bits, activation_bits = widths[name]
            arriving = self.held.get((name, "activation", activation_bits)) if activation_bits else None
            weight = self._own.get(layer.weight_name)
            if weight is not None and weight_bits:
                grid = self.held[name, "weight", weight_bits]
                parameters[layer.weight_name] = grid.fake_quantize(weight)
                if layer.bias is not None and arriving is not None and grid.made().integer:
                    parameters[layer.bias_name] = self._bias(layer, grid, arriving)
            if arriving is not None:
                for site in layer.sites:
                    self._rounded.setdefault(site, arriving)
                if layer.functional and weight is not None:
                    heard[storage(parameters.get(layer.weight_name, weight))] = arriving

        def call(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.module, parameters, args, kwargs)

        def hear(_: Any, weight: Tensor, other: Tensor, __: Any) -> Tensor:
            grid = heard.get(storage(weight))
            return other if grid is None else grid.fake_quantize(other)

        with running():
            if not heard:
                return inputs.call(call)
            with ProductMode(hear):
                return inputs.call(call)

    def parts(self) -> dict[str, Tensor]:
        """Everything that learns, by name: tensors that are not copies."""
        return {name: parameter.data for name, parameter in self.named_parameters() if parameter.requires_grad}

    def weights(self) -> dict[str, Tensor]:
        """A copy of what takes the place of the model's own parameters, by their names in its state."""
        return {name: parameter.detach().clone() for name, parameter in self.module.named_parameters()}

    def learning(self) -> tuple[Sequence[nn.Parameter], Sequence[nn.Parameter]]:
        """Weights and the like, and the logarithms of steps."""
        weights = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        return weights, list(self.grids.parameters())

    def _bias(self, layer: Layer, weight_grid: TrainedGrid, activation_grid: TrainedGrid) -> Tensor:
        """Where weights and activations are whole numbers, the bias is one as well."""
        grids: Any = weight_grid.made(), activation_grid.made()

        def whole(bias: Tensor) -> Tensor:
            made = QuantizedLayer(
                layer.name, weight_grid=grids[0], activation_grid=grids[1], bias=whole_bias(bias.detach(), *grids)
            )
            return made.bias_values()

        return straight_through(self._own[layer.bias_name], whole)

    def _hook(self, site: str) -> Any:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if isinstance(module, nn.RNNBase):  # it reads its weights from a list of its own
                module.__dict__["_flat_weights"] = [getattr(module, name) for name in module._flat_weights_names]
            grid = self._rounded.get(site)
            return None if grid is None else rounded_input(args, kwargs, grid)

        return before


@torch.no_grad()
def restore(twin: Twin, parts: Mapping[str, Tensor]) -> None:
    """Give a twin the numbers that another one had.

    Raises:
        KeyError: One is missing.
        ValueError: One has another shape.
    """
    for name, held in twin.parts().items():
        if held.shape != parts[name].shape:
            raise ValueError(f"{name} has shape {tuple(parts[name].shape)} in the place of {tuple(held.shape)}")
        held.copy_(parts[name])
