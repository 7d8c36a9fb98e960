"""What every grid can do, whatever its values are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor


class Stored(NamedTuple):
    """A grid as it lies in a file."""

    tensors: Mapping[str, Tensor]
    """By what follows the weight's name: ``scale``, ``zero_point``, ``values``."""
    about: Mapping[str, Any]
    """What the header says of it, beside bits, axis and shape."""


class AnyGrid(ABC):
    """Values that a tensor can have, one set for the whole, for each channel, or for each group of a channel.

    A group is `group` consecutive values of one channel, its other dimensions flattened; the last group of a
    channel may be shorter. Parameters have shape () for one set, (channels,) for one a channel, and
    (channels, groups) with groups; a codebook has one dimension more, for its values.
    """

    kind: ClassVar[str]
    """As a file calls it."""
    bits: int
    axis: int | None
    """The tensor's axis that the channels run along; None where the tensor is not parted into channels."""
    group: int
    """Values that share a set; 0 where whole channels do."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The 8-bit type that holds q."""

    @property
    @abstractmethod
    def integer(self) -> bool:
        """Whether integer kernels can multiply q: evenly spaced values, one scale for each output."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What weights on it are called in a sentence: ``4-bit floats``."""

    @abstractmethod
    def quantize(self, x: Tensor) -> Tensor:
        """The q whose value is nearest to each value, in the shape and layout of x, as `dtype`."""

    @abstractmethod
    def dequantize(self, q: Tensor) -> Tensor:
        """The float32 values of q."""

    @abstractmethod
    def fake_quantize(self, x: Tensor) -> Tensor:
        """Each value moved to the nearest point of the grid, still float32, in the layout of x."""

    @property
    @abstractmethod
    def code_span(self) -> tuple[int, int]:
        """The q that a file stores as 0, and the distance of those that occur."""

    @abstractmethod
    def stored(self) -> Stored:
        """What a file needs to make it again."""

    @classmethod
    @abstractmethod
    def restored(cls, bits: int, axis: int | None, shape: tuple[int, ...], stored: Stored) -> Self:
        """The reverse of `stored`; what does not fit together is refused.

        Args:
            bits: Of q, 1 to 8.
            axis: See the class.
            shape: Of the tensor that lies on it.
            stored: What the file has; nothing in it is to be trusted.

        Raises:
            ValueError: It is no grid for such a tensor.
            KeyError: A part is missing.
        """

    @abstractmethod
    def check_codes(self, q: Tensor) -> None:
        """Refuse whole numbers of a file that have no value.

        Raises:
            ValueError: One has none.
        """

    def along(self, values: Tensor, x: Tensor) -> Tensor:
        """Reshapes parameters so that they broadcast over x."""
        return spread(values, x.shape, self.axis, self.group)


class UnevenGrid(AnyGrid):
    """Values that no integer kernel can multiply; q is the place of one of them."""

    @property
    def dtype(self) -> torch.dtype:
        """See `AnyGrid`."""
        return torch.uint8

    @property
    def integer(self) -> bool:
        """See `AnyGrid`."""
        return False

    @property
    def code_span(self) -> tuple[int, int]:
        """See `AnyGrid`."""
        return 0, 1


def spread(values: Tensor, shape: torch.Size | tuple[int, ...], axis: int | None, group: int) -> Tensor:
    """Parameters of shape (), (channels,) or (channels, groups) so that they broadcast over a tensor's shape."""
    if not group:
        return values if axis is None else values.reshape([-1 if at == axis else 1 for at in range(len(shape))])
    channels, n = rows_shape(shape, axis)
    each = values.repeat_interleave(group, 1)[:, :n].reshape(channels, n)
    return from_rows(each, shape, axis)


def rows_shape(shape: torch.Size | tuple[int, ...], axis: int | None) -> tuple[int, int]:
    """Channels, and values of one."""
    count = math.prod(shape)
    return (1, count) if axis is None else (shape[axis], count // max(shape[axis], 1))


def parameter_shape(shape: tuple[int, ...], axis: int | None, group: int) -> tuple[int, ...]:
    """Of a parameter for a tensor: (), (channels,) or (channels, groups).

    Raises:
        ValueError: The tensor has no such axis.
    """
    if not isinstance(group, int) or isinstance(group, bool) or group < 0:
        raise ValueError(f"groups of {group!r}")
    if axis is not None and not (isinstance(axis, int) and 0 <= axis < len(shape)):
        raise ValueError(f"{shape} has no axis {axis!r}")
    channels, n = rows_shape(shape, axis)
    if group:
        return channels, -(-n // group)
    return () if axis is None else (channels,)


def as_rows(x: Tensor, axis: int | None) -> Tensor:
    """One row per channel, shape (channels, n)."""
    return x.reshape(1, -1) if axis is None else x.transpose(0, axis).flatten(1)


def from_rows(rows: Tensor, shape: torch.Size | tuple[int, ...], axis: int | None) -> Tensor:
    """The reverse of `as_rows`."""
    if axis is None:
        return rows.reshape(shape)
    turned = list(shape)
    turned[0], turned[axis] = turned[axis], turned[0]
    return rows.reshape(turned).transpose(0, axis)


def scales_of_file(tensor: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """Scales as float32 in their shape, from numbers or exponents of two.

    Raises:
        ValueError: Others are needed, or one is not above 0.
    """
    if tensor.dtype == torch.int8:
        tensor = torch.ldexp(torch.ones(tensor.shape), tensor.to(torch.int32))
    scale = tensor.float()
    if scale.numel() != math.prod(wanted) or not bool(((scale > 0) & torch.isfinite(scale)).all()):
        raise ValueError(f"{scale.numel()} scales, not {math.prod(wanted)} above 0")
    return scale.reshape(wanted)


def exponents(scale: Tensor) -> Tensor:
    """The k of scales that are 2^k, int32."""
    return torch.frexp(scale).exponent - 1
