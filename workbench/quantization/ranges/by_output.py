"""The range, of those that the other ideas give, that changes a layer's output least."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.grids.base import as_rows
from workbench.quantization.calibration import Observation
from workbench.quantization.ranges import RANGES, spanned
from workbench.quantization.schemes import affine_over


def input_range(seen: Observation, bits: int, weight: Tensor | None, axis: int | None) -> tuple[Tensor, Tensor]:
    """The range of a layer's input, chosen by the layer's output through its fp32 weights.

    The inputs of one output are taken to have errors that are independent and alike, as far as their histogram
    tells: an output that sums them with weights w then has a mean squared error of
    ``var(e) |w|^2 + mean(e)^2 (sum w)^2``. Clipping shifts the mean, which sums up, so that this is not what the
    least squared error of the input itself asks for.

    Args:
        seen: What arrived at the layer.
        bits: 1 to 8.
        weight: The layer's; where it has none, the squared error of the input decides.
        axis: Of the weight, along which the outputs run; None where they cannot be told.

    Returns:
        low and high, each of shape ().
    """
    noise, shift = 1.0, 1.0
    if weight is not None and axis is not None:
        rows = as_rows(weight.detach().float(), axis)
        noise, shift = float(rows.square().sum()), float(rows.sum(1).square().sum())
    share = seen.counts / seen.counts.sum()

    def error(span: tuple[Tensor, Tensor]) -> float:
        change = affine_over(span[0][0], span[1][0])(bits).fake_quantize(seen.centres) - seen.centres
        mean = float(change @ share)
        return (float(change.square() @ share) - mean**2) * noise + mean**2 * shift

    tried = [spanned(seen.centres[None], seen.counts, bits, "affine", how) for how in RANGES]
    low, high = tried[int(torch.tensor([error(span) for span in tried]).argmin())]
    return low[0], high[0]
