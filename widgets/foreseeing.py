"""The part of a session that predicts: what layers cost is learned while nothing else is done, and used at once."""

from __future__ import annotations

import statistics
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import traitlets

from widgets.desk import Desk, Foreseen, method_of
from widgets.measuring import SECONDS_BETWEEN
from widgets.problems import in_words
from widgets.training import Training
from widgets.worker import Pace, Worker
from workbench.errors import Cancelled, WorkbenchError
from workbench.recipe import Quantization, Recipe
from workbench.report import Report

DEAR = 60.0
"""Seconds of learning that nobody has asked for at most: a server has other users."""
TRIAL = 2.0
"""Seconds after which it is known how long the rest takes."""
LEAST, FEW = 6, 3
"""Runs that tell it: the first ones prepare what the others use. Few are enough where they take long."""
PATIENCE = 10.0
"""Seconds that is."""
RECENT = 8
"""Runs whose median tells how long the rest takes."""


class Errand(NamedTuple):
    """Something that is done in the background, of itself."""

    kind: str
    desk: str
    """Name of the model."""
    subject: object
    """What it is about: with the same kind, desk and subject it is the same errand."""
    number: int = 0
    """Tells a second attempt from the first."""


class Foreseeing(Training):
    """Keeps a prediction beside the report, and what was predicted beside what was measured."""

    _desks: dict[str, Desk]

    def __init__(self, desk: Desk) -> None:
        self._foreseeing = Worker("workbench-foreseeing")
        self._errand: Errand | None = None
        """What the worker does, so that it is not begun twice; None where it does nothing."""
        self._errands = 0
        self._in_vain: set[str] = set()
        """Models that could not be looked at."""
        super().__init__(desk)
        self._foreseeing_ends = weakref.finalize(self, self._foreseeing.close)

    def learn(self) -> None:
        """Measure what each layer costs with the method on the screen, however long it takes.

        Raises:
            WorkbenchError: Nothing can be predicted for the recipe on the screen.
        """
        with self._change():
            self._require_open()
            method = self._method()
            if method is None or method in self._desk.hopeless:
                raise WorkbenchError(f"{self.recipe.label} cannot be predicted; measure it.")
            self._desk.asked.add(method)
            self._desk.dear.pop(method, None)
            self._set(problem="")
            self._consider()

    def stop_learning(self) -> None:
        """Stop what `learn` began; what was learned so far is kept."""
        with self._change():
            method = self._method()
            if self.sensing is not None and method is not None:
                self._desk.asked.discard(method)
                self._desk.dear[method] = self._desk.rest
                self._interrupt()
                self._show_sensing()

    @property
    def asked_to_learn(self) -> bool:
        """Whether someone asked for what is being learned."""
        return self._method() in self._desk.asked

    def close(self) -> None:
        """Cancel everything and end the threads; may be called again."""
        self._foreseeing.cancel()
        super().close()
        self._foreseeing_ends()

    # Predictions

    def _move(self, recipe: Recipe) -> None:
        with self._change():
            super()._move(recipe)
            self._foresee()
            self._consider()

    def _foresee(self) -> None:
        """Predict the recipe on the screen, if that takes no time; else nothing is predicted."""
        desk, recipe = self._desk, self.recipe
        prediction = self._predicted(recipe)
        if prediction is not None and recipe.key not in desk.tried:
            desk.pending[recipe.key] = prediction
        self._set(prediction=prediction, foreseen=tuple(desk.foreseen.values()))

    def _predicted(self, recipe: Recipe) -> Report | None:
        method = method_of(recipe)
        if method is None or method not in self._desk.learned:
            return None
        try:
            bench = self._desk.bench
            report: Report | None = bench.predict(recipe) if bench.predictable(recipe) else None
        except WorkbenchError:  # the measurement comes, which says more
            return None
        return report

    def _show(self, generation: int, desk: Desk, report: Report) -> None:
        with self._change():
            super()._show(generation, desk, report)
            prediction = desk.pending.pop(report.recipe.key, None) if report.complete else None
            if prediction is not None and prediction.drop.source == "predicted":
                key, name = report.recipe.key, report.recipe.label
                desk.foreseen[key] = Foreseen(key, name, prediction.drop, report.drop, report.metric)
                self._set(foreseen=tuple(desk.foreseen.values()))

    # Learning

    def _method(self) -> Quantization | None:
        """The method on the screen, if effects of layers can be known at all."""
        able = hasattr(self._desk.bench, "sensitivity_stream")
        return method_of(self.recipe) if able else None

    @traitlets.observe("busy", "training", "preflight")
    def _pause_or_go_on(self, _: Any) -> None:
        with self._change():
            self._consider()

    def _consider(self) -> None:
        """Whether there is something to do in the background; a measurement or a training never waits for it."""
        found = self._next_errand() if self._at_rest() else None
        if found is None:
            self._interrupt()
        elif self._errand is None or found[0][:3] != self._errand[:3]:
            self._interrupt()
            self._errands += 1
            errand, job = found
            self._errand = errand = errand._replace(number=self._errands)
            self._foreseeing.submit(partial(job, errand), partial(self._errand_failed, errand))
        self._show_sensing()

    def _at_rest(self) -> bool:
        """Whether nobody waits for anything, and nothing looks at the model, which keeps others from running it."""
        desk = self._desk
        looking = desk.preflight is not None and not desk.preflight.complete and desk.name not in self._in_vain
        return not (
            self._foreseeing.closed or self._closed or self.busy or self.training or looking or desk.baseline is None
        )

    def _looked_in_vain(self, generation: int, error: BaseException) -> None:
        super()._looked_in_vain(generation, error)
        if not isinstance(error, Cancelled):
            with self._change():
                self._in_vain.add(self._desk.name)
                self._consider()

    def _next_errand(self) -> tuple[Errand, Callable[..., None]] | None:
        """What to do next, and the job, which gets the errand and a cancel event."""
        desk, method = self._desk, self._method()
        if method is None or method in desk.learned or method in desk.hopeless or method in desk.dear:
            return None
        return Errand("learning", desk.name, method), partial(self._learn, desk, method, self.recipe)

    def _interrupt(self) -> None:
        if self._errand is not None:
            self._errand = None
            self._foreseeing.cancel()

    def _learn(self, desk: Desk, method: Quantization, recipe: Recipe, errand: Errand, cancel: threading.Event) -> None:
        """In the worker: measure single layers, unless that turns out to take long and nobody asked for it."""
        pace, took, began = Pace(SECONDS_BETWEEN), deque[float](maxlen=RECENT), time.monotonic()
        before = began
        stream = desk.bench.sensitivity_stream(recipe.quantization, cancel)
        for done, total in stream:
            now = time.monotonic()
            took.append(now - before)
            before, rest = now, statistics.median(took) * (total - done)
            if pace.due():
                self._sense(errand, desk, done / max(1, total), rest)
            enough = len(took) >= (LEAST if now - began < PATIENCE else FEW)
            if now - began > TRIAL and enough and rest > DEAR and method not in desk.asked:
                stream.close()
                desk.dear[method] = rest
                self._errand_done(errand)
                return
        if known := desk.bench.predictable(recipe):
            desk.bench.predict(recipe)  # here, so that the first one on the screen takes no longer than the others
        with self._lock:
            if known:
                desk.learned.add(method)
            else:
                desk.hopeless[method] = ""
        self._errand_done(errand)

    def _sense(self, errand: Errand, desk: Desk, share: float, rest: float) -> None:
        with self._change():
            if errand != self._errand:
                raise Cancelled
            desk.rest = rest
            self._set(sensing=share)

    def _show_sensing(self) -> None:
        method = self._method()
        learning = self._errand is not None and self._errand.kind == "learning"
        self._set(
            sensing=(self.sensing or 0.0) if learning else None,
            sensing_takes=self._desk.dear.get(method, 0.0) if method is not None else 0.0,
        )

    def _errand_done(self, errand: Errand) -> None:
        with self._change():
            if errand == self._errand:
                self._errand = None
                if self.prediction is None and self.recipe.key in self._desk.tried:
                    self._set(prediction=self._predicted(self.recipe))
                self._consider()

    def _errand_failed(self, errand: Errand, error: BaseException) -> None:
        """In the worker: what cannot be predicted is not tried again, and is no trouble."""
        refused = isinstance(error, WorkbenchError)
        text = "" if refused or isinstance(error, Cancelled) else in_words("Learning what layers cost", error)
        with self._change():
            if not isinstance(error, Cancelled):
                self._give_up(errand, str(error) if refused else "")
            if errand == self._errand:
                self._errand = None
                if text:
                    self._set(problem=text)
                self._consider()

    def _give_up(self, errand: Errand, reason: str) -> None:
        if errand.kind == "learning":
            self._desks[errand.desk].hopeless[errand.subject] = reason  # type: ignore[index]
