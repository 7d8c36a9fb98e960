"""Any values: a list of 2^bits for the tensor, each channel, or each group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.grids.base import Stored, UnevenGrid, as_rows, exponents, from_rows, parameter_shape
from workbench.grids.levels import boundaries


@dataclass(frozen=True, eq=False)
class CodebookGrid(UnevenGrid):
    """A list of values; q is the place of one in it. What lies halfway goes to the lower one."""

    kind: ClassVar[str] = "codebook"

    values: Tensor
    """float32 in rising order, shape (2^bits,), (channels, 2^bits) or (channels, groups, 2^bits); as `halved`
    makes them."""
    bits: int
    axis: int | None = None
    group: int = 0

    @property
    def words(self) -> str:
        """See `AnyGrid`."""
        return f"{self.bits}-bit codebooks"

    @cached_property
    def _sets(self) -> Tensor:
        """Shape (channels, groups, 2^bits)."""
        return self.values.reshape(len(self.values) if self.values.dim() > 1 else 1, -1, 2**self.bits).contiguous()

    @cached_property
    def _boundaries(self) -> Tensor:
        return boundaries(self._sets).contiguous()

    def _blocks(self, x: Tensor) -> Tensor:
        """Shape (channels, groups, size); the last group is filled with zeros."""
        rows = as_rows(x, self.axis)
        size = self.group or rows.shape[1]
        return F.pad(rows, (0, -rows.shape[1] % size)).reshape(len(rows), -1, size).contiguous()

    def _unblocked(self, blocks: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
        rows = blocks.flatten(1)[:, : x.numel() // len(blocks)]
        return torch.empty_like(x, dtype=dtype).copy_(from_rows(rows, x.shape, self.axis))

    def quantize(self, x: Tensor) -> Tensor:
        """See `AnyGrid.quantize`."""
        codes = torch.searchsorted(self._boundaries, self._blocks(x), out_int32=True)
        return self._unblocked(codes, x, torch.uint8)

    def dequantize(self, q: Tensor) -> Tensor:
        """See `AnyGrid.dequantize`."""
        return self._unblocked(self._sets.gather(-1, self._blocks(q).long()), q, torch.float32)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """See `AnyGrid.fake_quantize`."""
        return self.dequantize(self.quantize(x))

    def stored(self) -> Stored:
        """Values as float16 beside one exponent for all."""
        exponent = _exponent(self.values)
        values = torch.ldexp(self.values, -exponent).to(torch.float16).reshape(-1)
        about = {"exponent": int(exponent)} | ({"group": self.group} if self.group else {})
        return Stored({"values": values}, about)

    @classmethod
    def restored(cls, bits: int, axis: int | None, shape: tuple[int, ...], stored: Stored) -> Self:
        """See `AnyGrid.restored`."""
        exponent, group = stored.about["exponent"], stored.about.get("group", 0)
        if not isinstance(bits, int) or not 1 <= bits <= 8 or not isinstance(exponent, int) or abs(exponent) > 127:
            raise ValueError(f"{bits} bits and an exponent of {exponent}")
        values = torch.ldexp(stored.tensors["values"].float(), torch.tensor(exponent))
        values = values.reshape((*parameter_shape(shape, axis, group), 2**bits))
        if not bool(torch.isfinite(values).all()) or bool((values.diff(dim=-1) < 0).any()):
            raise ValueError("the values of a codebook are not in order")
        return cls(values, bits, axis, group)

    def check_codes(self, q: Tensor) -> None:
        """See `AnyGrid.check_codes`: every place has a value."""


def halved(values: Tensor) -> Tensor:
    """Values as they come out of a file: float16 times one power of two, so that no size of weights is lost."""
    exponent = _exponent(values)
    return torch.ldexp(torch.ldexp(values, -exponent).to(torch.float16).float(), exponent)


def _exponent(values: Tensor) -> Tensor:
    """Of the largest value, so that all lie between -2 and 2."""
    return exponents(values.abs().amax().clamp(min=2.0**-120)).clamp(-120, 120)
