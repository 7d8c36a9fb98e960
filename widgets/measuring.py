"""The part of a session that measures: the latest recipe, in one worker, into the traits.

A generation number decides, under the lock, whether what a job brings is still wanted.
"""

from __future__ import annotations

import threading
import time
import weakref
from functools import partial

from widgets.desk import FP32, Desk
from widgets.problems import in_words
from widgets.state import State
from widgets.worker import Pace, Worker
from workbench.errors import Cancelled, WorkbenchError
from workbench.recipe import Recipe
from workbench.report import Report

SECONDS_BETWEEN = 0.1
"""Partial reports and points of a curve come at most so often."""


class Measuring(State):
    """Keeps the report in step with the recipe."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._settled = threading.Condition(self._lock)
        self._generation = 0
        self._failure: BaseException | None = None
        self._desk = desk
        self._measuring = Worker("workbench-measuring")
        self._learning = Worker("workbench-learning")
        # also at the exit of the interpreter: a dying kernel tells the threads to stop and waits a moment
        self._finalizer = weakref.finalize(self, _close, self._measuring, self._learning)

    def _apply(self, recipe: Recipe, gesture: object = None) -> None:
        """The door for every new recipe: check, record, measure.

        Args:
            recipe: What was chosen.
            gesture: See `UndoStack.push`.

        Raises:
            WorkbenchError: The bench cannot measure it; nothing has changed.
        """
        with self._change():
            self._require_open()
            self.bench.check(recipe)
            if recipe != self.recipe:
                self._desk.undo.push(recipe, gesture)
                self._move(recipe)
            elif self.loading or not (self.busy or recipe.key in self._desk.final):
                self._move(recipe)  # asked for again after a cancel or an error
            else:
                self._set(problem="")

    def _move(self, recipe: Recipe) -> None:
        """Put a checked recipe on the screen and find out what is not known about it."""
        desk = self._desk
        with self._change():
            self._generation += 1
            self._failure = None
            with self.guard("Reading the store"):
                self._set(problem="")
                if desk.baseline is None and (baseline := desk.known(FP32)[0]):
                    desk.file(baseline)
            known, final = None, False
            with self.guard("Reading the store"):
                known, final = desk.known(recipe)
            if known is not None:
                desk.file(known)
                desk.report = known
            if final:
                desk.final.add(recipe.key)
            report = desk.report
            self._set(
                recipe=recipe,
                report=report,
                stale=report is not None and report.recipe != recipe,
                loading="",
                can_undo=desk.undo.earlier is not None,
                can_redo=desk.undo.later is not None,
                baseline=desk.baseline,
                tried=desk.in_order,
            )
            if known is not None and final and desk.baseline is not None:
                self._measuring.cancel()
                self._set(problem=known.untimed)  # of a runtime that failed a while ago
                self._rest(known)
                return
            self._set(busy=True, progress=0.0 if self.stale or report is None else _share(report), status="Measuring…")
            self._measuring.submit(
                partial(self._follow, self._generation, desk, recipe, time.monotonic()),
                partial(self._failed, self._generation, f"Measuring {recipe.label}"),
            )

    def _follow(self, generation: int, desk: Desk, recipe: Recipe, asked: float, cancel: threading.Event) -> None:
        """In the worker: show a recipe's reports as they come."""
        self._say_if_untrained(generation, desk, recipe)
        pace, stage, seconds, report, shown = Pace(SECONDS_BETWEEN), None, None, None, None
        for report in desk.bench.follow(recipe, cancel, progress=partial(self._say_rounded, generation)):
            if report.complete and seconds is None and report.advice is None:  # one with advice was known before
                seconds = time.monotonic() - asked
            reached = (report.complete, report.latency is None, report.untimed)
            if pace.due() or reached != stage:  # what has a new kind of number in it does not wait
                self._show(generation, desk, report)
                stage, shown = reached, report
            if report.complete and desk.preflight is None:  # a warning must not come after minutes
                with self.guard("Looking at the model"):  # numbers come whatever is found
                    self._look(generation, desk, cancel, first=True)
        if report is None:
            raise WorkbenchError(f"The bench had nothing to report on {recipe.label}.")
        if report is not shown:
            self._show(generation, desk, report)
        if desk.baseline is None and not cancel.is_set():
            baseline = desk.bench.baseline
            with self._lock:
                desk.file(baseline)
        with self._change():
            self._require(generation)
            desk.final.add(recipe.key)
            self._set(baseline=desk.baseline, tried=desk.in_order)
            if report.untimed:  # all that needs no runtime is there
                self._set(problem=report.untimed)
            elif not self.problem:  # numbers that are right but cannot be kept
                self._set(problem=getattr(getattr(desk.bench, "store", None), "problem", ""))
            self._rest(report, seconds)

    def _look(self, generation: int, desk: Desk, cancel: threading.Event, *, first: bool = False) -> None:
        """In the worker: find out what will work with the model, or only what can be said at once."""
        for found in desk.bench.preflight_stream(cancel):
            with self._change():
                self._require(generation)
                desk.preflight = found
                self._set(preflight=found)
            if first:
                return

    def _look_on(self) -> None:
        """When there is nothing else to do: the rest of what is to be known about the model."""
        desk = self._desk
        if desk.preflight is None or not desk.preflight.complete:
            generation = self._generation
            self._measuring.submit(partial(self._look, generation, desk), partial(self._looked_in_vain, generation))

    def _looked_in_vain(self, generation: int, error: BaseException) -> None:
        if not isinstance(error, Cancelled) and generation == self._generation:
            with self._change():
                self._set(problem=in_words("Looking at the model", error))

    def _require(self, generation: int) -> None:
        if generation != self._generation:
            raise Cancelled

    def _say_if_untrained(self, generation: int, desk: Desk, recipe: Recipe) -> None:
        said = ""
        if recipe.distillation is not None and not desk.bench.distilled(recipe.distillation):
            said = "Training the student…"
        elif recipe.finetuning is not None and not desk.bench.finetuned(recipe):
            said = "Fine-tuning…"
        if said:
            with self._change():
                self._require(generation)
                self._set(status=said)

    def _say_rounded(self, generation: int, share: float) -> None:
        """In the worker: how much of the weights' rounding is done, before the first report."""
        percent = int(100 * share)
        status = f"Rounding weights, {percent}\u202f%"
        # also said of single layers that advice looks at, when numbers are there: then it is no news
        if share < 1 and status != self.status and (self.stale or self.report is None):
            with self._change():
                self._require(generation)
                self._set(status=status, progress=share)

    def _show(self, generation: int, desk: Desk, report: Report) -> None:
        with self._change():
            self._require(generation)
            shown = desk.report
            if shown is not None and shown.recipe == report.recipe and _knowledge(report) < _knowledge(shown):
                return  # measured once more after a cancel: numbers on the screen get better, never worse
            desk.report = report
            if report.complete:
                desk.file(report)
            self._set(
                report=report,
                stale=False,
                progress=_share(report),
                status=self._said(report),
                baseline=desk.baseline,
                tried=desk.in_order,
            )

    def _said(self, report: Report) -> str:
        if not report.complete:
            return self._counted(report)
        if report.latency is None and not report.untimed:
            return f"Timing on {report.recipe.deployment.runtime}…"
        return "Looking for the layers that cost…"

    def _counted(self, report: Report) -> str:
        noun = getattr(getattr(self.bench, "task", None), "noun", "examples")
        return f"{report.evaluated:,} of {report.total:,} {noun}"

    def _rest(self, report: Report, seconds: float | None = None) -> None:
        took = "" if seconds is None else f" · {seconds:.2f} s"
        self._set(busy=False, progress=1.0, status=self._counted(report) + took)
        self._settled.notify_all()
        self._look_on()

    def _failed(self, generation: int, what: str, error: BaseException) -> None:
        """In the worker: how a job ended that did not end well."""
        text = "" if isinstance(error, Cancelled) else in_words(what, error)
        with self._change():
            if generation != self._generation:
                return  # nobody waits for it any more
            self._stop("Stopped by an error" if text else None)
            if text:
                self._failure = error
                self._set(problem=text)

    def _stop(self, status: str | None = None) -> None:
        """Forget the request that is under way; what it has shown stays."""
        self._generation += 1
        report = self.report
        stale = report is not None and report.recipe != self.recipe
        if status is None:
            status = "Cancelled" if stale or report is None else f"Cancelled at {self._counted(report)}"
        self._set(busy=False, loading="", stale=stale, status=status)
        self._settled.notify_all()

    def cancel(self) -> None:
        """Stop measuring or loading; the numbers that are there stay. A training goes on, see `stop_training`."""
        with self._change():
            if self.busy:
                self._measuring.cancel()
                self._stop()

    def wait(self, timeout: float | None = None) -> Report:
        """Block until everything about the current recipe is known, a training that changes it included.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            TimeoutError: The time was up first.
            Cancelled: It was cancelled.
            Exception: What measuring or training failed with.
        """
        if self._measuring.here or self._learning.here:
            raise RuntimeError("wait() was called from an observer, which what it waits for waits for")
        with self._settled:
            if not self._settled.wait_for(lambda: not (self.busy or self.training), timeout):
                raise TimeoutError(f"{self.recipe.label} was not finished after {timeout:g} s: {self.status}")
            if self._failure is not None:
                raise self._failure
            if self.report is None or self.recipe.key not in self._desk.final:
                raise Cancelled(self.status)
            return self.report

    def close(self) -> None:
        """Cancel everything and end the threads; may be called again."""
        with self._change():
            if not self._closed:
                self._closed = True
                self._measuring.cancel()
                self._learning.cancel()
                if self.busy:
                    self._stop()
                self._settled.notify_all()
        self._finalizer()  # not under the lock, which a job may need to come to its end


def _share(report: Report) -> float:
    return report.evaluated / report.total if report.total else 0.0


def _knowledge(report: Report) -> tuple[int, ...]:
    """Grows with what a report holds."""
    costs = sum(row.cost is not None for row in report.layers)
    return report.evaluated, report.latency is not None, costs, report.advice is not None


def _close(*workers: Worker) -> None:
    for worker in workers:
        worker.cancel()
    for worker in workers:
        worker.close()
