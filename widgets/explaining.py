"""The part of a session that explains: which layer hurts, what its grids do, and which examples flip."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any

import traitlets

from widgets.desk import Desk
from widgets.measuring import SECONDS_BETWEEN
from widgets.planning import Planning
from widgets.problems import in_words
from widgets.worker import Pace, Worker
from workbench.errors import Cancelled, WorkbenchError, nearest
from workbench.explaining.explanation import Explanation
from workbench.explaining.flips import FlipList
from workbench.explaining.histogram import LayerHistogram
from workbench.recipe import Recipe

PATIENCE = 0.1
"""Seconds between two looks at whether the measuring has ended."""


class Explaining(Planning):
    """Explanations on demand, in a thread of their own, for the recipe on the screen."""

    explanation = traitlets.Instance(Explanation, allow_none=True, read_only=True)
    """What each layer does, growing while `explaining`; of an earlier recipe until it is asked for anew. Default:
    None."""
    flip_list = traitlets.Instance(FlipList, allow_none=True, read_only=True)
    """Examples that are answered otherwise than in fp32, of the same recipe as `explanation`. Default: None."""
    histograms = traitlets.Dict(read_only=True)
    """`LayerHistogram` of each layer that was asked for, by name, of the recipe on the screen. Default: none."""
    explaining = traitlets.Unicode(read_only=True)
    """What is being looked at, for the page; "" (default) when nothing is."""

    def __init__(self, desk: Desk) -> None:
        self._explained: dict[str, tuple[Explanation | None, FlipList | None]] = {}
        self._question = 0
        self._subject: tuple[str, Recipe] | None = None
        self._wanted: dict[str, None] = {}  # layers whose histograms are asked for, in order
        self._explainer = Worker("workbench-explaining")
        self._explainer_end = weakref.finalize(self, self._explainer.close)
        super().__init__(desk)

    def explain(self) -> None:
        """Find out which layer of the recipe on the screen hurts, and which examples flip.

        It begins when the measuring has ended, so that it does not spoil a timing.

        Raises:
            WorkbenchError: Nothing is quantized.
        """
        with self._change():
            self._require_open()
            if not self.recipe.quantization.active:
                raise WorkbenchError("Nothing is quantized yet, so no layer hurts; set bits first.")
            self.bench.check(self.recipe)
            self._question += 1
            self._set(explaining="Waiting for the measuring to end…" if self.busy else "Looking…", problem="")
            self._explainer.submit(
                partial(self._explain, self._question, self._desk, self.recipe),
                partial(self._not_explained, self._question, f"Explaining {self.recipe.label}"),
            )

    def stop_explaining(self) -> None:
        """End it; what was found out stays."""
        with self._change():
            if self.explaining:
                self._question += 1
                self._explainer.cancel()
                self._set(explaining="")

    def show_histogram(self, layer: str) -> None:
        """Make the histogram of a layer, for the recipe on the screen.

        Raises:
            WorkbenchError: There is no such layer.
        """
        with self._change():
            self._require_open()
            known = [each.name for each in self.bench.layers]
            if layer not in known:
                raise WorkbenchError(f"There is no layer {layer!r:.60}. {nearest(layer, known)}")
            if layer in self.histograms:
                return
            self._wanted[layer] = None
            if not self.explaining:  # else it is made between two runs
                self._explainer.submit(
                    partial(self._look_into, self._question, self._desk, self.recipe),
                    partial(self._not_explained, self._question, f"Looking into {layer}"),
                )

    def close(self) -> None:
        """Cancel everything and end the threads; may be called again."""
        with self._change():
            self._question += 1
            self._explainer.cancel()
            self._set(explaining="")
        super().close()
        self._explainer_end()  # not under the lock, which a job may need to come to its end

    # Inside

    def _occupied(self) -> bool:
        """Whether something runs that this would disturb."""
        return self.busy

    def _move(self, recipe: Recipe) -> None:
        with self._change():
            name = self._desk.name
            if (name, recipe) != self._subject:
                self._subject = (name, recipe)
                self._question += 1
                self._wanted.clear()
                self._explainer.cancel()
                explanation, flips = self._explained.get(name, (None, None))
                self._set(explanation=explanation, flip_list=flips, histograms={}, explaining="")
            super()._move(recipe)

    def _explain(self, question: int, desk: Desk, recipe: Recipe, cancel: threading.Event) -> None:
        """In the worker: the layers, then the flips."""
        with self._settled:
            while self._occupied() and not cancel.is_set():
                self._settled.wait(PATIENCE)
        pace = Pace(SECONDS_BETWEEN)
        for explanation in desk.bench.explain_stream(recipe, cancel):
            news = explanation.done in (0, explanation.total) or explanation.scanned
            if pace.due() or news:
                runs = f"run {explanation.done} of {explanation.total}" if explanation.total else "looking"
                self._found(question, desk, f"Layers: {runs}", explanation=explanation)
            self._look_into(question, desk, recipe, cancel)
        for flips in desk.bench.flips_stream(recipe, cancel=cancel):
            if pace.due() or flips.done in (1, flips.total):
                self._found(question, desk, f"Flips: layer {flips.done} of {flips.total}", flip_list=flips)
            self._look_into(question, desk, recipe, cancel)
        with self._change():
            if question == self._question:
                self._set(explaining="")

    def _look_into(self, question: int, desk: Desk, recipe: Recipe, cancel: threading.Event) -> None:
        """In the worker: the histograms that were asked for meanwhile."""
        while True:
            with self._lock:
                if question != self._question or cancel.is_set() or not self._wanted:
                    return
                layer = next(iter(self._wanted))
                del self._wanted[layer]
            made: LayerHistogram = desk.bench.histogram(recipe, layer)
            with self._change():
                if question == self._question:
                    histograms: Mapping[str, Any] = self.histograms
                    self._set(histograms={**histograms, layer: made})

    def _found(self, question: int, desk: Desk, said: str, **values: Any) -> None:
        with self._change():
            if question != self._question:
                raise Cancelled
            self._set(explaining=said, **values)
            both = self.flip_list is not None and self.explanation is not None
            if both and self.flip_list.recipe != self.explanation.recipe:
                self._set(flip_list=None)
            self._explained[desk.name] = (self.explanation, self.flip_list)

    def _not_explained(self, question: int, what: str, error: BaseException) -> None:
        text = "" if isinstance(error, Cancelled) else in_words(what, error)
        with self._change():
            if question != self._question:
                return
            self._set(explaining="")
            if text:
                self._set(problem=text)
