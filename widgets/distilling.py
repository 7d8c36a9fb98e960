"""The part of a session that looks at students and compares what was tried: small questions, answered at once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import traitlets

from widgets.clocking import Clocking
from widgets.desk import FP32, Desk
from widgets.problems import in_words
from widgets.worker import Worker
from workbench.errors import WorkbenchError, nearest
from workbench.recipe import Distillation

if TYPE_CHECKING:
    from workbench.hardware import Profile
    from workbench.report import Estimate, Report
    from workbench.student_info import StudentInfo

TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0)
"""At which an example is looked at, beside the one of the settings: so that a slider need not wait."""
FORM = ("teacher", "student", "form", "width", "layers", "depth", "rank", "initial", "seed", "features")
"""Fields of a distillation that say what its student is and where it is taught; the others say how it learns."""
REMEMBERED = 200
"""Answers that are kept: going back to settings or to an example finds them."""


class Sketch(NamedTuple):
    """What a student would be, before it is trained."""

    info: StudentInfo | None
    """None where none can be made."""
    reason: str = ""
    """Why not, or why it cannot be taught so; "" where it can."""
    pairs: Mapping[str, str] = {}
    """Hidden layers that learn, and the teacher's from which they do; none where hidden layers are not taught."""
    latency: Estimate | None = None
    """Of a call of one example at the `place`, predicted; None where it is not known."""
    place: str = ""
    """``here, onnxruntime``, or ``on`` a device that is not here."""


class Place(NamedTuple):
    """Where a student would run."""

    name: str
    profile: Profile | None
    """Of a device that is not here; None: here."""
    timed: Report | None
    """A recipe of the model that was timed here."""

    @property
    def key(self) -> Hashable:
        """Equal for equal places."""
        profile = self.profile
        return (self.name, profile and (profile.model_dump_json(), profile.scale), self.timed and self.timed.recipe.key)


class Spoken(NamedTuple):
    """What a teacher says to one example, and its student and control where they are trained."""

    index: int
    """Of the example, in the task."""
    settings: Distillation
    """Whose they are."""
    softened: Mapping[float, Any]
    """`Softened` by temperature; none where it cannot be heard."""
    reason: str = ""
    """Why not; "" where it can."""


class Pair(NamedTuple):
    """Two recipes that were tried, side by side."""

    one: Report
    other: Report
    difference: Estimate | None
    """By how much the first is better, paired over the same examples; None where that cannot be told."""
    reason: str = ""
    """Why not; "" where it can."""


class Distilling(Clocking):
    """Answers small questions while settings change, in a thread of its own; of each kind the latest one wins.

    A part that shows an answer asks for it: what nobody looks at is not computed.
    """

    sketch = traitlets.Any(read_only=True)
    """A `Sketch` of the student of `distillation`, or of earlier settings until it is there. Default: None."""
    example = traitlets.Int(0, read_only=True)
    """The test example to which teacher and student are heard. Default: 0, the first."""
    spoken = traitlets.Any(read_only=True)
    """`Spoken`: what they say to `example`, or said before until it is there; None (default) where nobody can."""

    compared = traitlets.Any(read_only=True)
    """The `Pair` of recipes that was asked for last; None (default) before, and while it is not known."""

    def __init__(self, desk: Desk) -> None:
        self._questions: dict[str, Callable[[], None]] = {}  # of each kind the latest
        self._answers: dict[Hashable, Any] = {}
        self._wished: dict[str, Hashable] = {}
        self._answering = False
        self._sketcher = Worker("workbench-distilling")
        self._sketcher_end = weakref.finalize(self, self._sketcher.close)
        super().__init__(desk)

    def sketch_student(self) -> None:
        """Find out what the student of the settings would be: parameters, size, work, latency, taught layers."""
        with self._change():
            settings, place = self.distillation, self._place
            form = Distillation(**{field: getattr(settings, field) for field in FORM})
            if form.features is not None:
                form = form.replace(features=form.features.replace(weight=1.0))  # which is of no account here
            self._put_question("sketch", (self.model, form, place.key), partial(_sketched, self.bench, form, place))

    @property
    def _place(self) -> Place:
        """The device that is asked about, as it was calibrated; without one, this machine as the recipe uses it."""
        profile = self.profile
        if profile is not None:
            calibration = self._calibrations.get(profile.name)
            if calibration is not None:
                profile = profile.calibrated(calibration.predicted.value, calibration.seconds)
            return Place(f"on {profile.name}", profile, None)
        deployment = self.recipe.deployment
        same = (each for each in self.tried if each.recipe.deployment == deployment and each.latency is not None)
        batch = f", batch {deployment.batch}" if deployment.batch > 1 else ""
        return Place(f"here, {deployment.runtime}{batch}", None, next(same, None))

    def pair_layers(self, pairs: Mapping[str, str]) -> None:
        """Choose which hidden layers learn from which of the teacher's in the next training.

        Args:
            pairs: Layers of the student and, for each, the teacher's; none: as is proposed.

        Raises:
            WorkbenchError: No hidden layers are taught, or two of them cannot be compared; nothing has changed.
        """
        with self._change():
            features = self.distillation.features
            if features is None:
                raise WorkbenchError("No hidden layers are taught; choose a loss for them first.")
            features = features.replace(pairs=dict(pairs))
            if self.sketch is not None and self.sketch.info is not None:
                self.sketch.info.check_pairs(features)
            self.update_distillation(features=features)

    def choose_width(self, layer: str, share: float | None) -> None:
        """Give one layer of the next student a width of its own.

        Args:
            layer: One that can be made narrower.
            share: Of the model's channels; None: as all others.

        Raises:
            WorkbenchError: There is no such layer, or no such share; nothing has changed.
        """
        with self._change():
            known = self.sketch.info.channels if self.sketch is not None and self.sketch.info is not None else ()
            if layer not in self.distillation.layers and layer not in known:
                raise WorkbenchError(f"No layer {layer!r:.60} can be made narrower. {nearest(str(layer), known)}")
            others = {name: each for name, each in self.distillation.layers.items() if name != layer}
            self.update_distillation(layers=others if share is None else {**others, layer: share})

    def hear(self, example: int | None = None) -> None:
        """Find out what the teacher says to a test example at all temperatures, and the student that it has.

        Args:
            example: Its place in the task; None for the one that is looked at already.

        Raises:
            WorkbenchError: There is no such example.
        """
        with self._change():
            examples = len(self.bench.task)
            if example is None:
                example = self.example if self.example < examples else 0
            else:
                self._require_open()
                if isinstance(example, bool) or not isinstance(example, int) or not 0 <= example < examples:
                    raise WorkbenchError(f"example = {example!r:.40}: allowed are 0 to {examples - 1:,}.")
            self._set(example=example)
            if not self.bench.training_images:
                self._set(spoken=None)
                return
            settings, at = self._heard, self.distillation.temperature
            temperatures = sorted({*TEMPERATURES, at}, key=lambda each: (each != at, each))
            subject = (self.model, settings, self.example, tuple(sorted(temperatures)), self.bench.distilled(settings))
            self._put_question("spoken", subject, partial(_heard, self.bench, settings, self.example, temperatures))

    def compare(self, one: str, other: str) -> None:
        """Find out by how much a recipe that was tried is better than another one.

        Args:
            one: Its `Recipe.key`.
            other: That of the other one.

        Raises:
            WorkbenchError: One of them was not tried on this model, or both are the same.
        """
        with self._change():
            self._require_open()
            if one == other:
                raise WorkbenchError("Two recipes are needed for a comparison; these are one and the same.")
            reports = [self._tried(key) for key in (one, other)]
            self._set(compared=None, problem="")
            self._wished.pop("compared", None)
            self._put_question("compared", (self.model, one, other), partial(_compared, self.bench, *reports))

    def end_comparison(self) -> None:
        """Have no recipes side by side any more."""
        with self._change():
            self._wished.pop("compared", None)
            self._set(compared=None)

    def forget(self, key: str) -> None:
        """Take a recipe out of those that were tried. What was measured stays in the store.

        Raises:
            WorkbenchError: It was not tried on this model, is on the screen, or is the baseline.
        """
        with self._change():
            self._require_open()
            report = self._tried(key)
            if report.recipe in (self.recipe, FP32):
                which = "the baseline" if report.recipe == FP32 else "on the screen"
                raise WorkbenchError(f"{report.recipe.label} is {which} and stays; go to another recipe first.")
            del self._desk.tried[key]
            self._set(tried=self._desk.in_order, problem="")
            if self.compared is not None and report in self.compared[:2]:
                self.end_comparison()

    def _tried(self, key: str) -> Report:
        report = next((report for report in self.tried if report.recipe.key == key), None)
        if report is None:
            raise WorkbenchError(f"No recipe with the key {key!r:.20} was tried on {self.model}.")
        return report

    @property
    def _heard(self) -> Distillation:
        """The distillation on the screen where it has the teachers of the settings, else the settings."""
        settings, applied = self.distillation, self.recipe.distillation
        if applied is not None and applied.teachers == settings.teachers:
            return applied
        return settings

    def close(self) -> None:
        """Cancel everything and end the threads; may be called again."""
        with self._change():
            self._sketcher.cancel()
        super().close()
        self._sketcher_end()  # not under the lock, which a job may need to come to its end

    # Inside

    def _end_training(self) -> None:
        """What was answered may be of a student that has learned more since."""
        self._answers.clear()
        self._wished.clear()
        super()._end_training()

    def _put_question(self, kind: str, subject: Hashable, answer: Callable[[], Any]) -> None:
        """Have a trait answer a question; what was answered before is there at once."""
        if self._closed or self._wished.get(kind) == subject:
            return
        self._wished[kind] = subject
        if subject in self._answers:
            self._set(**{kind: self._answers[subject]})
            return
        self._questions[kind] = partial(self._answer_question, kind, subject, answer)
        self._begin_to_answer()

    def _begin_to_answer(self) -> None:
        if self._questions and not self._answering:
            self._answering = True
            self._sketcher.submit(self._work_through, self._not_answered)

    def _work_through(self, cancel: threading.Event) -> None:
        """In the worker: one question after the other, until none waits."""
        while True:
            with self._lock:
                if cancel.is_set() or not self._questions:
                    self._answering = False
                    return
                question = self._questions.pop(next(iter(self._questions)))
            question()

    def _answer_question(self, kind: str, subject: Hashable, answer: Callable[[], Any]) -> None:
        found = answer()
        with self._change():
            while len(self._answers) >= REMEMBERED:
                del self._answers[next(iter(self._answers))]
            self._answers[subject] = found
            if self._wished.get(kind) == subject:
                self._set(**{kind: found})

    def _not_answered(self, error: BaseException) -> None:
        with self._change():
            self._set(problem=in_words("Looking at the student", error))
            self._answering = False
            if not self._closed:
                self._begin_to_answer()


def _sketched(bench: Any, settings: Distillation, place: Place) -> Sketch:
    try:
        info = bench.student(settings, place.profile)
    except WorkbenchError as error:
        return Sketch(None, str(error))
    here = place.timed and info.beside(place.timed)
    sketch = Sketch(info, "", {}, here if place.profile is None else info.latency.latency, place.name)
    if settings.features is None:
        return sketch
    try:
        sketch = sketch._replace(pairs=bench.feature_pairs(settings))
        if settings.features.pairs.keys() <= info.layers.keys():  # the trainer also takes blocks of layers
            info.check_pairs(settings.features)
    except WorkbenchError as error:
        return sketch._replace(reason=str(error))
    return sketch


def _compared(bench: Any, one: Report, other: Report) -> Pair:
    try:
        return Pair(one, other, bench.difference(one.recipe, other.recipe))
    except WorkbenchError as error:
        return Pair(one, other, None, str(error))


def _heard(bench: Any, settings: Distillation, index: int, temperatures: list[float]) -> Spoken:
    try:
        return Spoken(index, settings, {each: bench.softened(settings, index, each) for each in temperatures})
    except WorkbenchError as error:
        return Spoken(index, settings, {}, str(error))
