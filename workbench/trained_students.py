"""Students of one model: trained on demand, kept on disk, found again."""

from __future__ import annotations

import copy
import hashlib
import math
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from workbench.checkpoints import CheckpointFile
from workbench.distillation import apart, losses
from workbench.distillation.asking import Answers
from workbench.distillation.asking import Teacher as Asked
from workbench.distillation.goal import Goal
from workbench.distillation.layer_pairs import proposed, shapes
from workbench.distillation.misfit import misfit
from workbench.distillation.progress import DivergenceError, Progress, with_note
from workbench.distillation.students import Own, Reduced, make_student
from workbench.distillation.teacher import doubt
from workbench.distillation.trained import Trained
from workbench.errors import Cancelled, RecipeError, WorkbenchError, nearest
from workbench.fusion.training import trained_soup
from workbench.hardware.profile import Profile
from workbench.lessons import Lessons
from workbench.network import Network
from workbench.recipe import Distillation, Features
from workbench.report import Estimate
from workbench.student_info import StudentInfo, info
from workbench.task import Task
from workbench.waiting import alone

MADE_BY = "2"
"""Part of a student's name on disk; to be raised when the trainer would make other weights."""
NOT_KEPT = "The student is used until this session ends and is gone then, as it could not be written: {error}."

Teacher = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True, eq=False)
class TrainedStudent:
    """A student with its control and its teacher, ready to measure."""

    networks: Mapping[str, Network]
    """``student``, ``control`` and ``teacher``."""
    steps: int
    seconds: float
    cancelled: bool = False
    """Whether these are the best weights of a training that was stopped."""


class TrainedStudents:
    """All students of one model on one task."""

    def __init__(
        self,
        network: Network,
        task: Task,
        folder: Path,
        teachers: Mapping[str, Teacher],
        students: Mapping[str, Own] | None = None,
    ) -> None:
        """
        Args:
            network: The model that students take their form from.
            task: With training data, or no student can be made.
            folder: Of the store; trained students and their graphs are kept in it.
            teachers: Who can teach, by name, beside the model itself (``self``).
            students: Who can learn, by name, beside the forms that are made of the model.
        """
        self._base = network
        self._task = task
        self._folder = folder
        self._teachers = dict(teachers)
        self._own = dict(students or {})
        self._own_keys: dict[tuple[str, str, int], str] = {}
        self._networks: dict[str, Network] = {"self": network}
        self._answers = Answers(folder / "teachers")
        self._lessons = Lessons(network, task)
        self._found: dict[Distillation, TrainedStudent] = {}
        self._lock = threading.Lock()

    @property
    def available(self) -> int:
        """Training examples beside those that are held out; 0 where no student can be trained."""
        return self._lessons.available

    @property
    def goal(self) -> Goal:
        """What the outputs are, and how good they are."""
        return self._lessons.goal

    def teachers(self) -> list[tuple[str, str | None]]:
        """Names, and why one cannot teach."""
        reason = None if self.available else "the task has no training examples to learn from"
        return [(name, reason) for name in (*self._teachers, "self")]

    @property
    def own(self) -> tuple[str, ...]:
        """Names of the students that are no form of the model."""
        return tuple(self._own)

    def teacher(self, name: str) -> Network:
        """One of `teachers`, made once.

        Raises:
            WorkbenchError: It does not take the model's inputs, or returns other classes.
        """
        if name not in self._networks:
            made = self._teachers[name]
            module = made if isinstance(made, nn.Module) else made()
            try:
                network = self._network(module)
            except WorkbenchError as error:
                takes = tuple(self._example.shape[1:])
                stops = misfit(module, self._example)
                if not stops:
                    raise WorkbenchError(f"The teacher {name!r} cannot teach here. {error}") from error
                raise WorkbenchError(
                    f"The teacher {name!r} does not take what the model takes. The model: {takes} per example. The "
                    f"teacher: {stops}."
                ) from error
            theirs, ours = (tuple(each.call(self._base.example).shape) for each in (network, self._base))
            if theirs != ours:
                raise WorkbenchError(
                    f"The teacher {name!r} returns {theirs[1:]} per example and the model {ours[1:]}; "
                    "both need the same classes."
                )
            self._networks[name] = network
        return self._networks[name]

    def found(self, settings: Distillation) -> TrainedStudent | None:
        """The trained student where it is there; nothing is trained."""
        if settings not in self._found:
            self._load(settings)
        return self._found.get(settings)

    def check(self, settings: Distillation) -> None:
        """Whether a student can be trained with these settings.

        Raises:
            RecipeError: What is wrong with which field, and what is allowed.
        """
        self._lessons.check(settings)
        self._require_names(settings)

    def info(self, settings: Distillation, profile: Profile | None = None) -> StudentInfo:
        """What the student would be, before it is trained.

        Raises:
            RecipeError: There is no teacher or student of a name.
            WorkbenchError: No student can be made so; the text says why.
        """
        self._require_names(settings)
        self._lessons.require_module()
        teacher = self.teacher(settings.teacher)
        example, copied = self._base.example[:1], settings.initial == "model"
        return info(self._made(settings), self._base.original, teacher.original, example, copied, profile)

    def feature_pairs(self, settings: Distillation) -> dict[str, str]:
        """Which layers of the student would learn from which of the teacher's: those of the settings, or a proposal.

        Raises:
            RecipeError: There is no teacher, student or loss of a name.
            WorkbenchError: No student can be made so, or one of both has no hidden layer that fits the loss.
        """
        self._require_names(settings)
        features = settings.features or Features()
        losses.get_feature_loss(features.loss)
        if features.pairs:
            return dict(features.pairs)
        teacher = copy.deepcopy(self.teacher(settings.teacher).original)  # others may run it meanwhile
        return proposed(
            features.loss, shapes(self._made(settings).module, self._example), shapes(teacher, self._example)
        )

    def _require_names(self, settings: Distillation) -> None:
        teachers = [name for name, _ in self.teachers()]
        if settings.teacher in settings.others:
            raise RecipeError(f"distillation.others: {settings.teacher!r} is the teacher already; leave it out there.")
        named = [("teacher", settings.teacher, teachers), ("student", settings.student, self._own)]
        for what, name, names in (*named, *(("others", other, teachers) for other in settings.others)):
            if name is not None and name not in names:
                kind = "student" if what == "student" else "teacher"
                raise RecipeError(f"distillation.{what}: there is no {kind} {name!r}. {nearest(name, names)}")

    def _made(self, settings: Distillation) -> Reduced:
        return make_student(self._base.original, self._example, settings, self._own)

    @property
    def _example(self) -> Tensor:
        """The same whenever a student is made: which blocks are left out depends on it."""
        return self._base.example.tensors[0]

    def known(self, settings: Distillation) -> bool:
        """Whether the student was trained already, here or in an earlier process."""
        return settings in self._found or self._path(settings).exists()

    def get(self, settings: Distillation, cancel: threading.Event | None = None) -> TrainedStudent:
        """The trained student; trains it where that was not done yet.

        Raises:
            Cancelled: `cancel` was set before it had learned anything to keep.
        """
        if settings not in self._found:
            for _ in self.train(settings, cancel):
                pass
        if settings not in self._found:
            raise Cancelled
        return self._found[settings]

    def train(
        self, settings: Distillation, cancel: threading.Event | None = None, pause: threading.Event | None = None
    ) -> Iterator[Progress]:
        """Train student and control in a process of its own, go on where a training was interrupted, or find them.

        A student whose training was cancelled is used in this process and not kept as finished: its settings promise
        one that learned to the end. To train again goes on from there.

        Raises:
            Cancelled: `cancel` was set before the teacher was done, or while another training went on.
            DivergenceError: A loss became NaN or infinite; the best weights that were evaluated until then, if any,
                are used in this process.
            WorkbenchError: What the networks are not fit for; or the process that trains ended.
        """
        if settings.soup > 1:
            yield from self._train_soup(settings, cancel, pause)
            return
        with alone(self._lock, cancel):  # one training at a time; a second one of the same settings finds the first
            found = self._load(settings)
            if found is not None:
                yield _at_the_end(found)
                return
            yield _at_the_start()  # the teacher's outputs take seconds before the first step
            apart.warm()
            path = self._path(settings)
            checkpoint = CheckpointFile(path.with_suffix(".steps.safetensors"), made_for=path.stem)
            training = self._training(settings, checkpoint, cancel, pause)
            try:
                while True:
                    try:
                        progress = next(training)
                    except StopIteration as end:
                        trained: Trained = end.value
                        break
                    if progress.done:
                        last = progress
                    else:
                        yield progress
            except DivergenceError as error:
                checkpoint.remove()  # it would lead there again
                if error.trained is not None:
                    self._found[settings] = self._assembled(settings, error.trained)
                raise
            if not trained.cancelled:
                not_kept = _kept(trained, path)
                if not_kept:
                    last = last.noted(not_kept)
                else:
                    checkpoint.remove()
            if not trained.cancelled or last.kept:
                self._found[settings] = self._assembled(settings, trained)
            yield last

    def _train_soup(
        self, settings: Distillation, cancel: threading.Event | None, pause: threading.Event | None
    ) -> Iterator[Progress]:
        """Train the students of a soup one after the other, or find them, and average their weights."""
        found = self._load(settings)
        if found is not None:
            yield _at_the_end(found)
            return

        def states(member: Distillation) -> dict[str, dict[str, Tensor]]:
            networks = self._found[member].networks
            return {who: networks[who].original.state_dict() for who in ("student", "control")}

        souped = yield from trained_soup(
            settings,
            lambda member: self.train(member, cancel, pause),
            states,
            self._made(settings).module,
            self._task.calibration.tensors[0],
            self._lessons.validation(self._asked(settings)),
            self.goal,
        )
        progress = souped.progress
        if souped.trained is not None:
            if not souped.trained.cancelled:
                progress = progress.noted(_kept(souped.trained, self._path(settings)))
            self._found[settings] = self._assembled(settings, souped.trained)
        yield progress

    def score(self, settings: Distillation) -> Estimate | None:
        """How good a trained student is on the held-out training examples; None where it was not trained."""
        found = self.found(settings)
        if found is None:
            return None
        return self.goal.score(found.networks["student"].original, *self._lessons.validation(self._asked(settings)))

    def _training(
        self,
        settings: Distillation,
        checkpoint: CheckpointFile,
        cancel: threading.Event | None,
        pause: threading.Event | None,
    ) -> Generator[Progress, None, Trained]:
        teachers = self._asked(settings)
        inputs, labels = self._lessons.training(settings)
        said = self._answers.of(teachers, settings, inputs, cancel, classes=self.goal.classes)
        validation = self._lessons.validation(teachers)
        modules = [each.module for each in teachers]
        asked_again = settings.features is not None or (settings.augmentation != "none" and not settings.views)
        training = apart.distil(
            self._base.original,
            self._example,
            settings if self._lessons.has_targets else settings.replace(labels=0),
            inputs,
            labels,
            said,
            validation,
            cancel,
            modules[0] if asked_again else None,
            self._own,
            others=modules[1:] if asked_again else (),
            goal=self.goal,
            pause=pause,
            checkpoint=checkpoint,
        )
        return with_note(training, self._doubt(settings, teachers, validation, cancel))

    def _doubt(
        self,
        settings: Distillation,
        teachers: Sequence[Asked],
        validation: tuple[Tensor, Tensor],
        cancel: threading.Event | None,
    ) -> str:
        """Of the teachers, by what is right for held-out examples; nothing where they themselves said that."""
        if not self.goal.classes or not self._lessons.has_targets:
            return ""
        held_out, targets = validation
        return doubt(self._answers.together(teachers, held_out, settings.temperature, cancel).logits, targets)

    def _asked(self, settings: Distillation) -> list[Asked]:
        networks = [self.teacher(name) for name in settings.teachers]
        return [Asked(network.key, network.original) for network in networks]

    def _path(self, settings: Distillation) -> Path:
        teachers = " ".join(self.teacher(name).key for name in settings.teachers)
        told: tuple[str, ...] = (MADE_BY, settings.model_dump_json(), self._base.key, teachers, self._task.training_key)
        if settings.student is not None:
            told = (*told, self._own_key(settings))
        return self._folder / "students" / f"{hashlib.sha256(' '.join(told).encode()).hexdigest()}.safetensors"

    def _own_key(self, settings: Distillation) -> str:
        """Of a user's own student before its training."""
        key = (settings.student or "", settings.initial, settings.seed)
        if key not in self._own_keys:
            self._own_keys[key] = self._network(self._made(settings).module).key
        return self._own_keys[key]

    def _load(self, settings: Distillation) -> Trained | None:
        path = self._path(settings)
        try:
            trained = Trained.load(path)
        except (OSError, WorkbenchError):  # missing, truncated or altered: it is trained again
            return None
        if settings not in self._found:
            try:
                self._found[settings] = self._assembled(settings, trained)
            except RuntimeError:  # weights of another form, from a library that left other blocks out
                return None
        return trained

    def _assembled(self, settings: Distillation, trained: Trained) -> TrainedStudent:
        networks = {"teacher": self.teacher(settings.teacher)}
        for name, state in (("student", trained.student_state), ("control", trained.control_state)):
            module = self._made(settings).module
            module.load_state_dict(state)
            networks[name] = self._network(module)
        return TrainedStudent(networks, trained.steps, trained.seconds, trained.cancelled)

    def _network(self, module: nn.Module) -> Network:
        task = self._task
        return Network(module, task.calibration, len(task), self._folder / "graphs", task.output, task.metrics_for)


def _kept(trained: Trained, path: Path) -> str:
    """Write a student to its place; on a full or read-only disk it lives on in memory, which is what is returned."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trained.save(path)
    except OSError as error:
        return NOT_KEPT.format(error=error)
    return ""


def _at_the_start() -> Progress:
    return Progress(0, 1, 0.0, 0.0, None, None, math.nan)


def _at_the_end(found: Trained) -> Progress:
    return replace(_at_the_start(), step=found.steps, steps=found.steps, seconds=found.seconds, done=True)
