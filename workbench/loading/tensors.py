"""Tensors out of raw bytes, with every declared extent checked against the bytes that are there."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workbench.errors import LoadError

_LARGEST_EXPANDED = 64 * 2**20
"""Bytes that a tensor may have beyond its storage (a broadcast constant such as position ids)."""


def view(
    content: bytearray, dtype: torch.dtype, shape: Sequence[int], stride: Sequence[int], offset: int, name: str
) -> torch.Tensor:
    """A contiguous tensor of `shape`, read at `offset` (elements) and `stride` from a storage's bytes.

    It shares the bytes where it is dense already, so weights that were tied stay tied.

    Raises:
        LoadError: The tensor would reach beyond its storage, or the numbers make no sense.
    """
    if not all(type(n) is int and n >= 0 for n in [*shape, *stride, offset]) or len(shape) != len(stride):
        raise LoadError(f"The tensor {name!r} has a shape, a stride or an offset that makes no sense.")
    if len(shape) > 64:
        raise LoadError(f"The tensor {name!r} has {len(shape)} dimensions.")
    count = 1
    for n in shape:
        count *= n
    if count == 0:
        if any(n > 2**40 for n in shape):
            raise LoadError(f"The tensor {name!r} has shape {list(shape)}.")
        return torch.empty(tuple(shape), dtype=dtype)
    held = len(content) // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if last >= held:
        raise LoadError(
            f"The tensor {name!r} of shape {list(shape)} needs {last + 1:,} elements, but its storage has {held:,}; "
            "the file is damaged or cut short."
        )
    if count > held and count * dtype.itemsize > _LARGEST_EXPANDED:
        raise LoadError(f"The tensor {name!r} declares {count:,} elements over a storage of {held:,}.")
    flat = torch.frombuffer(content, dtype=dtype, count=held)
    return flat.as_strided(tuple(shape), tuple(stride), offset)
