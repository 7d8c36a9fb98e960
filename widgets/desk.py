"""What a session keeps for each model, so that coming back finds everything as it was left."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.errors import WorkbenchError
from workbench.recipe import Distillation, Finetuning, Quantization, Recipe
from workbench.report import Estimate, MetricInfo, Report

if TYPE_CHECKING:
    from widgets.lessons import Lap
    from widgets.planning import Outlook, Proposal
    from workbench.distillation.trainer import Progress
    from workbench.preflight import Preflight

GESTURE_SECONDS = 0.6
MOST_STEPS = 500
MOST_POINTS = 400
FP32 = Recipe()


class UndoStack:
    """Recipes in the order they were chosen, and where in it one stands."""

    def __init__(self, start: Recipe, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps = [start]
        self._at = 0
        self._clock = clock
        self._gesture: Hashable = None
        self._moved = clock()

    @property
    def current(self) -> Recipe:
        """Where one stands."""
        return self._steps[self._at]

    @property
    def earlier(self) -> Recipe | None:
        """What `undo` would go back to; None at the start."""
        return self._steps[self._at - 1] if self._at else None

    @property
    def later(self) -> Recipe | None:
        """What `redo` would go forward to; None at the end."""
        return self._steps[self._at + 1] if self._at + 1 < len(self._steps) else None

    def push(self, recipe: Recipe, gesture: Hashable = None) -> None:
        """Add a step and forget those that were undone.

        Args:
            recipe: What was chosen.
            gesture: What the hand is on. A step with the same gesture less than 0.6 s after the last one
                replaces it: dragging a slider is one step. None is never the same.
        """
        now = self._clock()
        del self._steps[self._at + 1 :]
        if gesture is not None and gesture == self._gesture and now - self._moved < GESTURE_SECONDS:
            self._steps.pop()
        moved = self._steps[-1] != recipe
        if moved:  # else it was dragged back to where it began, which is no step at all
            self._steps.append(recipe)
        del self._steps[:-MOST_STEPS]
        self._at = len(self._steps) - 1
        # after a drag back, the next move must not replace the step from before the drag
        self._gesture, self._moved = (gesture if moved else None), now

    def undo(self) -> None:
        """One step back, if there is one."""
        self._gesture = None
        self._at = max(self._at - 1, 0)

    def redo(self) -> None:
        """One step forward, if there is one."""
        self._gesture = None
        self._at = min(self._at + 1, len(self._steps) - 1)


class Foreseen(NamedTuple):
    """What was predicted of a recipe before it was measured, and what was measured."""

    key: str
    name: str
    predicted: Estimate
    """Drop."""
    measured: Estimate
    """Drop, of all examples."""
    metric: MetricInfo


@dataclass
class Desk:
    """One model's part of a session."""

    name: str
    load: Callable[[], Any]
    """Makes the bench; may take seconds."""
    bench: Any = None
    """None before the first visit."""
    undo: UndoStack = field(default_factory=lambda: UndoStack(FP32))
    tried: dict[str, Report] = field(default_factory=dict)
    """Complete reports by the key of their recipe, in the order tried."""
    final: set[str] = field(default_factory=set)
    """Keys of recipes about which nothing more is to be found out."""
    baseline: Report | None = None
    report: Report | None = None
    """The last one shown."""
    curve: tuple[Progress, ...] = ()
    lesson: str = ""
    """What the curve is of."""
    lap: Lap | None = None
    """Which of several seeds the curve is of."""
    study: Any = None
    """What several seeds came to, a `SeedStudy`."""
    preflight: Preflight | None = None
    learned: set[Quantization] = field(default_factory=set)
    """Methods for which every mix is predicted at once."""
    hopeless: dict[Quantization, str] = field(default_factory=dict)
    """Methods for which nothing can be predicted, and why where it is known."""
    dear: dict[Quantization, float] = field(default_factory=dict)
    """Methods that are learned only when someone asks for it, and about how many seconds it takes."""
    asked: set[Quantization] = field(default_factory=set)
    """Methods that someone asked to have learned."""
    rest: float = 0.0
    """About how many seconds what is being learned still takes."""
    pending: dict[str, Report] = field(default_factory=dict)
    """Predictions of recipes that were not measured yet, by key."""
    foreseen: dict[str, Foreseen] = field(default_factory=dict)
    """Predictions of recipes that were measured afterwards, by key."""
    outlooks: dict[Recipe, Outlook] = field(default_factory=dict)
    """Predicted frontiers, by what they were planned around."""
    proposal: Proposal | None = None

    def open(self) -> Any:
        """The bench, made now if this is the first visit."""
        if self.bench is None:
            self.bench = self.load()
        return self.bench

    @cached_property
    def imported(self) -> tuple[Report, ...]:
        """Reports that came along with the model."""
        return () if self.bench is None else tuple(self.bench.frontier_reports())

    def file(self, report: Report) -> None:
        """Remember a complete report; the baseline also by its part."""
        self.tried[report.recipe.key] = report
        if report.recipe == FP32:
            self.baseline = report

    def forget(self, settings: Distillation | Finetuning) -> None:
        """With these settings something was trained (again): what was found out about it may have changed."""
        recipes = {key: report.recipe for key, report in self.tried.items()}
        self.final -= {key for key, recipe in recipes.items() if settings in (recipe.distillation, recipe.finetuning)}

    @property
    def in_order(self) -> tuple[Report, ...]:
        """What was tried, the baseline first."""
        first = () if self.baseline is None else (self.baseline,)
        baseline = FP32.key
        return first + tuple(report for key, report in self.tried.items() if key != baseline)

    def known(self, recipe: Recipe) -> tuple[Report | None, bool]:
        """What there is about a recipe without any work, and whether that is all there is to know."""
        report = self.tried.get(recipe.key)
        if recipe.key in self.final:
            return report, True
        stored = self.bench.known(recipe)
        return (report, False) if stored is None else (stored, not stored.untimed)


def method_of(recipe: Recipe) -> Quantization | None:
    """All of a recipe's quantization but bits and layers; None where the network is another one than the model."""
    if recipe.distillation is not None or recipe.finetuning is not None:
        return None
    return recipe.quantization.replace(weight_bits=None, activation_bits=None, layers={})


def extended(curve: tuple[Progress, ...], progress: Progress) -> tuple[Progress, ...]:
    """A curve with one more point, thinned to every second one when it has more than 400; its ends stay."""
    curve = (*curve, progress)
    return curve if len(curve) <= MOST_POINTS else (*curve[:-1:2], curve[-1])


def merged(quantization: Quantization, names: Sequence[str], bits: dict[str, int | None]) -> Quantization:
    """Some layers' own bits set, on top of what is already set for them.

    Raises:
        RecipeError: A value or a field that is not allowed.
    """
    own = {name: _chosen(quantization, name) | bits for name in names}
    return quantization.replace(layers={**quantization.layers, **own})


def cleared(quantization: Quantization, names: Sequence[str], layers: Sequence[str]) -> Quantization:
    """Some layers back on the common bits.

    Where a wildcard covers one of them, what it says for the others is written out by their names.

    Args:
        quantization: With overrides.
        names: Layers, or the wildcards themselves.
        layers: All layers of the model.
    """
    rest = {pattern: override for pattern, override in quantization.layers.items() if pattern not in names}
    wild = [pattern for pattern in rest if pattern not in layers]
    if any(quantization.matches(pattern, name) for name in names for pattern in wild if name in layers):
        kept = quantization.replace(layers=rest)
        rest = {name: own for name in layers if name not in names and (own := kept.overridden(name))}
    return quantization.replace(layers=rest)


def _chosen(quantization: Quantization, pattern: str) -> dict[str, Any]:
    override = quantization.layers.get(pattern)
    return {} if override is None else {name: getattr(override, name) for name in override.model_fields_set}


def fitting(bench: Any, wish: Distillation) -> Distillation:
    """Distillation settings that this bench can carry out, as near to a wish as it has images and teachers for."""
    teachers = [offer.name for offer in bench.teachers() if offer.reason is None]
    changes: dict[str, Any] = {} if wish.teacher in teachers or not teachers else {"teacher": teachers[0]}
    changes["others"] = tuple(each for each in wish.others if each in teachers and each != changes.get("teacher"))
    if wish.student is not None and wish.student not in bench.students():
        changes["student"] = None
    images = min(wish.images, bench.training_images) or wish.images
    return wish.replace(images=images, labels=min(wish.labels, images), **changes)


def trainable(bench: Any, wish: Finetuning) -> Finetuning:
    """Fine-tuning settings within the images that this bench has."""
    return wish.replace(images=min(wish.images, bench.training_images) or wish.images)


def desks(models: Any) -> dict[str, Desk]:
    """A desk for each model on offer.

    Args:
        models: A bench, a mapping of names to benches or to callables that make one, or None for the zoo.

    Raises:
        WorkbenchError: It is something else, or empty.
    """
    if models is None:
        from workbench import zoo  # only here: it reads data

        return {name: Desk(name, partial(zoo.load, name)) for name in zoo.names()}
    if hasattr(models, "follow"):
        models = {models.name: models}
    if not isinstance(models, Mapping) or not models:
        raise WorkbenchError(f"A bench, or {{name: bench}}, is needed to start from; this is {models!r:.80}.")
    found = {}
    for name, bench in models.items():
        if hasattr(bench, "follow"):
            found[name] = Desk(name, lambda bench=bench: bench, bench)
        elif callable(bench):
            found[name] = Desk(name, bench)
        else:
            raise WorkbenchError(f"model {name!r}: a bench or a callable that makes one is needed, not {bench!r:.80}.")
    return found


def absent() -> tuple[Any, ...]:
    """Models of the zoo that cannot be used here, with the reason."""
    from workbench import zoo

    return tuple(offer for offer in zoo.offers() if offer.reason is not None)
