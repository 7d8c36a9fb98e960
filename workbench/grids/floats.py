"""Floating-point numbers of a few bits, with a scale for the tensor, each channel, or each block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from workbench.grids.base import Stored, UnevenGrid, exponents, parameter_shape, scales_of_file
from workbench.grids.levels import boundaries

E8M0_BIAS = 127


class FloatFormat(NamedTuple):
    """A sign, exponent bits with a bias of ``2^(exponent - 1) - 1``, and mantissa bits; subnormal numbers below.

    The formats of 8 bits keep codes for what is no number, as in the OCP 8-bit floating point specification
    (2023): E4M3 (torch's ``float8_e4m3fn``) one of each sign, so that it ends at 448; E5M2 those of the highest
    exponent, so that it ends at 57344. All codes of shorter formats are numbers, as in the OCP microscaling
    formats specification (2023): E3M2, E2M3 and E2M1 are of there, the others follow the same rule.
    """

    exponent: int
    mantissa: int

    @property
    def bits(self) -> int:
        """With the sign."""
        return 1 + self.exponent + self.mantissa

    @property
    def name(self) -> str:
        """``E4M3``."""
        return f"E{self.exponent}M{self.mantissa}"

    @property
    def largest(self) -> float:
        """The largest number."""
        return float(_magnitudes(self)[-1])

    @property
    def emax(self) -> int:
        """The exponent of the largest number."""
        return int(exponents(_magnitudes(self)[-1]))


@cache
def _magnitudes(format_: FloatFormat) -> Tensor:
    """The numbers that are not below zero, in the order of their codes, float32."""
    codes = torch.arange(2 ** (format_.exponent + format_.mantissa), dtype=torch.int32)
    field, fraction = codes >> format_.mantissa, codes & (2**format_.mantissa - 1)
    bias = 2 ** (format_.exponent - 1) - 1
    normal = field > 0
    significand = torch.where(normal, 1.0, 0.0) + fraction / 2**format_.mantissa
    values = torch.ldexp(significand, torch.where(normal, field, 1) - bias)
    if format_ == FloatFormat(4, 3):
        return values[:-1]
    return values[: -(2**format_.mantissa)] if format_ == FloatFormat(5, 2) else values


@cache
def _boundaries(format_: FloatFormat) -> Tensor:
    magnitudes = _magnitudes(format_)
    return boundaries(magnitudes, torch.arange(len(magnitudes)) % 2 == 0)  # an even code has an even mantissa


@dataclass(frozen=True, eq=False)
class FloatGrid(UnevenGrid):
    """The numbers of a format times a scale. Rounding is to nearest, ties to even, and saturates.

    q is the number's bit pattern: the sign, then exponent and mantissa, as in ``torch.float8_e4m3fn``.
    """

    kind: ClassVar[str] = "float"

    format: FloatFormat
    scale: Tensor
    """float32, above 0; shape (), (channels,) or (channels, groups)."""
    axis: int | None = None
    group: int = 0
    power_of_two: bool = False
    """Whether every scale is, and has to stay, 2^k: an E8M0 number, as OCP's microscaling formats have."""

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Of the format."""
        return self.format.bits

    @property
    def words(self) -> str:
        """See `AnyGrid`."""
        return f"{self.bits}-bit floats"

    @cached_property
    def levels(self) -> Tensor:
        """The numbers of the format in rising order, shape (k,); zero is there once."""
        above = _magnitudes(self.format)
        return torch.cat([-above[1:].flip(0), above])

    @cached_property
    def _values(self) -> Tensor:
        """The number of each code, shape (2^bits,); NaN where a code has none."""
        above = torch.full((2 ** (self.bits - 1),), torch.nan)
        above[: len(_magnitudes(self.format))] = _magnitudes(self.format)
        return torch.cat([above, -above])

    def quantize(self, x: Tensor) -> Tensor:
        """See `AnyGrid.quantize`."""
        scaled = x / self.along(self.scale, x)
        codes = torch.bucketize(scaled.abs().contiguous(), _boundaries(self.format), out_int32=True)
        codes = codes + torch.signbit(scaled) * 2 ** (self.bits - 1)
        return torch.empty_like(x, dtype=torch.uint8).copy_(codes)

    def dequantize(self, q: Tensor) -> Tensor:
        """See `AnyGrid.dequantize`."""
        values = torch.empty_like(q, dtype=torch.float32).copy_(self._values[q.int()])
        return values.mul_(self.along(self.scale, q))

    def fake_quantize(self, x: Tensor) -> Tensor:
        """See `AnyGrid.fake_quantize`."""
        return self.dequantize(self.quantize(x))

    def stored(self) -> Stored:
        """Exponents of blocks as E8M0, scales of groups in two bytes where that changes nothing."""
        scale = self.scale.reshape(-1)
        if self.power_of_two:
            scale = (exponents(scale) + E8M0_BIAS).to(torch.uint8)
        elif self.group and torch.equal(half := scale.to(torch.bfloat16), scale):
            scale = half
        about = {"format": list(self.format)} | ({"group": self.group} if self.group else {})
        return Stored({"scale": scale}, about)

    @classmethod
    def restored(cls, bits: int, axis: int | None, shape: tuple[int, ...], stored: Stored) -> Self:
        """See `AnyGrid.restored`."""
        exponent, mantissa = stored.about["format"]
        known = isinstance(exponent, int) and isinstance(mantissa, int) and 1 <= exponent <= 5 and mantissa >= 0
        if not known or bits != 1 + exponent + mantissa or not 2 <= bits <= 8:
            raise ValueError(f"{bits} bits are not {stored.about['format']}")
        group = stored.about.get("group", 0)
        scale = stored.tensors["scale"]
        shared = scale.dtype == torch.uint8
        if shared:
            scale = torch.ldexp(
                torch.ones(scale.shape), scale.to(torch.int32) - E8M0_BIAS
            )  # 255 is none: infinite here
        scale = scales_of_file(scale, parameter_shape(shape, axis, group))
        return cls(FloatFormat(exponent, mantissa), scale, axis, group, shared)

    def check_codes(self, q: Tensor) -> None:
        """See `AnyGrid.check_codes`."""
        if bool(torch.isnan(self._values)[q.int()].any()):
            raise ValueError(f"a code is no number in {self.format.name}")
