"""From a recipe to the whole numbers of every layer, each made once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from workbench.grid import Grid, QuantizedLayer, whole_bias
from workbench.quantization.calibration import Observation
from workbench.quantization.ranges import grid_over, naive_grid, spanned
from workbench.recipe import Quantization

QUANTIZABLE = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)


class WeightSpec(NamedTuple):
    """All that decides a layer's whole-number weights."""

    layer: str
    bits: int
    method: str
    scheme: str
    granularity: str
    range: str


class ActivationSpec(NamedTuple):
    """All that decides the grid of a layer's input."""

    layer: str
    bits: int
    method: str
    range: str


class LayerSpec(NamedTuple):
    """What a recipe asks of one layer; equal specs give equal numbers."""

    weight: WeightSpec | None
    activation: ActivationSpec | None


def specs(quantization: Quantization, layers: Mapping[str, nn.Module]) -> dict[str, LayerSpec]:
    """What a recipe asks of each layer."""
    q, asked = quantization, {}
    for name in layers:
        weight_bits, activation_bits = q.bits_for(name)
        asked[name] = LayerSpec(
            WeightSpec(name, weight_bits, q.method, q.scheme, q.granularity, q.range) if weight_bits else None,
            ActivationSpec(name, activation_bits, q.method, q.range) if activation_bits else None,
        )
    return asked


class Quantizer:
    """Quantizes the layers of one model, and keeps what it made."""

    def __init__(self, layers: Mapping[str, nn.Module], observations: Mapping[str, Observation]) -> None:
        self.layers = layers
        self.observations = observations
        self._weights: dict[WeightSpec, tuple[Tensor, Grid, Tensor]] = {}
        self._grids: dict[ActivationSpec, Grid] = {}
        self._made: dict[tuple[str, LayerSpec], QuantizedLayer] = {}
        self._parameters: dict[tuple[str, LayerSpec], dict[str, Tensor]] = {}

    @torch.inference_mode()
    def layer(self, name: str, spec: LayerSpec) -> QuantizedLayer:
        """The layer on its grids; the same object for the same spec."""
        if (name, spec) not in self._made:
            weight, grid, _ = self._weight(spec.weight) if spec.weight else (None, None, None)
            activation = self._activation(spec.activation) if spec.activation else None
            bias = self.layers[name].bias
            whole = None
            if isinstance(bias, Tensor) and grid is not None and activation is not None:
                whole = whole_bias(bias.detach(), grid, activation)
            self._made[name, spec] = QuantizedLayer(name, weight, grid, activation, whole)
        return self._made[name, spec]

    @torch.inference_mode()
    def parameters(self, name: str, spec: LayerSpec) -> dict[str, Tensor]:
        """The float32 parameters that take the place of the module's own."""
        if (name, spec) not in self._parameters:
            made = self.layer(name, spec).parameters()
            if spec.weight is not None:
                made["weight"] = self.values(spec.weight)  # one copy for all activation bits
            self._parameters[name, spec] = made
        return self._parameters[name, spec]

    def values(self, spec: WeightSpec) -> Tensor:
        """The float32 values of the whole-number weights, in the layout of the module's weight."""
        return self._weight(spec)[2]

    def sqnr(self, spec: WeightSpec) -> float:
        """Signal to quantization noise of the weights, in dB."""
        weight = _weight_of(self.layers[spec.layer])
        noise = (self.values(spec) - weight).square().sum()
        return float(10 * torch.log10(weight.square().sum() / noise.clamp(min=1e-30)))

    @torch.inference_mode()
    def _weight(self, spec: WeightSpec) -> tuple[Tensor, Grid, Tensor]:
        if spec not in self._weights:
            module = self.layers[spec.layer]
            weight = _weight_of(module)
            grid = _weight_grid(weight, spec, axis=1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0)
            q = grid.quantize(weight)
            self._weights[spec] = (q, grid, grid.dequantize(q))
        return self._weights[spec]

    @torch.inference_mode()
    def _activation(self, spec: ActivationSpec) -> Grid:
        if spec not in self._grids:
            if spec.method == "naive":
                self._grids[spec] = naive_grid(spec.bits)
            else:
                seen = self.observations[spec.layer]
                low, high = spanned(seen.centres[None], seen.counts, spec.bits, "affine", spec.range)
                self._grids[spec] = grid_over(low[0], high[0], spec.bits, "affine")
        return self._grids[spec]


def _weight_of(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)  # noqa: S101 - every quantizable kind has one
    return weight.detach()


def _weight_grid(weight: Tensor, spec: WeightSpec, axis: int) -> Grid:
    if spec.method == "naive":
        return naive_grid(spec.bits)
    if spec.granularity == "tensor":
        low, high = spanned(weight.reshape(1, -1), None, spec.bits, spec.scheme, spec.range)
        return grid_over(low[0], high[0], spec.bits, spec.scheme)
    rows = weight.transpose(0, axis).flatten(1)
    low, high = spanned(rows, None, spec.bits, spec.scheme, spec.range)
    return grid_over(low, high, spec.bits, spec.scheme, axis)
