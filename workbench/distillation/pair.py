"""Student and control side by side, the clock that they share, and where they are kept."""

from __future__ import annotations

import math
import time
from typing import Any

from torch import Tensor

from workbench.checkpoints import NOT_KEPT, CheckpointFile
from workbench.distillation.goal import Goal
from workbench.distillation.learner import BATCH, Learner
from workbench.distillation.objective import Teaching
from workbench.distillation.progress import DivergenceError, Progress
from workbench.distillation.scaling import Scale
from workbench.distillation.trained import Trained
from workbench.report import Estimate

EVALUATED = 1000
"""Validation examples of each point of the curves; the last point rests on all of them."""
TRAINED_BETWEEN = 5 * EVALUATED
"""Examples that each network sees between two evaluations. A training step costs about two and a half forward passes,
so evaluation takes about a fourteenth of the time. Counted in examples, not in seconds: the weights that are kept must
not depend on the speed of the machine."""
WATCHED_BETWEEN = 2 * EVALUATED
"""The same where patience decides by it when to stop; evaluation then takes about a sixth."""


class Pair:
    """Student and control in training."""

    def __init__(
        self,
        student: Learner,
        control: Learner,
        teaching: Teaching,
        goal: Goal,
        validation: tuple[Tensor, Tensor],
        notes: tuple[str, ...] = (),
        patience: int | None = None,
        checkpoint: CheckpointFile | None = None,
        scale: Scale | None = None,
    ) -> None:
        """
        Args:
            student: Learns from the teacher.
            control: Learns without one.
            teaching: The student's objective.
            goal: How both are measured.
            validation: Inputs and targets that nothing is learned from.
            notes: What a reader of the curves has to know.
            patience: See `Distillation.patience`.
            checkpoint: Where they are kept, and gone on from.
            scale: What their last layers take over in the end.
        """
        inputs, targets = validation
        self.student = student
        self.control = control
        self.validation = inputs, targets
        self._teaching = teaching
        self._goal = goal
        self._notes = notes
        self._patience = patience
        self._between = -(-(TRAINED_BETWEEN if patience is None else WATCHED_BETWEEN) // BATCH)
        self._checkpoint = checkpoint
        self._scale = scale
        self._evaluated: int | None = None  # at which step
        self._waited = 0  # evaluations without anything better
        self._resumed = False
        self._not_kept = ""
        self._spent = self._measured = 0.0
        self._began_at = 0
        self._resume()
        self._kept, self._writing = time.perf_counter(), 0.0
        self._started: float | None = None  # None while it holds

    @property
    def over(self) -> bool:
        """Whether there is no step left to take."""
        return self.student.taken >= self.student.steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether patience came to its end."""
        return self._patience is not None and self._waited >= self._patience

    @property
    def due(self) -> bool:
        """Whether this is a point of the curves."""
        return self.student.taken % self._between == 0

    def step(self) -> None:
        """One optimizer step of each.

        Raises:
            DivergenceError: A loss is no finite number.
        """
        self.go_on()
        if not math.isfinite(self.student.step()):
            raise self._diverged("student", self.student.loss, self._teaching.broken())
        if self.control.steps and not math.isfinite(self.control.step()):
            raise self._diverged("control", self.control.loss, ["labels"])

    def evaluate(self) -> None:
        """Measure both on the first validation examples, once at a step; one that never learns, once."""
        if self._evaluated == self.student.taken:
            return
        inputs, targets = self.validation
        better = False
        for learner in (self.student, self.control):
            if learner.steps or learner.accuracy is None:
                better |= learner.evaluate(self._goal, inputs[:EVALUATED], targets[:EVALUATED])
        if self.student.taken:
            self._waited = 0 if better else self._waited + 1
        self._evaluated = self.student.taken

    def go_on(self) -> None:
        """Let the clock run, where it does not."""
        if self._started is None:
            self._started = time.perf_counter()

    def hold(self) -> None:
        """Let the clock stand still, where it runs."""
        if self._started is not None:
            self._measured += time.perf_counter() - self._started
            self._started = None

    def keep_if_due(self) -> None:
        """Write a checkpoint where the latest one is old enough."""
        file = self._checkpoint
        if file and time.perf_counter() - self._kept >= max(file.every, self._writing / file.share):
            self.keep()

    def keep(self) -> None:
        """Write where both are; what prevents it goes into the note, and the training goes on."""
        if self._checkpoint is None or not self.student.taken:
            return
        begun = time.perf_counter()
        about: dict[str, Any] = {"evaluated": self._evaluated, "waited": self._waited, "seconds": self._seconds}
        tensors: dict[str, Tensor] = {}
        for who, learner in (("student", self.student), ("control", self.control)):
            about[who], found = learner.position()
            tensors |= {f"{who}.{name}": value for name, value in found.items()}
        try:
            self._checkpoint.write(about, tensors)
            self._not_kept = ""
        except OSError as error:
            self._not_kept = NOT_KEPT.format(error=error)
        self._kept = time.perf_counter()
        self._writing = self._kept - begun

    def progress(
        self,
        student: Estimate | None,
        control: Estimate | None,
        *,
        done: bool = False,
        cancelled: bool = False,
        paused: bool = False,
    ) -> Progress:
        """Where both are now, with these accuracies."""
        here = self._here
        taken, steps = self.student.taken, self.student.steps
        both = 2 if self.control.steps else 1
        since = taken - self._began_at
        early = f"Stopped early: {self._waited} evaluations brought nothing better." * self.stopped_early
        return Progress(
            step=taken,
            steps=steps,
            seconds=self._seconds,
            samples_per_second=BATCH * both * since / here if here else 0.0,
            student=student,
            control=control,
            loss=self.student.loss,
            done=done,
            cancelled=cancelled,
            note=" ".join(filter(None, (*self._notes, self._not_kept, early))),
            parts=self._teaching.parts(),
            control_loss=self.control.loss,
            seconds_left=here / since * (steps - taken) if since and not done else None,
            paused=paused,
            resumed=self._resumed,
        )

    def best(self) -> Trained:
        """The best weights of each so far, of a training that was stopped."""
        return self._trained(self.student.best_state, self.control.best_state, cancelled=True)

    def finished(self) -> tuple[Trained, Estimate, Estimate]:
        """What came out, and how good both are on all validation examples."""
        if self._patience is not None:
            self.evaluate()
            for learner in (self.student, self.control):
                learner.return_to_best()
        student, control = (self._goal.score(each.network, *self.validation) for each in (self.student, self.control))
        return self._trained(self.student.state(), self.control.state(), cancelled=False), student, control

    def _trained(self, student: dict[str, Tensor], control: dict[str, Tensor], *, cancelled: bool) -> Trained:
        if self._scale is not None:
            student, control = self._scale.folded(student), self._scale.folded(control)
        return Trained(student, control, self.student.taken, self._seconds, cancelled)

    @property
    def _here(self) -> float:
        """Seconds of training in this process."""
        return self._measured + (0.0 if self._started is None else time.perf_counter() - self._started)

    @property
    def _seconds(self) -> float:
        return self._spent + self._here

    def _diverged(self, who: str, loss: float, parts: list[str]) -> DivergenceError:
        student = self.student
        part = f" in its part {' and '.join(parts)}" if parts else ""
        found = student.best is not None and (self.control.best is not None or not self.control.steps)
        kept = (
            "the best weights until then are kept"
            if found
            else "there is nothing to keep: no evaluation had found weights before"
        )
        return DivergenceError(
            f"The loss of the {who} became {loss} at step {student.taken} of {student.steps}{part}; it learns no more, "
            f"and {kept}. Look for extreme values in the training inputs and in the teacher's outputs (the largest is "
            f"{float(student.examples.logits.abs().max()):.3g}).",
            self.best() if found else None,
        )

    def _resume(self) -> None:
        found = self._checkpoint.read() if self._checkpoint else None
        if found is None:
            return
        about, tensors = found
        beginnings = [learner.position() for learner in (self.student, self.control)]
        try:
            for who, learner in (("student", self.student), ("control", self.control)):
                prefix = f"{who}."
                own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
                learner.resume(about[who], own)
            evaluated, self._waited, self._spent = about["evaluated"], int(about["waited"]), float(about["seconds"])
        except (KeyError, TypeError, ValueError):  # of another version: both begin anew
            for learner, beginning in zip((self.student, self.control), beginnings, strict=True):
                learner.resume(*beginning)
            return
        self._evaluated, self._began_at, self._resumed = evaluated, self.student.taken, True
