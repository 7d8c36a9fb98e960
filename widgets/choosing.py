"""The part of a session that looks for the method that suits the bits of a recipe."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from widgets.desk import Desk
from widgets.measuring import SECONDS_BETWEEN, Measuring
from widgets.worker import Pace
from workbench.errors import WorkbenchError
from workbench.recipe import Recipe

if TYPE_CHECKING:
    from workbench.choosing import Choice

BUDGETS = (2.0, 20.0, 120.0)
"""Seconds that a choice may take."""


class Choosing(Measuring):
    """Tries methods in the worker that measures: the recipe that it looks for is the next to be measured."""

    def choose_method(self, seconds: float) -> None:
        """Find method, grid and range for the bits on the screen; what is best enters the recipe as one step.

        `cancel` ends it, and the best so far is taken. A recipe that is chosen meanwhile wins: then nothing is.

        Args:
            seconds: How long methods are tried, one of `BUDGETS`.

        Raises:
            WorkbenchError: It is another time, or nothing is quantized; nothing has changed.
        """
        with self._change():
            self._require_open()
            if isinstance(seconds, bool) or seconds not in BUDGETS:
                known = ", ".join(f"{each:g}" for each in BUDGETS)
                raise WorkbenchError(f"choose_method({seconds!r:.40}): the time is one of {known} seconds.")
            if not self.recipe.quantization.active:
                raise WorkbenchError("Nothing is quantized yet, so there is no method to choose; set bits first.")
            recipe = self.recipe.replace(finetuning=None)  # its weights belong to the method that it was trained with
            self.bench.check(recipe)
            self._generation += 1
            self._failure = None
            self._set(choosing=True, choice=None, problem="", loading="")
            self._set(busy=True, progress=0.0, status="Choosing a method…")
            self._measuring.submit(
                partial(self._choose, self._generation, self._desk, recipe, seconds),
                partial(self._failed, self._generation, f"Choosing a method for {recipe.label}"),
            )

    def cancel(self) -> None:
        """Stop measuring or loading; the numbers that are there stay. A choice ends with the best so far.

        A training goes on, see `stop_training`.
        """
        with self._change():
            if self.choosing and self.choice is not None:
                self._measuring.cancel()
                self._take(self.choice.recipe)
            else:
                super().cancel()

    def _choose(self, generation: int, desk: Desk, recipe: Recipe, seconds: float, cancel: threading.Event) -> None:
        """In the worker: try methods until time is up."""
        started, pace, best = time.monotonic(), Pace(SECONDS_BETWEEN), None
        for best in desk.bench.auto_stream(recipe, seconds, cancel):
            if best.tried == 0 or best.tried == best.total or pace.due():
                self._show_choice(generation, best, (time.monotonic() - started) / seconds)
        if best is None:
            raise WorkbenchError(f"The bench had no method to try on {recipe.label}.")
        with self._change():
            self._require(generation)
            self._set(choice=best)
            self._take(best.recipe)

    def _show_choice(self, generation: int, best: Choice, share: float) -> None:
        with self._change():
            self._require(generation)
            text = f"Choosing: {best.tried} of {best.total} tried"
            self._set(choice=best, progress=min(1.0, max(share, best.tried / max(1, best.total))), status=text)

    def _take(self, recipe: Recipe) -> None:
        """End the choice with a recipe."""
        self._set(choosing=False, busy=False)
        now = self.recipe
        same = recipe.quantization == now.quantization  # then also what was trained for it stays
        recipe = now if same else recipe.replace(deployment=now.deployment)
        self.bench.check(recipe)
        if recipe != self.recipe:
            self._desk.undo.push(recipe)
        self._move(recipe)

    def _move(self, recipe: Recipe) -> None:
        with self._change():
            self._set(choosing=False)
            super()._move(recipe)

    def _stop(self, status: str | None = None) -> None:
        self._set(choosing=False)
        super()._stop(status)
