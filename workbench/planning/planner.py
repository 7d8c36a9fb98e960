"""Finding the best mix under a budget: a programme over the additive model, corrected by measuring.

Each round the programme is solved for a row of sizes, its answers and their neighbours are predicted with
all that is known so far, and the one that promises most is measured: the expected improvement under the budget
(Jones et al. 1998), or the area that it would add to the frontier. The measured report corrects the model.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from workbench.errors import Cancelled, PlanError
from workbench.planning.explanation import exchanges, reasons
from workbench.planning.forecast import Forecast
from workbench.planning.frontier import hypervolume, non_dominated
from workbench.planning.plan import Budget, Plan, amount, kilobytes
from workbench.planning.programme import sweep
from workbench.planning.space import Options, Space
from workbench.recipe import Recipe
from workbench.report import Report

Measure = Callable[[Recipe, threading.Event | None], Report]
Array = NDArray[np.float64]

SIZES = 14
"""Budgets between the smallest and the largest mix for which the programme is solved each round."""
DROPS = (0.5, 0.8, 1.0, 1.25)
"""Shares of a largest drop for which it is: the additive model may be off either way."""
OPTIMISM = 0.5
"""Standard deviations by which a drop may turn out better, when candidates are weighed."""
UNLIKELY = 0.02
"""Where no candidate keeps the largest drop with this probability, the least drop is looked for."""
WIDELY = 3
"""Under a budget, every so many evaluations one is spent on the whole frontier."""


class Planner:
    """Plans in one space of mixes."""

    def __init__(self, forecast: Forecast, space: Space, budget: Budget, measure: Measure) -> None:
        """
        Args:
            forecast: Predicts, and learns.
            space: What can be chosen.
            budget: What has to be kept; its latency was looked at by the caller.
            measure: A report of all examples.
        """
        self._forecast = forecast
        self._space = space
        self._budget = budget
        self._measure = measure
        self._measured: dict[Options, Report] = {}
        self._bytes: list[list[int]] = []
        self._predicted: list[Options] = []

    def stream(self, evaluations: int, cancel: threading.Event | None = None) -> Iterator[Plan]:
        """Plans that get better; the last one is the answer, also when `cancel` was set.

        Args:
            evaluations: How many recipes may be measured.
            cancel: Ends the search with the best so far.

        Raises:
            PlanError: The smallest mix is too large; or everything was spent, and no mix that was seen keeps the
                largest drop.
        """
        self._bytes = [
            [self._forecast.sizes.layer(name, spec) for spec in own]
            for name, own in zip(self._space.layers, self._space.options, strict=True)
        ]
        self._check_size()
        best = self._plan(evaluations, "a first guess")
        yield best
        try:
            for scheme in self._space.schemes:
                grids = "" if len(self._space.schemes) == 1 else f" on {scheme} grids"
                method = self._space.template.quantization.replace(scheme=scheme)
                for progress in self._forecast.measure(method, cancel):
                    said = f"effects of layers{grids}, {progress.done} of {progress.total}"
                    yield best.model_copy(update={"stage": said})
            while len(self._measured) < evaluations:
                chosen = self._promising()
                if chosen is None:
                    break
                report = self._measure(self._space.recipe(chosen), cancel)
                self._measured[chosen] = report
                self._forecast.observe(report)
                done = len(self._measured)
                best = self._plan(evaluations, f"measuring, {done} of {evaluations}")
                yield best
        except Cancelled:
            yield self._plan(evaluations, "")
            return
        yield self._finished(evaluations)

    # Choosing what to measure

    def _promising(self) -> Options | None:
        """The candidate to measure next; None where all were."""
        candidates = [options for options in self._candidates() if options not in self._measured]
        if not candidates:
            return None
        sizes = self._sizes(candidates)
        drop, error = self._drops(candidates)
        limited = self._budget.max_bytes is not None or self._budget.max_drop is not None
        if limited and (len(self._measured) + 1) % WIDELY:
            scores = self._improvement(sizes, drop, error)
            if scores.max() > 0:
                return candidates[int(scores.argmax())]
        scores = self._growth(sizes, drop - OPTIMISM * error)
        if scores.max() > 0:
            return candidates[int(scores.argmax())]
        return candidates[int((drop - OPTIMISM * error).argmin())]

    def _improvement(self, sizes: Array, drop: Array, error: Array) -> Array:
        """How much better than the best so far each is expected to be, 0 where it is too large."""
        from scipy.special import ndtr

        error = np.maximum(error, 1e-12)
        small = np.ones(len(sizes), dtype=bool)
        if self._budget.max_bytes is not None:
            small = sizes <= self._budget.max_bytes
        kept = [options for options in self._measured if self._keeps(self._measured[options])]
        if self._budget.max_drop is not None:
            likely = ndtr((self._budget.max_drop - drop) / error)
            if not kept and likely[small].max(initial=0.0) > UNLIKELY:
                largest = float(sizes.max())
                return np.where(small, likely * (1 + (largest - sizes) / max(largest, 1.0)), 0.0)
            if kept and self._budget.max_bytes is None:
                least = min(self._measured[options].size.value for options in kept)
                return np.where(small, likely * np.maximum(least - sizes, 0.0), 0.0)
        if not kept:
            return np.where(small, np.exp(-(drop - drop[small].min()) / error.max()), 0.0) if small.any() else drop * 0
        margin = min(self._measured[options].drop.value for options in kept) - drop
        gain = margin * ndtr(margin / error) + error * np.exp(-0.5 * (margin / error) ** 2) / math.sqrt(2 * math.pi)
        return np.where(small, gain, 0.0)

    def _growth(self, sizes: Array, drop: Array) -> Array:
        """The area that each would add to the measured frontier."""
        points = [(report.size.value, report.drop.value) for report in self._measured.values()]
        reference = self._reference(sizes, drop)
        before = hypervolume(points, reference)
        return np.array([hypervolume([*points, point], reference) - before for point in zip(sizes, drop, strict=True)])

    def _reference(self, sizes: Array, drop: Array) -> tuple[float, float]:
        seen = [report.drop.value for report in self._measured.values()]
        heaviest = sum(max(own) for own in self._bytes) + self._overhead
        return max(float(sizes.max()), heaviest) * 1.01, max([float(drop.max()), *seen, 1e-12]) * 1.01

    def _candidates(self) -> list[Options]:
        """Answers of the programme for all sizes, and what is a step away from them or from the measured frontier."""
        self._predicted = self._answers()
        points = [(report.size.value, report.drop.value) for report in self._measured.values()]
        measured = list(self._measured)
        centres = [*self._predicted, *(measured[index] for index in non_dominated(points))]
        found = dict.fromkeys(centres)
        for options in dict.fromkeys(centres):
            found.update(dict.fromkeys(self._space.neighbours(options)))
        return list(found)

    def _answers(self) -> list[Options]:
        costs = self._costs()
        sizes: list[list[float]] = [list(map(float, own)) for own in self._bytes]
        lightest, heaviest = (sum(pick(own) for own in sizes) for pick in (min, max))
        budgets = list(np.geomspace(max(lightest, 1.0), max(heaviest, 1.0), SIZES))
        budgets[0] = max(budgets[0], lightest)
        if self._budget.max_bytes is not None:
            budgets.append(self._budget.max_bytes - self._overhead)
        found = sweep(costs, sizes, budgets)
        if self._budget.max_drop is not None:
            found += sweep(sizes, costs, [share * max(self._budget.max_drop, 0.0) for share in DROPS])
        return list(dict.fromkeys(found))

    # What is known of a mix

    def _costs(self) -> list[list[float]]:
        terms = self._space.terms()
        flat = [term for own in terms for option in own for term in option]
        cost = dict(zip(flat, self._forecast.predictor.costs(flat), strict=True))
        return [[float(sum(cost[term] for term in option)) for option in own] for own in terms]

    def _drops(self, mixes: Sequence[Options]) -> tuple[Array, Array]:
        found = self._forecast.predictor.predict([self._space.asked(options) for options in mixes])
        return found.drop, found.error

    def _sizes(self, mixes: Sequence[Options]) -> Array:
        """Bytes of the files, exactly."""
        return np.array([self._size(options) for options in mixes], dtype=float)

    def _size(self, options: Options) -> int:
        report = self._measured.get(options)
        if report is not None:
            return int(report.size.value)
        return self._forecast.sizes.total(self._space.asked(options), self._space.recipe(options).to_json())

    @property
    def _overhead(self) -> float:
        """Bytes of a file beside the layers' tensors, of the smallest mix."""
        options = tuple(int(np.argmin(own)) for own in self._bytes)
        return self._size(options) - sum(min(own) for own in self._bytes)

    # Plans

    def _keeps(self, report: Report) -> bool:
        size, drop = self._budget.max_bytes, self._budget.max_drop
        return (size is None or report.size.value <= size) and (drop is None or report.drop.value <= drop)

    def _in_time(self, report: Report) -> bool:
        """The template was chosen so that every mix is, unless a cancel came before anything was timed."""
        most = self._budget.max_latency
        return most is None or (report.latency is not None and report.latency.value <= most)

    def _report(self, options: Options) -> Report:
        return self._measured.get(options) or self._forecast.predict(self._space.recipe(options))

    def _best(self) -> Options:
        """Of what was measured, or, before anything was, of what the programme answers."""
        if self._measured:
            pool = {options: (r.size.value, r.drop.value) for options, r in self._measured.items()}
            if self._budget.max_bytes is not None and not any(p[0] <= self._budget.max_bytes for p in pool.values()):
                pool |= self._foreseen()  # what keeps the size alone was not measured yet
        else:
            pool = self._foreseen()
        size, drop = self._budget.max_bytes, self._budget.max_drop
        small = {o: p for o, p in pool.items() if size is None or p[0] <= size} or pool
        kept = {o: p for o, p in small.items() if drop is None or p[1] <= drop}
        if not kept:  # the largest drop is kept by none: the least drop comes nearest
            return min(small, key=lambda o: (small[o][1], small[o][0]))
        if size is None and drop is not None:
            return min(kept, key=lambda o: (kept[o][0], kept[o][1]))
        if size is not None:
            return min(kept, key=lambda o: (kept[o][1], kept[o][0]))
        return _knee(kept)

    def _foreseen(self) -> dict[Options, tuple[float, float]]:
        mixes = self._predicted or self._answers()
        self._predicted = mixes
        smallest = tuple(int(np.argmin(own)) for own in self._bytes)
        mixes = list(dict.fromkeys([*mixes, smallest]))
        return dict(zip(mixes, zip(self._sizes(mixes), self._drops(mixes)[0], strict=True), strict=True))

    def _plan(self, evaluations: int, stage: str) -> Plan:
        best = self._best()
        report = self._report(best)
        costs = self._costs()
        foreseen = [self._forecast.predict(self._space.recipe(options)) for options in self._predicted]
        measured = list(self._measured.values())
        frontier = measured or foreseen
        points = [[(r.size.value, r.drop.value) for r in reports] for reports in (frontier, foreseen)]
        return Plan(
            budget=self._budget,
            recipe=report.recipe,
            report=report,
            frontier=tuple(frontier[index] for index in non_dominated(points[0])),
            predicted=tuple(foreseen[index] for index in non_dominated(points[1])),
            reasons=reasons(self._space, best, costs, self._bytes),
            exchanges=exchanges(self._space, best, costs, self._bytes, report.metric, self._drops),
            kept=self._keeps(report) and self._in_time(report),
            evaluations=len(self._measured),
            total=evaluations,
            stage=stage,
        )

    def _finished(self, evaluations: int) -> Plan:
        if self._predicted:
            self._predicted = self._answers()
        plan = self._plan(evaluations, "")
        if not self._keeps(plan.report):
            raise self._refusal(plan.report)
        return plan

    def _check_size(self) -> None:
        most = self._budget.max_bytes
        if most is None:
            return
        smallest = tuple(int(np.argmin(own)) for own in self._bytes)
        size = self._size(smallest)
        if size > most:
            nearest = self._forecast.predict(self._space.recipe(smallest))
            raise PlanError(
                f"max_bytes = {most:,.0f}: no mix of {_listed(self._space.bits)} bits is as small; the smallest has "
                f"{size:,} bytes and an expected drop of {amount(nearest.drop.value, nearest.metric)}. "
                f"Allow {size:,} bytes, or lower bit-widths.",
                nearest,
            )

    def _refusal(self, nearest: Report) -> PlanError:
        asked = self._budget.max_drop or 0.0
        within = "" if self._budget.max_bytes is None else f" within {kilobytes(self._budget.max_bytes)}"
        how = "as predicted" if nearest.drop.source == "predicted" else "as measured"
        return PlanError(
            f"max_drop = {asked:g}: no mix of {_listed(self._space.bits)} bits{within} was found that loses so little; "
            f"{nearest.recipe.label} comes nearest with {amount(nearest.drop.value, nearest.metric)}, {how}, and "
            f"{kilobytes(nearest.size.value)}. Allow that drop, more bytes, or more bits.",
            nearest,
        )


def _knee(points: dict[Options, tuple[float, float]]) -> Options:
    """Where the frontier bends most: the point furthest below the line between its ends."""
    names, values = list(points), np.array(list(points.values()))
    order = non_dominated([(float(size), float(drop)) for size, drop in values])
    along = values[order]
    span = np.maximum(along.max(0) - along.min(0), 1e-12)
    scaled = (along - along.min(0)) / span
    return names[order[int(scaled.sum(1).argmin())]]


def _listed(bits: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(bits)))
