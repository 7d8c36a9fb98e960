"""Rounding to values that are not evenly spaced."""

from __future__ import annotations

import torch
from torch import Tensor


def boundaries(levels: Tensor, even: Tensor | None = None) -> Tensor:
    """What lies above a boundary is nearer to the next level; what lies on it belongs to the level below.

    Args:
        levels: In rising order, shape (..., k).
        even: Whether a tie between a level and the next one goes to it, shape (k,); by default it always does.

    Returns:
        Shape (..., k - 1), for `torch.searchsorted` or `torch.bucketize`.
    """
    middle = levels[..., :-1] + (levels[..., 1:] - levels[..., :-1]) / 2
    if even is None:
        return middle
    return torch.where(even[:-1], middle, torch.nextafter(middle, torch.full_like(middle, -torch.inf)))
