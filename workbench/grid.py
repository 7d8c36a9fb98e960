"""Grids: the numbers that a quantized value can have, and tensors that lie on one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Grid:
    """The values ``(q - zero_point) * scale`` for whole q from quant_min to quant_max, every `stride`-th of them.

    Rounding is half to even, as in `torch.fake_quantize_per_tensor_affine` and its per-channel form,
    with which `fake_quantize` agrees bit for bit wherever these define the result.
    """

    scale: Tensor
    """float32, shape () or (channels,), above 0."""
    zero_point: Tensor
    """int32, the shape of `scale`, within quant_min..quant_max."""
    quant_min: int
    quant_max: int
    bits: int
    axis: int | None = None
    """The tensor's axis that `scale` runs along; None for one scale."""
    stride: int = 1
    """1, or 2 for a mid-rise grid: q is odd, `scale` half the distance of two values, and zero between two of
    them. Any kernel for whole numbers runs it as it is."""

    @property
    def dtype(self) -> torch.dtype:
        """The 8-bit type that holds q."""
        return torch.int8 if self.quant_min < 0 else torch.uint8

    def along(self, values: Tensor, x: Tensor) -> Tensor:
        """Reshapes (channels,) so that it broadcasts along `axis` of x."""
        if self.axis is None:
            return values
        return values.reshape([-1 if axis == self.axis else 1 for axis in range(x.dim())])

    def _rounded(self, x: Tensor) -> Tensor:
        """Q - zero_point as floats, in the layout of x; NaN stays NaN."""
        scale = self.along(self.scale, x)
        zero = self.along(self.zero_point, x)
        # torch multiplies by the float32 inverse as well: a division would round differently
        centred = torch.mul(x, scale.reciprocal())
        if self.stride == 2:
            return centred.mul_(0.5).floor_().mul_(2).add_(1).clamp_(self.quant_min, self.quant_max)
        centred = centred.round_()
        offset = self._offset
        if offset is not None:
            return centred.clamp_(self.quant_min - offset, self.quant_max - offset)
        return torch.clamp(centred, self.quant_min - zero, self.quant_max - zero)

    @cached_property
    def _offset(self) -> int | None:
        """The zero point where all scales share one, as symmetric ones do: a clamp by numbers is faster."""
        first = int(self.zero_point.flatten()[0])
        return first if bool((self.zero_point == first).all()) else None

    def quantize(self, x: Tensor) -> Tensor:
        """The nearest q of each value, in the shape of x, as `dtype`."""
        return (self._rounded(x) + self.along(self.zero_point, x)).to(self.dtype)

    def dequantize(self, q: Tensor) -> Tensor:
        """The float32 values of q."""
        return (q.to(torch.int32) - self.along(self.zero_point, q)).to(torch.float32) * self.along(self.scale, q)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Each value moved to the nearest point of the grid, still float32, in the layout of x."""
        return self._rounded(x).mul_(self.along(self.scale, x))


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """What a recipe makes of one layer; None where a part stays in floating point."""

    name: str
    weight: Tensor | None = None
    """Whole numbers on `weight_grid`, in the shape of the module's weight."""
    weight_grid: Grid | None = None
    activation_grid: Grid | None = None
    """Of the layer's input."""
    bias: Tensor | None = None
    """Whole numbers (int32) at `bias_scale`, where weights and activations both lie on grids: integer
    kernels add the bias to whole-number products, so it has their scale. float32 where it was corrected for
    the weights' rounding and the activations stay in floating point."""
    weight_name: str = ""
    """In the model's state."""
    bias_name: str = ""

    @property
    def bias_scale(self) -> Tensor:
        """float32, shape () or (channels,): a weight's step times an activation's.

        Raises:
            ValueError: A part of the layer stays in floating point.
        """
        if self.weight_grid is None or self.activation_grid is None:
            raise ValueError(f"{self.name}: only a layer with both grids has a whole-number bias")
        return self.weight_grid.scale * self.activation_grid.scale

    def parameters(self) -> dict[str, Tensor]:
        """The float32 values that take the place of the model's own, by their names in its state."""
        made = {}
        if self.weight is not None and self.weight_grid is not None:
            made[self.weight_name] = self.weight_grid.dequantize(self.weight)
        if self.bias is not None:
            made[self.bias_name] = self.bias_values()
        return made

    def bias_values(self) -> Tensor:
        """The float32 values of the bias.

        Raises:
            ValueError: The layer has none.
        """
        if self.bias is None:
            raise ValueError(f"{self.name} has no bias of its own")
        if self.bias.is_floating_point():
            return self.bias
        return self.bias.to(torch.float32) * _per_output(self.bias_scale, self.bias)


def whole_bias(bias: Tensor, weight_grid: Grid, activation_grid: Grid) -> Tensor:
    """A bias at the scale of an integer kernel's sums, as int32."""
    scale = _per_output(weight_grid.scale * activation_grid.scale, bias)
    return torch.round(bias.double() / scale).clamp(-(2.0**31), 2.0**31 - 1).to(torch.int32)


def _per_output(scale: Tensor, bias: Tensor) -> Tensor:
    """Transposed convolutions with groups have one scale for the same channel of every group."""
    return scale if scale.dim() == 0 else scale.repeat(len(bias) // len(scale))
