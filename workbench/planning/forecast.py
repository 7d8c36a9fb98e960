"""Predicted reports: drop, size, and latency where the same kernels were timed before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from workbench.environment import environment
from workbench.errors import Cancelled, RecipeError
from workbench.network import Network
from workbench.planning.prediction import Predictor
from workbench.planning.sensitivity import Asked, Progress, Sensitivity, Term
from workbench.planning.sizes import Sizes
from workbench.quantization.quantizer import LayerSpec, WeightSpec, specs
from workbench.recipe import MAX_BITS, MIN_BITS, Quantization, Recipe
from workbench.report import Estimate, Flips, Report
from workbench.statistics import Z
from workbench.task import Task


class Cost(BaseModel):
    """What one layer's weights or input alone cost at one bit-width."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    part: str
    """``weights`` or ``activations``."""
    bits: int
    drop: Estimate
    """On calibration data, with targets made up from the fp32 outputs."""
    noise: float
    """KL divergence from the fp32 output's classes, or noise power over signal power."""


class Forecast:
    """What recipes of one model on one task will cost."""

    def __init__(self, network: Network, task: Task, baseline: Callable[[], Report], folder: Path) -> None:
        """
        Args:
            network: The model.
            task: What it is measured on.
            baseline: The model in fp32; asked when it is first needed.
            folder: Where effects are kept for the next process.
        """
        self.network = network
        self.sensitivity = Sensitivity(
            network, task, lambda: baseline().accuracy.value, folder / "sensitivity", environment()["workbench"]
        )
        self.sizes = Sizes(network)
        self._task = task
        self._baseline = baseline
        self._predictor: Predictor | None = None
        self._latencies: dict[object, tuple[Estimate, Estimate | None]] = {}
        self._waiting: list[tuple[Asked, float]] = []
        """What was observed before the first prediction, for which the baseline need not have been measured."""
        self._lock = threading.Lock()

    @property
    def predictor(self) -> Predictor:
        """Made when the baseline is first needed."""
        with self._lock:
            if self._predictor is None:
                self._predictor = Predictor(self.sensitivity, self._baseline().accuracy.value, len(self._task))
                for asked, drop in self._waiting:
                    self._predictor.observe(asked, drop)
            return self._predictor

    @staticmethod
    def refusal(recipe: Recipe) -> str | None:
        """Why nothing can be predicted of a recipe; None where it can."""
        if recipe.distillation is not None:
            return "distillation: a student's accuracy cannot be predicted before it is trained; measure it."
        if recipe.quantization.joint or recipe.quantization.equalize:
            return (
                "quantization: method='brecq', correction='batchnorm' and equalize=True make layers depend on each "
                "other, and a prediction adds up what each costs by itself; measure the recipe."
            )
        widths = {recipe.quantization.weight_bits, *(each.weight_bits for each in recipe.quantization.layers.values())}
        if any(bits is not None and bits < MIN_BITS for bits in widths):
            return f"weight_bits: predictions know {MIN_BITS} to {MAX_BITS} bits; measure the recipe."
        if recipe.quantization.activation_range == "dynamic":
            return "quantization: what ranges cost that are taken at each call is not predicted; measure the recipe."
        if recipe.finetuning is not None:
            return "finetuning: what a network learns cannot be predicted before it is trained; measure it."
        return None

    def asked(self, recipe: Recipe) -> Asked:
        """What a recipe asks of each layer.

        Raises:
            RecipeError: See `refusal`.
        """
        reason = self.refusal(recipe)
        if reason is not None:
            raise RecipeError(reason)
        return specs(recipe.quantization, self.network.layers)

    def known(self, recipe: Recipe) -> bool:
        """Whether `predict` answers at once: the recipe's method was looked at on calibration data.

        Raises:
            RecipeError: See `refusal`.
        """
        return self.sensitivity.known(self.asked(recipe)) and self.sensitivity.ready(recipe.quantization)

    def measure(self, quantization: Quantization, cancel: threading.Event | None = None) -> Iterator[Progress]:
        """See `Sensitivity.measure`; afterwards `predict` answers in milliseconds.

        Raises:
            RecipeError: See `asked`.
            Cancelled: `cancel` was set.
        """
        self.asked(Recipe(quantization=quantization))
        predictor = self.predictor
        try:
            yield from self.sensitivity.measure(quantization, cancel)
        except Cancelled:  # the plan that comes of it rests on what was measured until then
            predictor.learn()
            raise
        predictor.learn()
        for term in self.sensitivity.terms(quantization):  # what a report needs beside the drop
            if cancel is not None and cancel.is_set():
                raise Cancelled
            weights = isinstance(term, WeightSpec)
            self.sizes.layer(term.layer, LayerSpec(term, None) if weights else LayerSpec(None, term))  # type: ignore[arg-type]
            if isinstance(term, WeightSpec):
                self.network.quantizer.sqnr(term)
        self.known(Recipe(quantization=quantization))

    def costs(self, quantization: Quantization) -> tuple[Cost, ...]:
        """What was measured of single layers with a method, in the order of the layers."""
        made = []
        for term in sorted(self.sensitivity.terms(quantization), key=self._place):
            effect = self.sensitivity.effects.get(term)
            if effect is not None:
                unit, half = self._baseline().accuracy.unit, Z * effect.error
                drop = Estimate(
                    value=effect.loss, low=effect.loss - half, high=effect.loss + half, unit=unit, source="simulated"
                )
                made.append(Cost(layer=term.layer, part=_part(term), bits=term.bits, drop=drop, noise=effect.noise))
        return tuple(made)

    def predict(self, recipe: Recipe) -> Report:
        """A report without a run of the model; what was not measured yet is guessed from its bits.

        Raises:
            RecipeError: See `asked`.
        """
        asked, baseline = self.asked(recipe), self._baseline()
        if not any(any(spec) for spec in asked.values()):
            return baseline.model_copy(update={"recipe": recipe})
        found = self.predictor.predict([asked])
        value, half = float(found.drop[0]), Z * float(found.error[0])
        accuracy = baseline.accuracy
        sign = 1 if baseline.metric.higher_is_better else -1
        at = accuracy.value - sign * value
        around = [(half**2 + (accuracy.value - end) ** 2) ** 0.5 for end in (accuracy.low, accuracy.high)]
        least, most = (0.0, 1.0) if baseline.metric.share else (float("-inf"), float("inf"))
        at = min(max(at, least), most)
        value = sign * (accuracy.value - at)
        unit = accuracy.unit
        latency, speedup = self._latencies.get(self._container(recipe, asked), (None, None))
        return Report(
            recipe=recipe,
            evaluated=0,
            total=len(self._task),
            metric=baseline.metric,
            accuracy=Estimate(
                value=at, low=max(at - around[0], least), high=min(at + around[1], most), unit=unit, source="predicted"
            ),
            drop=Estimate(value=value, low=value - half, high=value + half, unit=unit, source="predicted"),
            flips=Flips(lost=0, gained=0, n=0, p_value=1.0),
            size=Estimate.exact(self.sizes.total(asked, recipe.to_json()), "B"),
            latency=latency,
            speedup=speedup,
            layers=tuple(self.network.row(name, spec, self.sizes.layer(name, spec)) for name, spec in asked.items()),
            notes=(*self._task.notes, *self.network.notes),
            environment=environment(),
        )

    def observe(self, report: Report) -> None:
        """Learn from a measured report, so that predictions of other recipes get better."""
        recipe = report.recipe
        if self.refusal(recipe) is not None:
            return
        asked = self.asked(recipe)
        if report.latency is not None and report.latency.source == "measured":
            pair = [e and e.model_copy(update={"source": "predicted"}) for e in (report.latency, report.speedup)]
            self._latencies[self._container(recipe, asked)] = (pair[0], pair[1])  # type: ignore[assignment]
        if report.complete and report.drop.source != "predicted" and any(any(spec) for spec in asked.values()):
            with self._lock:
                predictor = self._predictor
                if predictor is None:
                    self._waiting.append((asked, report.drop.value))
                    return
            predictor.observe(asked, report.drop.value)
            predictor.learn()

    def _container(self, recipe: Recipe, asked: Asked) -> object:
        """What decides which kernels run: bits do not, as 2 to 8 of them lie in 8-bit integers."""
        kinds = [
            (spec.weight and (spec.weight.scheme, spec.weight.granularity), spec.activation is not None)
            for spec in asked.values()
        ]
        return recipe.deployment, tuple(kinds)

    def _place(self, term: Term) -> tuple[int, str, int]:
        return list(self.network.layers).index(term.layer), _part(term), term.bits


def _part(term: Term) -> str:
    return "weights" if isinstance(term, WeightSpec) else "activations"
