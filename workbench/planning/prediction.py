"""The drop of any mix of bits, from what its parts cost alone and from every whole mix that was seen.

Prior: the parts' effects add up (exact to second order for independent errors). Posterior: a Gaussian process
(Rasmussen and Williams 2006) that corrects single parts, and how the sum turns into a drop, by whole mixes. These are
of two fidelities (Kennedy and O'Hagan 2000): calibration data, and reports measured on the task, which
differ from calibration by a share and by the sampling errors of both.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workbench.planning.losses import Effect
from workbench.planning.sensitivity import Asked, Sensitivity, Term, terms_of

Array = NDArray[np.float64]

LEAST_POINTS = 12
"""Whole mixes from which more than their parts is learned."""
POINTS = 320
"""Whole mixes that a prediction rests on at most; the latest count."""
PARTS = (0.1, 0.3, 0.6)
"""How far a part's effect in company may be off what it is alone, as shares; the likeliest is taken."""
LINKS = (0.05, 0.15, 0.4)
"""How far the sum may be off the drop, alike for mixes of like sums."""
RESTS = (0.03, 0.08, 0.2)
"""How far a single mix may be off all that."""
TRANSFER = 0.1
"""How far the evaluation may be off calibration data in the same direction for all mixes, as a share."""
GUESSED_NOISE = 64 / 12
"""Noise power over signal power is this times 4^-bits, for a grid that spans eight standard deviations."""
WIDTHS = (0.7, 3.0)
Z90 = 1.6448536269514722  # 95th percentile of the standard normal distribution
TINY = 1e-12


class Predicted(NamedTuple):
    """Drops of mixes in the metric's unit."""

    drop: Array
    error: Array
    """Standard deviations of what a measurement would show around them."""


class _Fit(NamedTuple):
    """What was learned; replaced as a whole, so that a thread never sees half of it."""

    revision: int
    places: Mapping[Term, int]
    costs: Array
    """Of each term alone."""
    weighed: tuple[float, float]
    """By which a term's loss and its noise make its cost."""
    floor: float
    """A drop that cannot be told from none."""
    sampling: float
    """Variance of a measured drop around calibration's, over the drop."""
    shares: tuple[float, float, float]
    """The likeliest of `PARTS`, `LINKS` and `RESTS`."""
    mixes: Array
    """1 where a mix has a term, shape (points, terms)."""
    measured: NDArray[np.bool_]
    weights: Array
    inverse: Array
    """Of the covariance's Cholesky factor."""
    width: float
    """By how much intervals are widened, so that they would have held what was seen."""


class Predictor:
    """Predicts drops; learns from every measured one."""

    def __init__(self, sensitivity: Sensitivity, scale: float, examples: int) -> None:
        """
        Args:
            sensitivity: Effects on calibration data.
            scale: What fp32 scores: the size of a total loss, for parts that were never measured.
            examples: How many an evaluation has.
        """
        self._sensitivity = sensitivity
        self._scale = abs(scale) or 1.0
        self._examples = max(examples, 1)
        self._seen: dict[tuple[Term, ...], float] = {}
        self._revision = 0
        self._fitted: _Fit | None = None
        self._learning = threading.Lock()
        """Held while a fit is made, by whoever measured."""
        self._lock = threading.Lock()
        """Held for a moment, while something is replaced."""

    @property
    def seen(self) -> Mapping[tuple[Term, ...], float]:
        """Measured drops by their mixes."""
        return self._seen

    def observe(self, asked: Asked, drop: float) -> None:
        """Remember a drop measured on all of the task's examples; `learn` makes use of it."""
        terms = terms_of(asked)
        with self._lock:
            if terms and math.isfinite(drop) and self._seen.get(terms) != drop:
                self._seen.pop(terms, None)
                self._seen[terms] = drop
                self._revision += 1

    def learn(self) -> None:
        """Take in what was measured since the last time, up to a quarter of a second; predictions go on meanwhile.

        Whoever measured calls this, so that whoever predicts never waits.
        """
        self._latest()

    def predict(self, mixes: Sequence[Asked]) -> Predicted:
        """Drops of mixes as a measurement would show them, by what was learned last.

        Args:
            mixes: What is asked of each layer; parts without a measured effect are guessed from their bits.
        """
        named = [terms_of(asked) for asked in mixes]
        fit = self._fit(named)
        return _posterior(fit, _table(named, fit.places))

    def costs(self, terms: Sequence[Term]) -> Array:
        """What each part adds to the drop, shape (terms,), at least 0: the additive share of what was learned."""
        fit = self._fit([tuple(terms)])
        learned = fit.costs + (fit.shares[0] * fit.costs) ** 2 * (fit.weights @ fit.mixes)
        return np.maximum(learned[[fit.places[term] for term in terms]], 0.0)

    def _fit(self, named: Sequence[tuple[Term, ...]]) -> _Fit:
        """The last complete fit, with all of these terms in it; made here only where there is none."""
        fit = self._fitted
        if fit is None:
            fit = self._latest()
        new = [term for term in dict.fromkeys(itertools.chain(*named)) if term not in fit.places]
        if not new:
            return fit
        wider = self._widened(fit, new)
        with self._lock:
            if self._fitted is fit:
                self._fitted = wider
        return wider

    def _latest(self) -> _Fit:
        with self._learning:
            fit, revision = self._fitted, self._sensitivity.revision + self._revision
            if fit is None or fit.revision != revision:
                fit = self._learned(revision)
                with self._lock:
                    self._fitted = fit
            return fit

    def _widened(self, fit: _Fit, new: Sequence[Term]) -> _Fit:
        """A fit that knows further terms. They are in no mix that it rests on, so nothing else in it changes."""
        places = {**fit.places, **{term: len(fit.places) + at for at, term in enumerate(new)}}
        costs = _costs(*self._alone(new), fit.weighed)
        mixes = np.concatenate([fit.mixes, np.zeros((len(fit.mixes), len(new)))], 1)
        return fit._replace(places=places, costs=np.concatenate([fit.costs, costs]), mixes=mixes)

    def _learned(self, revision: int) -> _Fit:
        tried = dict(self._sensitivity.mixes)
        seen = dict(self._seen)
        calibrated = list(tried.items())[-(POINTS // 2) :]
        watched = list(seen.items())[-(POINTS // 2) :]
        named = [terms for terms, _ in (*calibrated, *watched)]
        known = dict(self._sensitivity.effects)
        index = {term: place for place, term in enumerate(dict.fromkeys(itertools.chain(known, *named)))}
        losses, noises = self._alone(list(index))
        mixes = _table(named, index)
        drops = np.array([*(effect.loss for _, effect in calibrated), *(drop for _, drop in watched)])
        weighed = _weights(losses, noises, mixes[: len(calibrated)], drops[: len(calibrated)])
        costs = _costs(losses, noises, weighed)
        total = mixes @ costs
        sampling = _sampling([effect for _, effect in calibrated], total[: len(calibrated)], self._examples)
        sampling = min(sampling, self._scale)
        resolution = 0.1 * self._scale / self._examples
        floor = min(max(sampling, 1e-3 * float(np.median(total)) if len(total) else 0.0, resolution), self._scale)
        measured = np.arange(len(named)) >= len(calibrated)
        shares, none = (PARTS[1], LINKS[1], RESTS[1]), (np.zeros(0), np.zeros((0, 0)))
        fit = _Fit(revision, index, costs, weighed, floor, sampling, shares, mixes, measured, *none, 2.0)
        return _conditioned(fit, drops - total) if named else fit

    def _alone(self, terms: Sequence[Term]) -> tuple[Array, Array]:
        """Losses and noises of single terms."""
        effects = [self._sensitivity.effects.get(term) or self._guess(term) for term in terms]
        return np.array([max(each.loss, 0.0) for each in effects]), np.array([each.noise for each in effects])

    def _guess(self, term: Term) -> Effect:
        """From the bits alone, where a part was not measured yet."""
        noise = GUESSED_NOISE * 4.0**-term.bits
        return Effect(self._scale * noise / (1 + noise), noise, 0.0, 0.0)


def _table(named: Sequence[tuple[Term, ...]], index: Mapping[Term, int]) -> Array:
    table = np.zeros((len(named), len(index)))
    for row, terms in zip(table, named, strict=True):
        row[[index[term] for term in terms]] = 1.0
    return table


def _weights(losses: Array, noises: Array, mixes: Array, drops: Array) -> tuple[float, float]:
    """How much the losses and the noises of single terms count, as whole mixes show.

    A loss that is counted is coarse where it is small, and noise is not; but noise is in no unit.
    """
    from scipy.optimize import nnls

    if len(mixes) < LEAST_POINTS:
        return 1.0, 0.0
    both = mixes @ np.stack([losses, noises], 1)
    even = 1 / (np.abs(drops) + max(float(np.abs(drops).mean()) * 0.1, TINY))
    scale = np.maximum(np.abs(both).max(0), TINY)
    found = nnls(both / scale * even[:, None], drops * even)[0] / scale
    return (float(found[0]), float(found[1])) if found.any() else (1.0, 0.0)


def _costs(losses: Array, noises: Array, weighed: tuple[float, float]) -> Array:
    return losses * weighed[0] + noises * weighed[1]


def _sampling(effects: Sequence[Effect], sums: Array, examples: int) -> float:
    if not effects or not sums.sum() > 0:
        return 0.0
    variance = sum(effect.error**2 + effect.spread**2 / examples for effect in effects)
    return float(variance / sums.sum())


class _Alike(NamedTuple):
    """Covariances of two lists of mixes, before they are weighted by the shares."""

    parts: Array
    """By the terms that both have."""
    links: Array
    """By how near their sums are."""
    transfers: Array
    """Between measured drops alone."""


def _alike(fit: _Fit, a: Array, b: Array, of_a: NDArray[np.bool_], of_b: NDArray[np.bool_]) -> _Alike:
    sums = [mixes @ fit.costs for mixes in (a, b)]
    raised = [each + fit.floor for each in sums]
    near = np.exp(-0.5 * np.square(np.log(raised[0])[:, None] - np.log(raised[1])[None]))
    sampled = np.sqrt(np.outer(*raised)) * fit.sampling
    transfers = TRANSFER**2 * np.outer(*sums) + 0.5 * sampled * near
    return _Alike((a * fit.costs**2) @ b.T, np.outer(*raised) * near, transfers * np.outer(of_a, of_b))


def _together(alike: _Alike, shares: tuple[float, float, float]) -> Array:
    return shares[0] ** 2 * alike.parts + shares[1] ** 2 * alike.links + alike.transfers


def _own(fit: _Fit, mixes: Array, measured: NDArray[np.bool_], rest: float) -> Array:
    """Variance that a mix shares with no other."""
    total = mixes @ fit.costs + fit.floor
    sampled = np.where(measured, 0.5 * fit.sampling * total, 0.0)
    return (rest * total) ** 2 + sampled + (TINY + 0.1 * fit.floor) ** 2


def _conditioned(fit: _Fit, off: Array) -> _Fit:
    """The likeliest shares for what was seen, and what follows from them."""
    from scipy.linalg import cho_solve, solve_triangular

    alike = _alike(fit, fit.mixes, fit.mixes, fit.measured, fit.measured)
    best: tuple[float, tuple[float, float, float], Array] = (-math.inf, fit.shares, np.zeros((0, 0)))
    for shares in itertools.product(PARTS, LINKS, RESTS):
        covariance = _together(alike, shares)
        covariance[np.diag_indices_from(covariance)] += _own(fit, fit.mixes, fit.measured, shares[2])
        covariance[np.diag_indices_from(covariance)] *= 1 + 1e-9
        factor = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        weights = cho_solve((factor, True), off, check_finite=False)
        likelihood = -0.5 * float(off @ weights) - float(np.log(np.diag(factor)).sum())
        if likelihood > best[0]:
            best = likelihood, shares, factor
    _, shares, factor = best
    inverse = solve_triangular(factor, np.eye(len(off)), lower=True, check_finite=False)
    weights = inverse.T @ (inverse @ off)
    # what each mix would have been predicted without itself: Rasmussen and Williams, equations 5.10 to 5.12
    precision = np.square(inverse).sum(0)
    scores = np.abs(weights) / np.sqrt(precision)
    if fit.measured.sum() >= LEAST_POINTS:
        scores = scores[fit.measured]
    enough = len(scores) >= LEAST_POINTS
    width = float(np.clip(np.quantile(scores, 0.9) / Z90, *WIDTHS)) if enough else 1.0
    return fit._replace(shares=shares, weights=weights, inverse=inverse, width=width)


def _posterior(fit: _Fit, mixes: Array) -> Predicted:
    drop = mixes @ fit.costs
    measured = np.ones(len(mixes), dtype=bool)
    raised = drop + fit.floor
    part, link, rest = fit.shares
    prior = (part * fit.costs) ** 2 @ mixes.T + (link * raised) ** 2 + (TRANSFER * drop) ** 2
    variance = prior + 0.5 * fit.sampling * raised + _own(fit, mixes, measured, rest)
    if len(fit.mixes):
        across = _together(_alike(fit, mixes, fit.mixes, measured, fit.measured), fit.shares)
        drop = drop + across @ fit.weights
        variance = variance - np.square(fit.inverse @ across.T).sum(0)
    return Predicted(drop, fit.width * np.sqrt(np.maximum(variance, (0.1 * fit.floor) ** 2)))
