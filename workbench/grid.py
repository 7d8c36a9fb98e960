"""Grids: the numbers that a quantized value can have, and tensors that lie on one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Grid:
    """The values ``(q - zero_point) * scale`` for whole q from quant_min to quant_max.

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

    @property
    def dtype(self) -> torch.dtype:
        """The 8-bit type that holds q."""
        return torch.int8 if self.quant_min < 0 else torch.uint8

    def _along(self, values: Tensor, x: Tensor) -> Tensor:
        """Reshapes (channels,) so that it broadcasts along `axis` of x."""
        if self.axis is None:
            return values
        return values.reshape([-1 if axis == self.axis else 1 for axis in range(x.dim())])

    def _rounded(self, x: Tensor) -> Tensor:
        """Q - zero_point as floats, in the layout of x; NaN stays NaN."""
        scale = self._along(self.scale, x)
        zero = self._along(self.zero_point, x)
        # torch multiplies by the float32 inverse as well: a division would round differently
        centred = torch.mul(x, scale.reciprocal()).round_()
        if self.axis is None:
            offset = int(zero)
            return centred.clamp_(self.quant_min - offset, self.quant_max - offset)
        return torch.clamp(centred, self.quant_min - zero, self.quant_max - zero)

    def quantize(self, x: Tensor) -> Tensor:
        """The nearest q of each value, in the shape of x, as `dtype`."""
        return (self._rounded(x) + self._along(self.zero_point, x)).to(self.dtype)

    def dequantize(self, q: Tensor) -> Tensor:
        """The float32 values of q."""
        return (q.to(torch.int32) - self._along(self.zero_point, q)).to(torch.float32) * self._along(self.scale, q)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Each value moved to the nearest point of the grid, still float32, in the layout of x."""
        return self._rounded(x).mul_(self._along(self.scale, x))


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """What a recipe makes of one layer; None where a part stays in floating point."""

    name: str
    weight: Tensor | None = None
    """Whole numbers on `weight_grid`, in the shape of the module's weight."""
    weight_grid: Grid | None = None
    activation_grid: Grid | None = None
    """Of the layer's input."""
