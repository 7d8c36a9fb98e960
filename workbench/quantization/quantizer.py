"""From a recipe to the whole numbers of every layer, each made once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.errors import RecipeError
from workbench.grid import AnyGrid, DynamicGrid, Grid, QuantizedLayer, whole_bias
from workbench.layers import Layer, follows
from workbench.quantization.calibration import Observation
from workbench.quantization.moments import Moments, MomentStore
from workbench.quantization.ranges import spanned
from workbench.quantization.ranges.by_output import input_range
from workbench.quantization.rounding import ROUNDINGS, Problem, Watch, on_grid
from workbench.quantization.schemes import BLOCK, SCHEMES, affine_over, naive_grid
from workbench.quantization.weight_grids import weight_grid
from workbench.recipe import Quantization
from workbench.remembered import Remembered

FLOAT_BYTES = 192 * 2**20
"""Memory for rounded weights in float32. A larger model has them made again when they are needed."""
SETTLED = 8
"""Recipes that look at the whole network, whose layers are kept."""
DYNAMIC = "dynamic"
"""The range of an activation that is taken anew at each call."""
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
    correction: str = "none"
    group_size: int = 0
    """Weights that share a scale; 0 where the granularity is another."""
    context: Quantization | None = None
    """What is asked of the whole network, where the layer's numbers depend on it."""


class ActivationSpec(NamedTuple):
    """All that decides the grid of a layer's input."""

    layer: str
    bits: int
    method: str
    range: str
    context: Quantization | None = None
    """See `WeightSpec`."""


class Settled(NamedTuple):
    """One layer as a method left it that looks at the whole network; None where a part stays as it is."""

    weight: Tensor | None = None
    """Whole numbers on `weight_grid`."""
    weight_grid: AnyGrid | None = None
    activation_grid: Grid | None = None
    bias: Tensor | None = None
    """float32."""


Jointly = Callable[[Quantization, Watch], Mapping[str, Settled]]
"""Makes all layers of a recipe at once, by their names."""
Learned = Mapping[tuple[str, str, int], AnyGrid]
"""Grids that were trained with the weights, by layer, part (``weight`` or ``activation``) and bits."""


class LayerSpec(NamedTuple):
    """What a recipe asks of one layer; equal specs give equal numbers."""

    weight: WeightSpec | None
    activation: ActivationSpec | None


def specs(quantization: Quantization, layers: Mapping[str, Layer]) -> dict[str, LayerSpec]:
    """What a recipe asks of each layer that can follow it.

    Raises:
        RecipeError: A layer's weights would have fewer bits than their grid can have.
    """
    q, asked = quantization, {}
    context = q if q.joint else None
    for name, layer in layers.items():
        weight_bits, activation_bits = q.bits_for(name, common=follows(layer, q.sums))
        weight_bits = None if layer.weights else weight_bits
        activation_bits = None if layer.activations else activation_bits
        granularity = q.granularity if layer.axis is not None else "tensor"
        scheme = q.scheme_for(name)
        if weight_bits:
            _check_bits(weight_bits, name, scheme, naive=q.method == "naive")
        granularity, size = ("group", BLOCK) if scheme == "mx" else (granularity, q.group_size)
        group_size = size if granularity == "group" else 0
        naive = q.method == "naive"
        correction = "none" if naive or layer.bias is None else q.correction
        # how weights are rounded does not change how activations are
        method, range_ = "naive" if naive else "nearest", "mse" if q.range == "hessian" else q.range
        dynamic = q.activation_range == "dynamic" and not naive and layer.weight is not None
        how = (q.method, scheme, granularity, q.range, correction, group_size, context)
        asked[name] = LayerSpec(
            WeightSpec(name, weight_bits, *how) if weight_bits else None,
            ActivationSpec(name, activation_bits, method, DYNAMIC if dynamic else range_, context)
            if activation_bits
            else None,
        )
    return asked


def _check_bits(bits: int, layer: str, scheme: str, *, naive: bool) -> None:
    kind = SCHEMES.get(scheme)  # a codebook has values of its own at any width
    least = 2 if naive else kind.least_bits if kind else 1
    if bits < least:
        how = "method='naive'" if naive else f"scheme={scheme!r}"
        able = ", ".join(["codebook", *(name for name, each in SCHEMES.items() if each.least_bits <= bits)])
        raise RecipeError(f"{layer}: {how} needs at least {least} bits a weight, not {bits}; with {bits}: {able}.")


class Quantizer:
    """Quantizes the layers of one model, and keeps what it made."""

    def __init__(
        self,
        layers: Mapping[str, Layer],
        observations: Callable[[], Mapping[str, Observation]],
        moments: MomentStore | None = None,
        jointly: Jointly | None = None,
        learned: Learned | None = None,
        ends: Callable[[], Mapping[str, tuple[Tensor, Tensor]]] | None = None,
    ) -> None:
        """
        Args:
            layers: By name.
            observations: Gives what arrives at each layer; asked when a first activation is put on a grid.
            moments: Of what the weights are multiplied with, for the methods that look at it. Layers that have
                none are rounded to nearest.
            jointly: Makes the layers of recipes whose layers depend on each other.
            learned: Grids that take the place of those that a range would give.
            ends: Gives the smallest and largest value that arrives at each layer, where that is known sooner than
                observations are.
        """
        self.layers = layers
        self._observe = observations
        self._moments = moments
        self._jointly = jointly
        self._learned = dict(learned or {})
        self._ends = ends
        self._settled: dict[Quantization, Mapping[str, Settled]] = {}
        self._settling = threading.Lock()
        self._whole = Remembered(WHOLE_BYTES)
        self._floats = Remembered(FLOAT_BYTES)
        self._weight_grids: dict[WeightSpec, AnyGrid] = {}
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
        bias = self._bias(name, spec)
        names = layer.weight_name, layer.bias_name
        dynamic = DynamicGrid() if spec.activation and spec.activation.range == DYNAMIC else None
        return QuantizedLayer(name, weight, grid, activation, bias, *names, dynamic)

    @torch.inference_mode()
    def parameters(self, name: str, spec: LayerSpec) -> dict[str, Tensor]:
        """The float32 values that take the place of the model's own, by their names in its state."""
        made, layer = {}, self.layers[name]
        if spec.weight is not None:
            made[layer.weight_name] = self.values(spec.weight)
            if (bias := self._bias(name, spec)) is not None:
                if (name, spec) not in self._bias_values:
                    activation = self.activation_grid(spec.activation) if spec.activation else None
                    grids = self._weight_grids[spec.weight], activation
                    self._bias_values[name, spec] = QuantizedLayer(name, None, *grids, bias).bias_values()
                made[layer.bias_name] = self._bias_values[name, spec]
        return made

    @torch.inference_mode()
    def prepare(self, asked: Mapping[str, LayerSpec], watch: Watch = Watch()) -> None:  # noqa: B008
        """Make the weights of a recipe that are not made yet, where they take long.

        Args:
            asked: What is asked of each layer.
            watch: Told how much is done, and looked at many times a second.

        Raises:
            Cancelled: As the watch says. What was made is kept.
        """
        for context in {
            s.context for both in asked.values() for s in both if s and s.context and not self._grid_learned(s)
        }:
            self._of_all(context, watch)
            return  # a recipe has one
        slow = [
            spec.weight
            for spec in asked.values()
            if spec.weight is not None and self._informed(spec.weight) and self._whole.get(spec.weight) is None
        ]
        for index, spec in enumerate(slow):
            watch.look(index / len(slow))
            self._weight(spec, watch.part(index / len(slow), (index + 1) / len(slow)))

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

    def rounds(self, spec: ActivationSpec) -> Grid | DynamicGrid | None:
        """What rounds a layer's input; None where nothing arrived to set its range."""
        return DynamicGrid() if spec.range == DYNAMIC else self.activation_grid(spec)

    @torch.inference_mode()
    def activation_grid(self, spec: ActivationSpec) -> Grid | None:
        """The grid of a layer's input; None where nothing arrived to set its range, or it is taken at each call."""
        if spec.range == DYNAMIC:
            return None
        learned = self._grid_learned(spec)
        if spec.context is not None and learned is None:
            return self._of_all(spec.context)[spec.layer].activation_grid
        if spec not in self._activation_grids:
            if isinstance(learned, Grid):
                self._activation_grids[spec] = learned
            elif spec.method == "naive":
                self._activation_grids[spec] = naive_grid(spec.bits)
            elif spec.range == "minmax" and self._ends is not None:
                ends = self._ends().get(spec.layer)
                self._activation_grids[spec] = affine_over(*ends)(spec.bits) if ends is not None else None
            elif (seen := self.observations.get(spec.layer)) is None:
                self._activation_grids[spec] = None
            elif spec.range == "auto":
                layer = self.layers[spec.layer]
                ends = input_range(seen, spec.bits, layer.weight, layer.axis)
                self._activation_grids[spec] = affine_over(*ends)(spec.bits)
            else:
                low, high = spanned(seen.centres[None], seen.counts, spec.bits, "affine", spec.range)
                self._activation_grids[spec] = affine_over(low[0], high[0])(spec.bits)
        return self._activation_grids[spec]

    def _of_all(self, context: Quantization, watch: Watch = Watch()) -> Mapping[str, Settled]:  # noqa: B008
        """The layers of a recipe that looks at the whole network; the last few recipes' are kept.

        Raises:
            Cancelled: As the watch says.
        """
        with self._settling:
            if context not in self._settled:
                if self._jointly is None:
                    raise ValueError("this network cannot be quantized as a whole")
                made = self._jointly(context, watch)
                while len(self._settled) >= SETTLED:
                    self._settled.pop(next(iter(self._settled)))
                self._settled[context] = made
            return self._settled[context]

    def _grid_learned(self, spec: WeightSpec | ActivationSpec) -> AnyGrid | None:
        """The grid that was trained with the weights, and with which nothing is left to correct."""
        part = "weight" if isinstance(spec, WeightSpec) else "activation"
        return None if spec.method == "naive" else self._learned.get((spec.layer, part, spec.bits))

    @torch.inference_mode()
    def _weight(self, spec: WeightSpec, watch: Watch = Watch()) -> tuple[Tensor, AnyGrid]:  # noqa: B008
        def make() -> Tensor:
            layer = self.layers[spec.layer]
            learned = self._grid_learned(spec)
            if learned is not None:
                self._weight_grids[spec] = learned
                return learned.quantize(_weight_of(layer))
            if spec.context is not None:
                settled = self._of_all(spec.context, watch)[spec.layer]
                assert settled.weight is not None and settled.weight_grid is not None  # noqa: S101 - it was asked for
                self._weight_grids[spec] = settled.weight_grid
                return settled.weight
            weight, moments = _weight_of(layer), self._moments_for(spec, watch)
            rounding = ROUNDINGS.get(spec.method) if moments is not None else None
            if moments is None or rounding is None:
                if spec not in self._weight_grids:
                    self._weight_grids[spec] = _weight_grid(weight, spec, layer.axis, moments)
                return self._weight_grids[spec].quantize(weight)
            grid = _weight_grid(weight, spec, layer.axis, moments)
            problem = Problem.of(weight, grid, _counted(moments, spec))
            whole, self._weight_grids[spec] = on_grid(rounding(problem, watch), grid, weight)
            return whole

        q = self._whole.made(spec, make)
        return q, self._weight_grids[spec]

    def _informed(self, spec: WeightSpec) -> bool:
        """Whether the layer's inputs count for its weights or its bias, and are known."""
        if self._grid_learned(spec) is not None:
            return False
        asked = spec.method in ROUNDINGS or spec.range in ("hessian", "auto") or spec.correction != "none"
        return asked and spec.method != "naive" and self._moments is not None and self._moments.has(spec.layer)

    def _moments_for(self, spec: WeightSpec, watch: Watch = Watch()) -> Moments | None:  # noqa: B008
        if self._moments is None or not self._informed(spec):
            return None
        return self._moments.get(spec.layer, watch.cancel)

    @torch.inference_mode()
    def _bias(self, name: str, spec: LayerSpec) -> Tensor | None:
        """Of a layer whose weights lie on a grid; None where it stays as it is."""
        bias = self.layers[name].bias
        if bias is None or spec.weight is None:
            return None
        if (name, spec) not in self._biases:
            activation = self.activation_grid(spec.activation) if spec.activation else None
            if self._grid_learned(spec.weight) is not None:
                corrected = None
            elif spec.weight.context is not None:
                corrected = self._of_all(spec.weight.context)[name].bias
            else:
                corrected = self._corrected(spec.weight, bias.detach())
            grid = self._weight(spec.weight)[1]
            if activation is not None and isinstance(grid, Grid) and grid.integer:
                made = whole_bias(bias.detach() if corrected is None else corrected, grid, activation)
            elif corrected is not None:
                made = corrected
            else:
                return None
            self._biases[name, spec] = made
        return self._biases[name, spec]

    def _corrected(self, spec: WeightSpec, bias: Tensor) -> Tensor | None:
        """The bias that keeps the mean of the layer's output on the calibration data where it was.

        Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section
        4.2, with the mean input that was seen in the place of the one that BatchNorm tells.
        """
        moments = self._moments_for(spec) if spec.correction == "bias" else None
        if moments is None:
            return None
        change = _weight_of(self.layers[spec.layer]) - self.values(spec)
        rows = change.reshape(len(moments.mean), -1, moments.mean.shape[-1])
        return bias + (rows @ moments.mean[..., None]).flatten()


def _weight_of(layer: Layer) -> Tensor:
    assert layer.weight is not None  # noqa: S101 - a layer without weights says so, and no spec asks for them
    return layer.weight.detach()


def _counted(moments: Moments, spec: WeightSpec) -> Tensor:
    """The moments that count: the bias, where it follows the weights, takes the mean of their change upon itself."""
    return moments.covariance if spec.correction == "bias" else moments.second


def _weight_grid(weight: Tensor, spec: WeightSpec, axis: int | None, moments: Moments | None = None) -> AnyGrid:
    if spec.method == "naive":
        return naive_grid(spec.bits)
    return weight_grid(weight, spec, axis, None if moments is None else _counted(moments, spec))
