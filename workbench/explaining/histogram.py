"""What a layer's grids make of its weights and of its input, as histograms before and after."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from workbench.explaining.noise import sqnr
from workbench.layers import Layer
from workbench.quantization.calibration import Observation
from workbench.quantization.quantizer import LayerSpec, Quantizer

BINS = 64
FEW = 32
"""Up to so many values of a grid are listed."""
ENOUGH = 100_000
"""Values among which all those of a small grid occur."""
FAR = 1e3
"""Times the largest value: beyond the ends of any grid over the values."""

Rounded = Callable[[Tensor], Tensor]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Histogram(_Frozen):
    """Values in equal bins from `low` to `high`, before and after they were put on a grid."""

    bits: int | None
    """Of the grid; None where the values stay in fp32."""
    low: float
    high: float
    minimum: float
    maximum: float
    """Of the values before."""
    before: tuple[float, ...]
    """Counts."""
    after: tuple[float, ...] = ()
    """Counts on the grid; empty where there is none."""
    values: tuple[float, ...] = ()
    """The values that occur on the grid, where they are few."""
    clip_low: tuple[float, float] | None = None
    """Smallest and largest of the lower ends of the grids: one per channel, group or tensor."""
    clip_high: tuple[float, float] | None = None
    """Of the upper ends."""
    clipped: float = 0.0
    """Share of the values that lie more than half a step beyond their grid's ends."""
    sqnr: float | None = None
    """Signal to quantization noise, dB."""


class LayerHistogram(_Frozen):
    """A layer's weights and its input on the calibration data."""

    layer: str
    kind: str
    weights: Histogram | None = None
    inputs: Histogram | None = None
    notes: tuple[str, ...] = ()
    """Why a part is not there, or stays as it is."""


@torch.inference_mode()
def layer_histogram(layer: Layer, spec: LayerSpec, quantizer: Quantizer) -> LayerHistogram:
    """A layer as a recipe treats it; calibrates the network if that was not done yet.

    Args:
        layer: Of the network.
        spec: What the recipe asks of it.
        quantizer: Of the same network.
    """
    notes = [f"{part}: {why}" for part, why in (("weights", layer.weights), ("input", layer.activations)) if why]
    made = quantizer.layer(layer.name, spec)
    weights = inputs = None
    if layer.weight is not None and layer.weight.numel():
        weight = layer.weight.detach().float()
        grid = made.weight_grid if spec.weight else None
        if spec.weight is not None and grid is not None:
            after = quantizer.values(spec.weight)
            weights = _histogram(weight, None, after, grid.fake_quantize, spec.weight.bits)
        else:
            weights = _histogram(weight, None, None, None, None)
    seen = None if layer.activations else quantizer.observations.get(layer.name)
    if seen is not None:
        inputs = _of_input(seen, made.activation_grid.fake_quantize if made.activation_grid else None, spec)
    elif not layer.activations:
        notes.append("input: nothing arrived at it on the calibration data")
    return LayerHistogram(layer=layer.name, kind=layer.kind, weights=weights, inputs=inputs, notes=tuple(notes))


def _of_input(seen: Observation, rounded: Rounded | None, spec: LayerSpec) -> Histogram:
    if rounded is None or spec.activation is None:
        return _histogram(seen.centres, seen.counts, None, None, None)
    return _histogram(seen.centres, seen.counts, rounded(seen.centres), rounded, spec.activation.bits)


def _histogram(
    x: Tensor,
    counts: Tensor | None,
    after: Tensor | None,
    rounded: Rounded | None,
    bits: int | None,
) -> Histogram:
    """Of values, each as often as `counts` says.

    Args:
        x: Any shape.
        counts: The same shape; None: once each.
        after: On the grid, the same shape.
        rounded: The grid, in the layout of x.
        bits: Of the grid.
    """
    minimum, maximum = (float(end) for end in torch.aminmax(x))
    low, high = minimum, maximum
    grid: dict[str, object] = {}
    if after is not None and rounded is not None and bits is not None:
        far = FAR * (max(abs(minimum), abs(maximum)) + 1)
        least, most = rounded(torch.full_like(x, -far)), rounded(torch.full_like(x, far))
        half = (most - least) / (2**bits - 1) / 2 * (1 + 1e-4)
        outside = (x > most + half) | (x < least - half)
        share = float(outside.float().mean() if counts is None else (outside * counts).sum() / counts.sum())
        low, high = min(low, float(after.min())), max(high, float(after.max()))
        weigh = 1.0 if counts is None else counts
        grid = {
            "clip_low": tuple(map(float, torch.aminmax(least))),
            "clip_high": tuple(map(float, torch.aminmax(most))),
            "clipped": share,
            "sqnr": sqnr((x.square() * weigh).sum(), ((after - x).square() * weigh).sum()),
            "values": _few(after),
        }
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return Histogram(
        bits=bits,
        low=low,
        high=high,
        minimum=minimum,
        maximum=maximum,
        before=_counted(x, counts, low, high),
        after=() if after is None else _counted(after, counts, low, high),
        **grid,
    )


def _counted(x: Tensor, counts: Tensor | None, low: float, high: float) -> tuple[float, ...]:
    if counts is None:
        return tuple(torch.histc(x, BINS, min=low, max=high).tolist())
    place = ((x - low) / (high - low) * BINS).long().clamp(0, BINS - 1)
    return tuple(torch.zeros(BINS).index_add_(0, place, counts).tolist())


def _few(after: Tensor) -> tuple[float, ...]:
    """The values that occur on a grid, where they are few."""
    values = after.flatten()[:: max(1, after.numel() // ENOUGH)].unique()
    return tuple(values.tolist()) if len(values) <= FEW else ()
