"""All values but the outermost."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.quantization.schemes import SCHEMES

OUTERMOST = 0.001  # share of values outside


def percentile(values: Tensor, counts: Tensor | None, bits: int, scheme: str) -> tuple[Tensor, Tensor]:
    """A range that leaves out the same share of values in every row; see `spanned`."""
    del bits
    low, high = values.amin(1), values.amax(1)
    signed = SCHEMES[scheme].signed
    if signed:
        values = values.abs()
    ordered, order = values.sort(1)
    weight = torch.ones_like(ordered) if counts is None else counts.to(ordered.dtype)[order]
    reached = weight.cumsum(1) / weight.sum(1, keepdim=True)

    def at(share: float) -> Tensor:
        index = torch.searchsorted(reached, torch.full((len(ordered), 1), share)).clamp(max=ordered.shape[1] - 1)
        return ordered.gather(1, index).squeeze(1)

    if signed:
        top = at(1 - OUTERMOST)
        return -top, top
    return torch.maximum(low, at(OUTERMOST / 2)), torch.minimum(high, at(1 - OUTERMOST / 2))
