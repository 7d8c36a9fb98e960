"""Intervals for what is counted, compared and timed. All are at 95 % confidence."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from workbench.report import Estimate, Flips, Source

Z = 1.959963984540054  # 97.5th percentile of the standard normal distribution


def proportion(hits: int, n: int, source: Source) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927), which also holds near 0 and 1.

    Args:
        hits: Examples that were right, 0..n.
        n: Examples, at least 1.
        source: How the examples were evaluated.
    """
    share = hits / n
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    # at 0 and n one end is the share itself, but for the rounding of floats
    return Estimate(
        value=share,
        low=max(0.0, min(share, centre - half)),
        high=min(1.0, max(share, centre + half)),
        unit="",
        source=source,
    )


def paired_difference(lost: int, gained: int, n: int, source: Source) -> Estimate:
    """The difference of two accuracies on the same examples, baseline minus candidate.

    Agresti and Min's interval for matched pairs (2005): Wald with half an observation added to each
    cell, which keeps its coverage when few examples differ.

    Args:
        lost: Right at the baseline only.
        gained: Right at the candidate only.
        n: Examples, at least 1.
        source: How the examples were evaluated.
    """
    b, c, total = lost + 0.5, gained + 0.5, n + 2
    centre = (b - c) / total
    half = Z * math.sqrt(max(b + c - (b - c) ** 2 / total, 0.0)) / total
    value = (lost - gained) / n
    return Estimate(
        value=value,
        low=max(-1.0, min(value, centre - half)),
        high=min(1.0, max(value, centre + half)),
        unit="",
        source=source,
    )


def mcnemar(lost: int, gained: int) -> float:
    """p-value of McNemar's exact test: a two-sided sign test over the examples that flipped."""
    n = lost + gained
    if n == 0:
        return 1.0
    if n > 1000:  # the normal approximation with continuity correction is exact enough, and cannot overflow
        return math.erfc(max(abs(lost - gained) - 1, 0) / math.sqrt(2 * n))
    tail = sum(math.comb(n, k) for k in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail / 2**n)


def flips(lost: int, gained: int, n: int) -> Flips:
    """Counted flips with their test."""
    return Flips(lost=lost, gained=gained, n=n, p_value=mcnemar(lost, gained))


def median_interval(samples: NDArray[np.float64], unit: str, seed: int = 0) -> Estimate:
    """The median with its bootstrap percentile interval.

    Args:
        samples: Shape (n,), at least one.
        unit: Of the samples.
        seed: Of the resampling.
    """
    resampled = np.random.default_rng(seed).choice(samples, (1000, len(samples)))
    low, high = np.percentile(np.median(resampled, axis=1), (2.5, 97.5))
    return Estimate(value=float(np.median(samples)), low=float(low), high=float(high), unit=unit, source="measured")
