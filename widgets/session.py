"""What a person does at the instrument: every control ends in one of these methods."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from widgets.desk import FP32, Desk, UndoStack, absent, cleared, desks, fitting, merged, trainable
from widgets.exporting import Exporting
from widgets.problems import in_words
from workbench.errors import Cancelled, WorkbenchError, nearest
from workbench.recipe import Deployment, Quantization, Recipe

if TYPE_CHECKING:
    from workbench.bench import Bench


class Session(Exporting):
    """A bench, the recipe on the screen, what it costs, and all that was tried before.

    Methods check and record, and return at once; numbers arrive in the traits. What is refused raises
    and changes nothing.

    Example:
        >>> session = Session(bench)                             # doctest: +SKIP
        >>> session.update(weight_bits=4)                        # doctest: +SKIP
        >>> session.wait().drop.value                            # doctest: +SKIP
        0.0031
    """

    def __init__(
        self,
        models: Bench | Mapping[str, Bench | Callable[[], Bench]] | None = None,
        recipe: Recipe = FP32,
    ) -> None:
        """
        Args:
            models: A bench; several by name, or callables that make them when they are first chosen; or
                None for the models that come along. The first one is loaded here.
            recipe: What to begin with.

        Raises:
            WorkbenchError: There is no bench, or it cannot measure the recipe.
        """
        self._desks = desks(models)
        desk = next(iter(self._desks.values()))
        desk.open().check(recipe)
        desk.undo = UndoStack(recipe)
        super().__init__(desk)
        with self._change():
            self._set(models=tuple(self._desks), absent=absent() if models is None else ())
            self._sit_down(desk)

    def __repr__(self) -> str:
        return f"Session({self.model!r}, {self.recipe.label}: {self.status})"

    # The recipe

    def update(self, **changes: object) -> None:
        """Change fields of the recipe's quantization or deployment: ``update(weight_bits=4, runtime="eager")``.

        The same fields changed again within 0.6 s are one step of the history.

        Raises:
            WorkbenchError: A field is unknown or its value is not possible here; nothing has changed.
        """
        known = [*Quantization.model_fields, *Deployment.model_fields]
        for field in changes:
            if field not in known:
                raise WorkbenchError(f"update({field}=…): there is no such field. {nearest(field, known)}")
        with self._lock:
            recipe = self.recipe
            for part in ("quantization", "deployment"):
                old = getattr(recipe, part)
                mine = {field: value for field, value in changes.items() if field in type(old).model_fields}
                if mine:
                    recipe = recipe.replace(**{part: old.replace(**mine)})
            self._apply(recipe, gesture=frozenset(changes))

    def set_layers(self, names: Sequence[str], **bits: int | None) -> None:
        """Give layers bits of their own, all in one step of the history.

        Args:
            names: Layers of the bench, or wildcards.
            bits: ``weight_bits``, ``activation_bits``, or both; None is floating point.

        Raises:
            WorkbenchError: No layers or bits were named, or one that is not possible; nothing has changed.
        """
        names = self._named(names)
        if not bits:
            raise WorkbenchError("set_layers: say which bits, weight_bits=… or activation_bits=….")
        with self._lock:
            quantization = merged(self.recipe.quantization, names, bits)
            gesture = (frozenset(names), frozenset(bits))
            self._apply(self.recipe.replace(quantization=quantization), gesture)

    def clear_layers(self, names: Sequence[str]) -> None:
        """Put layers back on the bits of all, in one step of the history.

        Raises:
            WorkbenchError: No layers were named, or one that is not there; nothing has changed.
        """
        names = self._named(names)
        with self._lock:
            layers = [layer.name for layer in self.bench.layers]
            quantization = self.recipe.quantization
            for name in names:
                if name not in layers and name not in quantization.layers:
                    raise WorkbenchError(f"clear_layers: there is no layer {name!r}. {nearest(name, layers)}")
            self._apply(self.recipe.replace(quantization=cleared(quantization, names, layers)))

    @staticmethod
    def _named(names: Sequence[str]) -> list[str]:
        chosen = [names] if isinstance(names, str) else list(names)
        if not chosen or not all(isinstance(name, str) for name in chosen):
            raise WorkbenchError(f"Names of layers are needed, at least one; this is {names!r:.80}.")
        return chosen

    def take_advice(self) -> None:
        """Try what the report suggests.

        Raises:
            WorkbenchError: There is no suggestion, or it is about an earlier recipe.
        """
        with self._lock:
            advice = None if self.report is None or self.stale else self.report.advice
            if advice is None or advice.recipe is None:
                raise WorkbenchError("There is no suggestion for this recipe.")
            self._apply(advice.recipe)

    # What was there before

    def restore(self, key: str) -> None:
        """Back to a recipe that was tried, as a new step of the history.

        Args:
            key: Its `Recipe.key`.

        Raises:
            WorkbenchError: It was not tried on this model.
        """
        with self._lock:
            self._apply(self._tried(key).recipe)

    def undo(self) -> None:
        """One step back; nothing happens at the start. What was measured is shown at once."""
        with self._change():
            steps = self._desk.undo
            self._travel(steps.earlier, steps.undo)

    def redo(self) -> None:
        """One step forward again; nothing happens at the end."""
        with self._change():
            steps = self._desk.undo
            self._travel(steps.later, steps.redo)

    def code(self) -> str:
        """The recipe as Python code that makes it again."""
        return self.recipe.code()

    def _travel(self, recipe: Recipe | None, step: Callable[[], None]) -> None:
        self._require_open()
        if recipe is not None:
            self.bench.check(recipe)
            step()
            self._move(recipe)

    # The model

    def choose_model(self, name: str) -> None:
        """Put another model on the bench. Each has its own recipe, history and reports, and keeps them.

        At its first visit it is loaded in the background; until it is there, and if that fails, the
        current one stays.

        Raises:
            WorkbenchError: It is not on offer.
        """
        with self._change():
            self._require_open()
            if name not in self.models:
                raise WorkbenchError(f"There is no model {name!r:.60} here. {nearest(str(name), self.models)}")
            desk = self._desks[name]
            if name == self.model:
                if self.loading:  # changed one's mind
                    self._move(self.recipe)
            elif desk.bench is not None:
                self._sit_down(desk)
            elif name != self.loading:
                self._generation += 1
                self._failure = None
                self._set(loading=name, problem="", stale=self.report is not None)
                self._set(busy=True, progress=0.0, status=f"Loading {name}…")
                self._measuring.submit(
                    partial(self._load, self._generation, desk),
                    partial(self._not_loaded, self._generation, f"Loading {name}"),
                )

    def _load(self, generation: int, desk: Desk, _: threading.Event) -> None:
        """In the worker: make the bench; it is kept even if another model was chosen meanwhile."""
        desk.open()
        with self._change():
            self._require(generation)
            self._sit_down(desk)

    def _not_loaded(self, generation: int, what: str, error: BaseException) -> None:
        text = "" if isinstance(error, Cancelled) else in_words(what, error)
        with self._change():
            if generation == self._generation:
                self._move(self.recipe)
                if text:
                    self._failure = error
                    self._set(problem=text)

    def _sit_down(self, desk: Desk) -> None:
        """Make a model with its bench the current one, as it was left."""
        recipe, distillation = desk.undo.current, self.distillation
        desk.bench.check(recipe)
        try:
            desk.bench.check(Recipe(distillation=distillation))
        except WorkbenchError:
            distillation = fitting(desk.bench, distillation)
        self._leave_training()
        self._desk = desk
        self._set(
            model=desk.name,
            bench=desk.bench,
            curve=desk.curve,
            lesson=desk.lesson,
            lap=desk.lap,
            study=desk.study,
            distillation=distillation,
            finetuning=trainable(desk.bench, self.finetuning),
            preflight=desk.preflight,
            imported=desk.imported,
        )
        self._move(recipe)
