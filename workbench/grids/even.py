"""Evenly spaced values: a scale times whole numbers, with or without a zero point."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from workbench.grids.base import AnyGrid, Stored, exponents, parameter_shape, scales_of_file


@dataclass(frozen=True, eq=False)
class Grid(AnyGrid):
    """The values ``(q - zero_point) * scale`` for whole q from quant_min to quant_max, every `stride`-th of them.

    Rounding is half to even, as in `torch.fake_quantize_per_tensor_affine` and its per-channel form,
    with which `fake_quantize` agrees bit for bit wherever these define the result.
    """

    kind: ClassVar[str] = "even"

    scale: Tensor
    """float32, above 0; shape (), (channels,) or (channels, groups)."""
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
    group: int = 0
    power_of_two: bool = False
    """Whether every scale is, and has to stay, 2^k: a shift takes the place of a product."""

    @property
    def dtype(self) -> torch.dtype:
        """The 8-bit type that holds q."""
        return torch.int8 if self.quant_min < 0 else torch.uint8

    @property
    def integer(self) -> bool:
        """Not with groups: the sums of several scales are no whole numbers."""
        return not self.group

    @property
    def words(self) -> str:
        """See `AnyGrid`."""
        return f"{self.bits}-bit weights" + (f" in groups of {self.group}" if self.group else "")

    @property
    def code_span(self) -> tuple[int, int]:
        """See `AnyGrid`."""
        return self.quant_min, self.stride

    def _rounded(self, x: Tensor) -> Tensor:
        """Q - zero_point as floats, in the layout of x; NaN stays NaN."""
        scale = self.along(self.scale, x)
        # torch multiplies by the float32 inverse as well: a division would round differently
        centred = torch.mul(x, scale.reciprocal())
        if self.stride == 2:
            return centred.mul_(0.5).floor_().mul_(2).add_(1).clamp_(self.quant_min, self.quant_max)
        centred = centred.round_()
        offset = self._offset
        if offset is not None:
            return centred.clamp_(self.quant_min - offset, self.quant_max - offset)
        zero = self.along(self.zero_point, x)
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

    def stored(self) -> Stored:
        """Scales of groups take two bytes where that changes nothing, those that are 2^k one: the k."""
        scale = self.scale.reshape(-1)
        if self.power_of_two:
            scale = exponents(scale).to(torch.int8)
        elif self.group and torch.equal(half := scale.to(torch.bfloat16), scale):
            scale = half
        tensors = {"scale": scale}
        if bool(self.zero_point.any()):
            tensors["zero_point"] = self.zero_point.reshape(-1).to(self.dtype)
        more = {"stride": self.stride, "group": self.group}
        usual = {"stride": 1, "group": 0}
        about = {"range": [self.quant_min, self.quant_max], **{k: v for k, v in more.items() if v != usual[k]}}
        return Stored(tensors, about)

    @classmethod
    def restored(cls, bits: int, axis: int | None, shape: tuple[int, ...], stored: Stored) -> Self:
        """See `AnyGrid.restored`."""
        low, high = stored.about["range"]
        stride, group = stored.about.get("stride", 1), stored.about.get("group", 0)
        check_range(bits, low, high, stride)
        wanted = parameter_shape(shape, axis, group)
        kept = stored.tensors["scale"]
        scale = scales_of_file(kept, wanted)
        zero = stored.tensors.get("zero_point")
        zero = torch.zeros(wanted, dtype=torch.int32) if zero is None else zero.to(torch.int32)
        if zero.numel() != scale.numel():
            raise ValueError(f"{zero.numel()} zero points for {scale.numel()} scales")
        zero = zero.reshape(wanted)
        return cls(scale, zero, low, high, bits, axis, stride, group, kept.dtype == torch.int8)

    def check_codes(self, q: Tensor) -> None:
        """See `AnyGrid.check_codes`."""
        if bool((q > self.quant_max).any()):
            raise ValueError(f"a whole number is above {self.quant_max}")


def check_range(bits: int, low: int, high: int, stride: int = 1) -> None:
    """Refuse whole numbers that so many bits do not span.

    Raises:
        ValueError: They do not.
    """
    fits = isinstance(bits, int) and 1 <= bits <= 8 and stride in (1, 2) and -128 <= low < high <= 255
    if not fits or (high - low) // stride >= 2**bits:
        raise ValueError(f"{bits} bits do not span {low} to {high}")
