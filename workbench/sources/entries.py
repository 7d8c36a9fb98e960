"""One entry of an example, as datasets hold it, made a tensor: numbers, arrays, lists, pictures, names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHANNELS = (1, 3, 4)


def numbers(value: Any) -> Tensor | None:
    """What is there as a tensor of its own; Python's and numpy's float64 become float32.

    Returns:
        None where it holds something else than numbers.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()  # a source may fill the same memory again
    if isinstance(value, list | tuple) and value and all(isinstance(each, Tensor) for each in value):
        alike = len({each.shape for each in value}) == 1
        return torch.stack([each.detach().cpu() for each in value]) if alike else None
    if not isinstance(value, np.ndarray | np.generic | bool | int | float | list | tuple | range):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return None
    if array.dtype.kind not in "biuf":
        return None
    wider = {"f8": "f4", "f16": "f4", "u2": "i4", "u4": "i8", "u8": "i8"}
    kept = np.dtype(wider.get(array.dtype.str[1:], array.dtype.str[1:]))
    if isinstance(value, list | tuple) and not array.size:
        kept = np.dtype("i8")  # numpy takes an empty list for floats, but a text without tokens is none
    return torch.from_numpy(np.array(array, kept, order="C"))


def as_input(value: Any) -> Tensor | None:
    """An entry of an input; pictures become float32, channels first, 0..1.

    Args:
        value: Numbers, or a picture: of PIL, or a uint8 array of shape (H, W), (H, W, C) or (C, H, W).

    Returns:
        None where it is neither.
    """
    if is_picture(value):
        return torch.from_numpy(pixels(value, grey=value.mode in ("1", "L", "LA") or value.mode.startswith("I")))
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        if value.ndim == 2:
            return torch.from_numpy(value[None] / np.float32(255))
        if value.ndim == 3 and value.shape[2] in CHANNELS:
            return torch.from_numpy(np.ascontiguousarray(value.transpose(2, 0, 1)) / np.float32(255))
        if value.ndim == 3 and value.shape[0] in CHANNELS:
            return torch.from_numpy(value / np.float32(255))
    return numbers(value)


def as_target(value: Any) -> Tensor | str | None:
    """What is right for an example: whole numbers become int64, a picture its values (a mask), a name stays one."""
    if isinstance(value, str):
        return str(value)
    made = numbers(np.asarray(value) if is_picture(value) else value)
    whole = made is not None and made.dtype != torch.bool and not made.dtype.is_floating_point
    return made.long() if made is not None and whole else made


def is_picture(value: Any) -> bool:
    """Whether it is a picture of PIL, which need not be installed."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def pixels(image: Any, *, grey: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Values of a picture, shape (1 or 3, H, W), 0..1; transparency is dropped, as torchvision's loader does.

    Args:
        image: Of PIL, in any mode but ``F``.
        grey: One channel instead of three.

    Raises:
        ValueError: Its pixels are floats, whose range nobody knows.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range")
    if image.mode.startswith("I"):  # 16 bits: PIL's own conversion clips them to 8
        values = np.asarray(image).astype(np.float32)[None] / np.float32(65535)
        return values if grey else np.repeat(values, 3, 0)
    values = np.asarray(image.convert("L" if grey else "RGB"), np.float32) / np.float32(255)
    return values[None] if grey else np.ascontiguousarray(values.transpose(2, 0, 1))


def same_type(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one type that holds all of their values; empty ones have no say in it."""
    found = {tensor.dtype for tensor in tensors if tensor.numel()} or {tensor.dtype for tensor in tensors}
    dtype = found.pop()
    for other in found:
        dtype = torch.promote_types(dtype, other)
    return [tensor.to(dtype) for tensor in tensors]
