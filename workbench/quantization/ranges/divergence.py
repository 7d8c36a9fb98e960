"""The range that keeps the distribution of values closest, in the sense of Kullback and Leibler."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.quantization.schemes import SCHEMES, grid_over

BINS_PER_LEVEL = 8
"""Of the histograms that are made here; fewer would hide what the grid does to the distribution."""
SHARES = torch.linspace(1.0, 1 / BINS_PER_LEVEL, 57)
"""Of the full range, down to one bin for each grid point; of equally good ones, the first."""
SPARSE = 4
"""Values per bin below which a row's own histogram is noise."""
FLOOR = 1e-10
"""Probability of a bin that only the clipped values are in."""


def closest(values: Tensor, counts: Tensor | None, bits: int, scheme: str) -> tuple[Tensor, Tensor]:
    """The share of the full range whose rounding tells the least lies about the distribution; see `spanned`.

    Migacz, "8-bit Inference with TensorRT", GTC 2017: a histogram is cut at a threshold. P is what is left, with
    the values that were clipped in its outermost bins. Q is what is left without them, each grid point's share
    evenly over those of its bins that are not empty. The range with the least KL(P, Q) is taken. The bins of a
    grid point are those that are rounded to it, so that it holds for any grid.

    Samples without counts are put into histograms of their magnitudes first, each row's beside its largest one.
    Rows of too few values share one histogram, and so the share of their ranges.
    """
    low, high = values.amin(1).clamp(max=0.0), values.amax(1).clamp(min=0.0)
    if SCHEMES[scheme].signed:
        high = torch.maximum(-low, high)
        low = -high
    if counts is not None:
        return _scaled(low, high, _best_shares(values, counts.expand_as(values), (low, high), bits, scheme))
    # an affine grid has half its points on either side, more or less
    likeness = scheme if SCHEMES[scheme].signed else "symmetric"
    histogram = _histogram(values, BINS_PER_LEVEL * 2 ** (bits - 1))
    if values.shape[1] < SPARSE * histogram.shape[1]:
        histogram = histogram.sum(0, keepdim=True)
    centres = (torch.arange(histogram.shape[1]) + 0.5) / histogram.shape[1]
    one = torch.ones(len(histogram))
    return _scaled(low, high, _best_shares(centres.expand_as(histogram), histogram, (-one, one), bits, likeness))


def _scaled(low: Tensor, high: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    return low * share, high * share


def _best_shares(values: Tensor, counts: Tensor, full: tuple[Tensor, Tensor], bits: int, scheme: str) -> Tensor:
    """Of histograms of shape (rows, bins) and their full ranges, shape (rows,)."""
    least = torch.full((len(values),), torch.inf)
    best = torch.ones(len(values))
    wide = len(SCHEMES[scheme].around) > 1  # otherwise few shares give different grids
    for share in SHARES if wide else SCHEMES[scheme].shares.flip(0):
        low, high = (end * share for end in full)
        codes = grid_over(low, high, bits, scheme, axis=0).quantize(values)
        inside = (values >= low[:, None]) & (values <= high[:, None])
        divergence = _divergence(counts, inside, codes.long() + 128)
        better = divergence < least
        least, best = torch.where(better, divergence, least), torch.where(better, share, best)
    return best


def _divergence(counts: Tensor, inside: Tensor, cells: Tensor) -> Tensor:
    """KL(P, Q) of each row, shape (rows,); infinite where nothing is inside.

    Args:
        counts: Shape (rows, bins), over rising values.
        inside: Which bins the range holds.
        cells: The grid point of each bin, 0 to 383.
    """
    kept = counts * inside
    first, last = inside.int().argmax(1), inside.shape[1] - 1 - inside.flip(1).int().argmax(1)
    place = torch.arange(counts.shape[1])
    below = (counts * (place < first[:, None])).sum(1, keepdim=True)
    above = (counts * (place > last[:, None])).sum(1, keepdim=True)
    p = kept.scatter_add(1, first[:, None], below).scatter_add_(1, last[:, None], above)
    filled = (kept > 0).float()
    masses, bins = (torch.zeros(len(counts), 384).scatter_add_(1, cells, each) for each in (kept, filled))
    q = (masses / bins.clamp(min=1)).gather(1, cells) * filled
    p, q = (each / each.sum(1, keepdim=True) for each in (p, q))
    found = torch.where(p > 0, p * (p / q.clamp(min=FLOOR)).log(), 0.0).sum(1)
    # rounding errors of sums must not prefer one of two that are equally good
    return torch.where(inside.any(1) & torch.isfinite(found), (found * 1e5).round() / 1e5, torch.inf)


def _histogram(values: Tensor, bins: int) -> Tensor:
    """Counts of each row's magnitudes as shares of the largest, shape (rows, bins)."""
    magnitudes = values.abs()
    shares = magnitudes / magnitudes.amax(1, keepdim=True).clamp(min=2.0**-100)
    places = (shares * bins).long().clamp_(0, bins - 1)
    return torch.zeros(len(values), bins).scatter_add_(1, places, torch.ones_like(values))
