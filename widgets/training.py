"""The part of a session that trains, in a thread of its own: students, and networks on their grids."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from widgets.choosing import Choosing
from widgets.desk import Desk, extended
from widgets.lessons import SEEDS, Compared, Lap, Lesson, in_laps
from widgets.measuring import SECONDS_BETWEEN
from widgets.problems import in_words
from widgets.worker import Pace
from workbench.distillation.progress import DivergenceError
from workbench.errors import Cancelled, WorkbenchError
from workbench.recipe import Distillation, Finetuning, Recipe


class Training(Choosing):
    """Training beside the measuring: controls go on answering while something is learned. One at a time."""

    def __init__(self, desk: Desk) -> None:
        self._lesson = 0
        self._pause = threading.Event()
        super().__init__(desk)

    # Distillation

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

    def choose_seeds(self, seeds: int) -> None:
        """With how many seeds the next distillation is run; they follow the one of the settings.

        Raises:
            WorkbenchError: It is not one of `SEEDS`.
        """
        with self._change():
            self._require_open()
            if seeds not in SEEDS or isinstance(seeds, bool):
                raise WorkbenchError(f"seeds = {seeds!r:.40}: allowed are {', '.join(map(str, SEEDS))}.")
            self._set(seeds=seeds, problem="")

    def distil(self) -> None:
        """Start a training with the current settings. When it ends, the recipe gets its student and is measured.

        With several seeds one training follows the other, and then all are compared; the recipe gets the first one's.

        Raises:
            WorkbenchError: A training is under way, or the settings are not possible here.
        """
        self._distil()

    def _distil(self, then: Callable[[Recipe], Lesson | None] | None = None) -> None:
        with self._change():
            self._require_idle("distillation")
            settings, bench = self.distillation, self.bench
            self.bench.check(Recipe(distillation=settings))
            self._begin(
                Lesson(
                    "distillation",
                    f"Distilling from {settings.teacher}",
                    settings,
                    partial(in_laps, bench, settings, self.seeds, self._new_pause()),
                    lambda: bench.distilled(settings),
                    lambda recipe: recipe.replace(distillation=settings, finetuning=None),
                    then,
                )
            )

    def without_distillation(self) -> None:
        """Back from the student to the model itself, quantization and deployment unchanged."""
        with self._lock:
            self._apply(self.recipe.replace(distillation=None, finetuning=None))

    # Fine-tuning

    def update_finetuning(self, **changes: Any) -> None:
        """Change settings for the next fine-tuning.

        Args:
            changes: Fields of `workbench.Finetuning`.

        Raises:
            WorkbenchError: A field is unknown or its value is not allowed; nothing has changed.
        """
        with self._lock:
            self._settle_finetuning(self.finetuning.replace(**changes))

    def _settle_finetuning(self, finetuning: Finetuning) -> None:
        with self._change():
            self._require_open()
            images = self.bench.training_images
            if images and finetuning.images > images:
                raise WorkbenchError(f"finetuning.images: {self.model} has {images:,} training images; choose fewer.")
            self._set(finetuning=finetuning, problem="")

    def finetune(self) -> None:
        """Train the network on, on the grids of the recipe. When it ends, the recipe gets it and is measured.

        Raises:
            WorkbenchError: A training is under way, nothing is quantized, or it is not possible here.
        """
        with self._change():
            self._require_idle("fine-tuning")
            if not self.recipe.quantization.active:
                raise WorkbenchError("Nothing is quantized yet, so there are no grids to train on; set bits first.")
            self._begin(self._finetuning_of(self.recipe, self.finetuning))

    def _finetuning_of(self, recipe: Recipe, settings: Finetuning) -> Lesson:
        bench, wanted = self.bench, recipe.replace(finetuning=settings)
        bench.check(wanted)
        learned = {"quantization": wanted.quantization, "distillation": wanted.distillation, "finetuning": settings}
        return Lesson(
            "finetuning",
            f"Fine-tuning {recipe.replace(finetuning=None).label}",
            settings,
            partial(bench.finetune, wanted, pause=self._new_pause()),
            lambda: bench.finetuned(wanted),
            lambda now: now.replace(**learned),
        )

    def without_finetuning(self) -> None:
        """Back to the weights before, bits and all else unchanged."""
        with self._lock:
            self._apply(self.recipe.replace(finetuning=None))

    def _apply(self, recipe: Recipe, gesture: object = None) -> None:
        """As in `Measuring`; what was trained for other grids is not taken along.

        Else the move of a slider would begin a training of minutes.
        """
        with self._change():
            now = self.recipe
            carried = recipe.finetuning is not None and recipe.finetuning == now.finetuning
            moved = (recipe.quantization, recipe.distillation) != (now.quantization, now.distillation)
            if carried and moved and recipe.key not in self._desk.tried and not self._is_finetuned(recipe):
                recipe = recipe.replace(finetuning=None)
            super()._apply(recipe, gesture)

    def _is_finetuned(self, recipe: Recipe) -> bool:
        try:
            self.bench.check(recipe)
        except WorkbenchError:  # what else is wrong is found without it as well
            return False
        return bool(self.bench.finetuned(recipe))

    # Any training

    def pause_training(self) -> None:
        """Hold the training that is under way; all that it has learned stays.

        Raises:
            WorkbenchError: None is under way.
        """
        with self._change():
            self._require_open()
            if not self.training:
                raise WorkbenchError("No training is under way; there is nothing to pause.")
            self._pause.set()
            self._set(paused=True, problem="")

    def resume_training(self) -> None:
        """Go on with the training that was paused."""
        with self._change():
            self._require_open()
            self._pause.clear()
            self._set(paused=False, problem="")

    def _new_pause(self) -> threading.Event:
        """Of the next training: the last one may still look at its own."""
        self._pause = threading.Event()
        return self._pause

    def stop_training(self) -> None:
        """End the training soon. The best so far is kept, and used if anything was learned."""
        with self._change():
            if self.training and not self._learning.cancel():
                self._end_training()  # it had not even begun

    def close(self) -> None:
        """Cancel everything and end the threads; may be called again."""
        with self._change():
            self._leave_training()
        super().close()

    def _require_idle(self, what: str) -> None:
        self._require_open()
        if self.training:
            raise WorkbenchError("A training is under way; stop it before another one is started.")
        if not self.bench.training_images:
            raise WorkbenchError(f"{self.model} has no training images; {what} needs a task with some.")

    def _begin(self, lesson: Lesson) -> None:
        self._lesson += 1
        self._failure = None
        self._open(lesson)
        self._learning.submit(
            partial(self._teach, self._lesson, self._desk, lesson),
            partial(self._not_taught, self._lesson, lesson.what if lesson.then is None else "Training"),
        )

    def _open(self, lesson: Lesson) -> None:
        self._desk.curve, self._desk.lesson, self._desk.lap, self._desk.study = (), lesson.kind, None, None
        self._set(training=True, lesson=lesson.kind, curve=(), lap=None, study=None, problem="")

    def _teach(self, number: int, desk: Desk, lesson: Lesson, cancel: threading.Event) -> None:
        """In the worker: train, and put what was learned into the recipe, also where the training broke off.

        What follows a lesson follows one that came to its end.
        """
        broken: DivergenceError | None = None
        following: Lesson | None = None
        try:
            last = self._watch(number, desk, lesson, cancel)
            learned = not last.cancelled or lesson.learned()
        except DivergenceError as error:
            if not lesson.learned():
                raise
            broken, learned = error, True
        with self._change():
            desk.forget(lesson.settings)
            if number == self._lesson:
                self._end_training()
                if learned:
                    self._apply(lesson.applied(self.recipe))
                if broken is not None:
                    self._set(problem=f"{broken} What was learned by then is in the recipe.")
                elif lesson.then is not None and not last.cancelled:
                    following = lesson.then(self.recipe)
                    if following is not None:
                        self._open(following)
        if following is not None:
            self._teach(number, desk, following, cancel)

    def _watch(self, number: int, desk: Desk, lesson: Lesson, cancel: threading.Event) -> Any:
        """In the worker: train, and show how far it is; the last progress."""
        pace, last, shown = Pace(SECONDS_BETWEEN), None, None
        for step in lesson.run(cancel):
            if isinstance(step, Lap | Compared):
                self._turn(number, desk, step)
                continue
            last = step
            if pace.due():
                self._plot(number, desk, last)
                shown = last
        if last is None:
            raise WorkbenchError(f"{lesson.what} ended before it began.")
        if last is not shown:
            self._plot(number, desk, last)
        return last

    def _turn(self, number: int, desk: Desk, step: Lap | Compared) -> None:
        """In the worker: the next seed begins, or what all came to is known."""
        with self._change():
            if number != self._lesson:
                return
            if isinstance(step, Lap):
                desk.lap, desk.curve = step, ()
                self._set(lap=step, curve=())
            else:
                desk.study = step.study
                self._set(study=step.study)
                if not self.busy:
                    self._set(status="Comparing the seeds…")

    def _plot(self, number: int, desk: Desk, progress: Any) -> None:
        with self._change():
            if number != self._lesson:
                return  # the training is told to stop already; let it come to its end in order
            desk.curve = extended(desk.curve, progress)
            self._set(curve=desk.curve)
            if not self.busy:
                share = min(1.0, progress.step / max(1, progress.steps))
                seed = "" if desk.lap is None else f"seed {desk.lap.number} of {desk.lap.of}, "
                what = "Paused" if self.paused else "Training"
                self._set(progress=share, status=f"{what}: {seed}step {progress.step:,} of {progress.steps:,}")

    def _not_taught(self, number: int, what: str, error: BaseException) -> None:
        text = "" if isinstance(error, Cancelled) else in_words(what, error)
        with self._change():
            if number != self._lesson and not text:
                return
            if number == self._lesson:
                self._end_training()
            if text:
                self._failure = error
                self._set(problem=text)

    def _end_training(self) -> None:
        self._set(training=False, paused=False)
        if not self.busy:
            report = None if self.stale else self.report
            self._set(progress=1.0 if report else 0.0, status=self._counted(report) if report else "")
        self._settled.notify_all()

    def _leave_training(self) -> None:
        """Stop a training that nobody waits for any more."""
        if self.training:
            self._lesson += 1
            self._learning.cancel()
            self._end_training()
