"""The part of a session that distils: settings, the training in its own thread, and its curve."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from widgets.desk import Desk, extended
from widgets.measuring import SECONDS_BETWEEN, Measuring
from widgets.problems import in_words
from widgets.worker import Pace
from workbench.errors import Cancelled, WorkbenchError
from workbench.recipe import Distillation, Recipe

if TYPE_CHECKING:
    from workbench.distillation.trainer import Progress


class Training(Measuring):
    """Distillation beside the measuring: controls go on answering while a student learns."""

    def __init__(self, desk: Desk) -> None:
        self._lesson = 0
        super().__init__(desk)

    def update_distillation(self, **changes: Any) -> None:
        """Change settings for the next training.

        Args:
            changes: Fields of `workbench.Distillation`.

        Raises:
            WorkbenchError: A field is unknown or its value is not possible here; nothing has changed.
        """
        with self._lock:
            self._settle_distillation(self.distillation.replace(**changes))

    def _settle_distillation(self, distillation: Distillation) -> None:
        with self._change():
            self._require_open()
            self.bench.check(Recipe(distillation=distillation))
            self._set(distillation=distillation, problem="")

    def distil(self) -> None:
        """Start a training with the current settings. When it ends, the recipe gets its student and is measured.

        Raises:
            WorkbenchError: One is under way, or the settings are not possible here.
        """
        with self._change():
            self._require_open()
            if self.training:
                raise WorkbenchError("A training is under way; stop it before another one is started.")
            if not self.bench.training_images:
                raise WorkbenchError(f"{self.model} has no training images; distillation needs a task with some.")
            distillation = self.distillation
            self.bench.check(Recipe(distillation=distillation))
            self._lesson += 1
            self._failure = None
            self._desk.curve = ()
            self._set(training=True, curve=(), problem="")
            self._distilling.submit(
                partial(self._teach, self._lesson, self._desk, distillation),
                partial(self._not_taught, self._lesson, f"Distilling from {distillation.teacher}"),
            )

    def stop_distilling(self) -> None:
        """End the training soon. The best student so far is kept, and used if it has learned anything."""
        with self._change():
            if self.training and not self._distilling.cancel():
                self._end_training()  # it had not even begun

    def without_distillation(self) -> None:
        """Back from the student to the model itself, quantization and deployment unchanged."""
        with self._lock:
            self._apply(self.recipe.replace(distillation=None))

    def close(self) -> None:
        """Cancel everything and end the threads; may be called again."""
        with self._change():
            self._leave_training()
        super().close()

    def _teach(self, lesson: int, desk: Desk, distillation: Distillation, cancel: threading.Event) -> None:
        """In the worker: train, and put the student into the recipe."""
        pace, last, shown = Pace(SECONDS_BETWEEN), None, None
        for last in desk.bench.distil(distillation, cancel):
            if pace.due():
                self._plot(lesson, desk, last)
                shown = last
        if last is None:
            raise WorkbenchError(f"The training from {distillation.teacher} ended before it began.")
        if last is not shown:
            self._plot(lesson, desk, last)
        learned = not last.cancelled or (last.student is not None and desk.bench.distilled(distillation))
        with self._change():
            desk.forget(distillation)
            if lesson == self._lesson:
                self._end_training()
                if learned:
                    self._apply(self.recipe.replace(distillation=distillation))

    def _plot(self, lesson: int, desk: Desk, progress: Progress) -> None:
        with self._change():
            if lesson != self._lesson:
                return  # the training is told to stop already; let it come to its end in order
            desk.curve = extended(desk.curve, progress)
            self._set(curve=desk.curve)
            if not self.busy:
                share = min(1.0, progress.step / max(1, progress.steps))
                self._set(progress=share, status=f"Training: step {progress.step:,} of {progress.steps:,}")

    def _not_taught(self, lesson: int, what: str, error: BaseException) -> None:
        text = "" if isinstance(error, Cancelled) else in_words(what, error)
        with self._change():
            if lesson != self._lesson and not text:
                return
            if lesson == self._lesson:
                self._end_training()
            if text:
                self._failure = error
                self._set(problem=text)

    def _end_training(self) -> None:
        self._set(training=False)
        if not self.busy:
            report = None if self.stale else self.report
            self._set(progress=1.0 if report else 0.0, status=self._counted(report) if report else "")
        self._settled.notify_all()

    def _leave_training(self) -> None:
        """Stop a training that nobody waits for any more."""
        if self.training:
            self._lesson += 1
            self._distilling.cancel()
            self._end_training()
