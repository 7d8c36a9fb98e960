"""Intervals for what is counted, compared and timed. All are at 95 % confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.report import Estimate, Flips, Source

RESAMPLES = 400
STRETCHES = 20
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


def paired_sum(sums: Tensor, source: Source) -> Estimate:
    """The mean over examples of what several accuracies add up to on each of them.

    Agresti and Min's observations as in `paired_difference`, of which this is the form for more than two: half an
    example at -1, half a one at 1, and one at 0 are added.

    Args:
        sums: Whole numbers, shape (n,): of each example, right answers that count for and against.
        source: How the examples were evaluated.
    """
    exact = sums.double()
    plain, total = float(exact.sum()), len(sums) + 2
    half = Z * math.sqrt(max(float(exact.square().sum()) + 1 - plain**2 / total, 0.0)) / total
    value, centre = plain / len(sums), plain / total
    return Estimate(value=value, low=min(value, centre - half), high=max(value, centre + half), unit="", source=source)


def repeated(values: Sequence[float], unit: str, source: Source) -> Estimate:
    """The mean of a few repetitions with Student's t interval (Student 1908).

    Args:
        values: At least two.
        unit: Of the values.
        source: How each was found.
    """
    from scipy.special import stdtrit

    n = len(values)
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)
    return Estimate(value=mean, low=mean - half, high=mean + half, unit=unit, source=source)


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


class Resampling:
    """Bootstrap of values that are functions of means, for examples that arrive one after the other.

    Poisson bootstrap (Chamandy et al., "Estimating uncertainty for massive data streams", 2012): every
    example has a fixed weight in every resample, so a stream only adds to sums, and two models on the
    same examples are resampled alike, which makes their difference a paired one.
    """

    def __init__(self, n: int, seed: int = 0) -> None:
        """
        Args:
            n: Examples, at least 1.
            seed: Of the weights.
        """
        weights = np.random.default_rng(seed).poisson(1.0, (RESAMPLES, n))
        self._weights = torch.from_numpy(weights.astype(np.uint8))

    def means(self, statistics: Tensor) -> Tensor:
        """Means of the first examples in every resample.

        Args:
            statistics: Shape (k, p), of the first k examples.

        Returns:
            Shape (resamples, p), float64; the plain means where a resample drew nothing.
        """
        weights = self._weights[:, : len(statistics)].double()
        sums, drawn = weights @ statistics.double(), weights.sum(1, keepdim=True)
        return torch.where(drawn > 0, sums / drawn.clamp(min=1), statistics.double().mean(0))


def resampled(value: Tensor, values: Tensor, unit: str, source: Source) -> Estimate:
    """A value with the percentile interval of its resamples, widened to hold the value itself.

    Args:
        value: Shape ().
        values: Of the resamples, shape (resamples,).
        unit: Of the value.
        source: How the examples were evaluated.
    """
    low, high = np.percentile(values.numpy(), (2.5, 97.5))
    at = float(value)
    return Estimate(value=at, low=min(at, float(low)), high=max(at, float(high)), unit=unit, source=source)


def median_interval(series: NDArray[np.float64], unit: str) -> Estimate:
    """The median of a series in time, with an interval that holds whatever the distribution is.

    Samples that follow each other are alike, so at most `STRETCHES` stretches of the series count, each with its
    median, and the interval lies between two of these: order statistics, chosen by the sign test (David and
    Nagaraja, "Order Statistics", 2003, section 7.1).

    Args:
        series: Shape (n,), in the order in which it was taken; fewer than six give their whole range, which holds
            the median less often than in 95 % of all cases.
        unit: Of the samples.
    """
    stretches = np.sort([np.median(part) for part in np.array_split(series, min(len(series), STRETCHES))])
    end = max(order_rank(len(stretches), 0.5), 1)
    value = float(np.median(series))
    low, high = float(stretches[end - 1]), float(stretches[-end])
    return Estimate(value=value, low=min(value, low), high=max(value, high), unit=unit, source="measured")


def quantile_interval(samples: NDArray[np.float64], share: float, unit: str) -> Estimate | None:
    """A quantile with its distribution-free interval; None where there are too few samples for one.

    Args:
        samples: Shape (n,), independent of each other.
        share: Of the samples that lie below it, 0..1.
        unit: Of the samples.
    """
    first, last = order_rank(len(samples), share), order_rank(len(samples), 1 - share)
    if not first or not last:
        return None
    ordered = np.sort(samples)
    value = float(np.quantile(ordered, share))
    low, high = float(ordered[first - 1]), float(ordered[-last])
    return Estimate(value=value, low=min(value, low), high=max(value, high), unit=unit, source="measured")


def order_rank(n: int, share: float) -> int:
    """Which of n samples, counted from the smallest, begins a quantile's 95 % interval; 0 where none is low enough.

    Args:
        n: Samples.
        share: Of the quantile, 0..1.
    """
    odds, probability = math.log(share) - math.log1p(-share), 0.0
    term = n * math.log1p(-share)  # logarithm of the probability that k samples lie below the quantile
    for k in range(n):
        probability += math.exp(term)
        if probability > 0.025:
            return k
        term += math.log((n - k) / (k + 1)) + odds
    return n
