"""From a recipe to the whole numbers of every layer, each made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.grid import Grid, QuantizedLayer, whole_bias
from workbench.layers import Layer
from workbench.quantization.calibration import Observation
from workbench.quantization.ranges import grid_over, naive_grid, spanned
from workbench.recipe import Quantization
from workbench.remembered import Remembered

FLOAT_BYTES = 192 * 2**20
"""Memory for rounded weights in float32. A larger model has them made again when they are needed."""
TINY = 1e-30
WHOLE_BYTES = 256 * 2**20
"""Memory for whole-number weights of several recipes."""


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


def specs(quantization: Quantization, layers: Mapping[str, Layer]) -> dict[str, LayerSpec]:
    """What a recipe asks of each layer that can follow it."""
    q, asked = quantization, {}
    for name, layer in layers.items():
        weight_bits, activation_bits = q.bits_for(name, common=not layer.by_name_only)
        weight_bits = None if layer.weights else weight_bits
        activation_bits = None if layer.activations else activation_bits
        granularity = q.granularity if layer.axis is not None else "tensor"
        asked[name] = LayerSpec(
            WeightSpec(name, weight_bits, q.method, q.scheme, granularity, q.range) if weight_bits else None,
            ActivationSpec(name, activation_bits, q.method, q.range) if activation_bits else None,
        )
    return asked


class Quantizer:
    """Quantizes the layers of one model, and keeps what it made."""

    def __init__(self, layers: Mapping[str, Layer], observations: Callable[[], Mapping[str, Observation]]) -> None:
        """
        Args:
            layers: By name.
            observations: Gives what arrives at each layer; asked when a first activation is put on a grid.
        """
        self.layers = layers
        self._observe = observations
        self._whole = Remembered(WHOLE_BYTES)
        self._floats = Remembered(FLOAT_BYTES)
        self._weight_grids: dict[WeightSpec, Grid] = {}
        self._activation_grids: dict[ActivationSpec, Grid | None] = {}
        self._biases: dict[tuple[str, LayerSpec], Tensor] = {}
        self._bias_values: dict[tuple[str, LayerSpec], Tensor] = {}
        self._noise: dict[WeightSpec, float] = {}

    @cached_property
    def observations(self) -> Mapping[str, Observation]:
        """What arrives at each layer."""
        return self._observe()

    @torch.inference_mode()
    def layer(self, name: str, spec: LayerSpec) -> QuantizedLayer:
        """The layer on its grids."""
        layer = self.layers[name]
        weight, grid = self._weight(spec.weight) if spec.weight else (None, None)
        activation = self.activation_grid(spec.activation) if spec.activation else None
        bias = self._bias(name, spec) if grid is not None and activation is not None else None
        return QuantizedLayer(name, weight, grid, activation, bias, layer.weight_name, layer.bias_name)

    @torch.inference_mode()
    def parameters(self, name: str, spec: LayerSpec) -> dict[str, Tensor]:
        """The float32 values that take the place of the model's own, by their names in its state."""
        made, layer = {}, self.layers[name]
        if spec.weight is not None:
            made[layer.weight_name] = self.values(spec.weight)
            if spec.activation is not None and (bias := self._bias(name, spec)) is not None:
                if (name, spec) not in self._bias_values:
                    grids = self._weight_grids[spec.weight], self.activation_grid(spec.activation)
                    self._bias_values[name, spec] = QuantizedLayer(name, None, *grids, bias).bias_values()
                made[layer.bias_name] = self._bias_values[name, spec]
        return made

    @torch.inference_mode()
    def values(self, spec: WeightSpec) -> Tensor:
        """The float32 values of the whole-number weights, in the layout of the layer's weight."""

        def make() -> Tensor:
            q, grid = self._weight(spec)
            return grid.dequantize(q)

        return self._floats.made(spec, make)

    def sqnr(self, spec: WeightSpec) -> float:
        """Signal to quantization noise of the weights, in dB."""
        if spec not in self._noise:
            weight = _weight_of(self.layers[spec.layer])
            noise = (self.values(spec) - weight).square().sum()
            signal = weight.square().sum()
            self._noise[spec] = float(10 * torch.log10(signal.clamp(min=TINY) / noise.clamp(min=TINY)))
        return self._noise[spec]

    @torch.inference_mode()
    def activation_grid(self, spec: ActivationSpec) -> Grid | None:
        """The grid of a layer's input; None where nothing arrived to set its range."""
        if spec not in self._activation_grids:
            if spec.method == "naive":
                self._activation_grids[spec] = naive_grid(spec.bits)
            elif (seen := self.observations.get(spec.layer)) is None:
                self._activation_grids[spec] = None
            else:
                low, high = spanned(seen.centres[None], seen.counts, spec.bits, "affine", spec.range)
                self._activation_grids[spec] = grid_over(low[0], high[0], spec.bits, "affine")
        return self._activation_grids[spec]

    @torch.inference_mode()
    def _weight(self, spec: WeightSpec) -> tuple[Tensor, Grid]:
        def make() -> Tensor:
            layer = self.layers[spec.layer]
            weight = _weight_of(layer)
            if spec not in self._weight_grids:
                self._weight_grids[spec] = _weight_grid(weight, spec, axis=layer.axis or 0)
            return self._weight_grids[spec].quantize(weight)

        q = self._whole.made(spec, make)
        return q, self._weight_grids[spec]

    @torch.inference_mode()
    def _bias(self, name: str, spec: LayerSpec) -> Tensor | None:
        bias = self.layers[name].bias
        if bias is None or spec.weight is None or spec.activation is None:
            return None
        if (name, spec) not in self._biases:
            _, grid = self._weight(spec.weight)
            activation = self.activation_grid(spec.activation)
            if activation is None:
                return None
            self._biases[name, spec] = whole_bias(bias.detach(), grid, activation)
        return self._biases[name, spec]


def _weight_of(layer: Layer) -> Tensor:
    assert layer.weight is not None  # noqa: S101 - a layer without weights says so, and no spec asks for them
    return layer.weight.detach()


def _weight_grid(weight: Tensor, spec: WeightSpec, axis: int) -> Grid:
    if spec.method == "naive":
        return naive_grid(spec.bits)
    if spec.granularity == "tensor":
        low, high = spanned(weight.reshape(1, -1), None, spec.bits, spec.scheme, spec.range)
        return grid_over(low[0], high[0], spec.bits, spec.scheme)
    rows = weight.transpose(0, axis).flatten(1)
    low, high = spanned(rows, None, spec.bits, spec.scheme, spec.range)
    return grid_over(low, high, spec.bits, spec.scheme, axis)
