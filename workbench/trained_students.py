"""Students of one model: trained on demand, kept on disk, found again."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from workbench.distillation import losses
from workbench.distillation.layer_pairs import proposed, shapes
from workbench.distillation.students import Own, Reduced, make_student
from workbench.distillation.trainer import Progress, TeacherLogits, Trained, distil, teacher_logits
from workbench.errors import Cancelled, RecipeError, WorkbenchError, nearest
from workbench.hardware.profile import Profile
from workbench.network import Network
from workbench.recipe import Distillation, Features
from workbench.student_info import StudentInfo, info
from workbench.task import Task

VALIDATION_EXAMPLES = 2000
"""The last of the training part; curves and the choice of the best weights rest on them, never on test examples."""
MADE_BY = "2"
"""Part of a student's name on disk; to be raised when the trainer would make other weights."""

Teacher = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True, eq=False)
class TrainedStudent:
    """A student with its control and its teacher, ready to measure."""

    networks: Mapping[str, Network]
    """``student``, ``control`` and ``teacher``."""
    steps: int
    seconds: float


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
        self._logits: dict[tuple[str, int], TeacherLogits] = {}
        self._found: dict[Distillation, TrainedStudent] = {}
        self._lock = threading.Lock()

    @property
    def available(self) -> int:
        """Training examples beside those for validation; 0 where no student can be trained."""
        if self._task.training is None or self._task.targets is None or len(self._task.inputs.columns) > 1:
            return 0
        return max(0, self._task.training.size - VALIDATION_EXAMPLES)

    def teachers(self) -> list[tuple[str, str | None]]:
        """Names, and why one cannot teach."""
        reason = None if self.available else "the task has no training examples beside the first 2,000"
        return [(name, reason) for name in (*self._teachers, "self")]

    @property
    def own(self) -> tuple[str, ...]:
        """Names of the students that are no form of the model."""
        return tuple(self._own)

    def check(self, settings: Distillation) -> None:
        """Whether a student can be trained with these settings.

        Raises:
            RecipeError: What is wrong with which field, and what is allowed.
        """
        if not self.available:
            raise RecipeError(
                "distillation: this task has no training examples; give the Task `training=(inputs, targets)` "
                f"with more than {VALIDATION_EXAMPLES:,} of them."
            )
        self._require_names(settings)
        losses.get(settings.loss)
        if settings.features:
            losses.get_feature_loss(settings.features.loss)
        if settings.images > self.available:
            raise RecipeError(f"distillation.images = {settings.images}: the task has {self.available:,} to train on.")
        if settings.labels > settings.images:
            raise RecipeError(
                f"distillation.labels = {settings.labels}: at most as many as images can have one, "
                f"and these are {settings.images:,}."
            )

    def info(self, settings: Distillation, profile: Profile | None = None) -> StudentInfo:
        """What the student would be, before it is trained.

        Raises:
            RecipeError: There is no teacher or student of a name.
            WorkbenchError: No student can be made so; the text says why.
        """
        self._require_names(settings)
        if self._base.graph_only or len(self._base.example.columns) > 1:
            what = "an ONNX graph" if self._base.graph_only else "a model of several inputs"
            raise WorkbenchError(f"No student is made of {what}; load a torch module that takes one tensor.")
        teacher = self._teacher(settings.teacher)
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
        teacher = copy.deepcopy(self._teacher(settings.teacher).original)  # others may run it meanwhile
        return proposed(
            features.loss, shapes(self._made(settings).module, self._example), shapes(teacher, self._example)
        )

    def _require_names(self, settings: Distillation) -> None:
        teachers = [name for name, _ in self.teachers()]
        for what, name, names in (("teacher", settings.teacher, teachers), ("student", settings.student, self._own)):
            if name is not None and name not in names:
                raise RecipeError(f"distillation.{what}: there is no {what} {name!r}. {nearest(name, names)}")

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

    def train(self, settings: Distillation, cancel: threading.Event | None = None) -> Iterator[Progress]:
        """Train student and control, or find them.

        A student whose training was cancelled is used in this process and not kept on disk: its
        settings promise one that learned to the end.
        """
        with self._lock:  # one training at a time; a second one of the same settings finds the first
            found = self._load(settings)
            if found is not None:
                yield replace(_at_the_start(), step=found.steps, steps=found.steps, seconds=found.seconds, done=True)
                return
            yield _at_the_start()  # the teacher's outputs take seconds before the first step
            inputs, labels = self._task.training.tensors  # type: ignore[union-attr]
            rest = slice(len(inputs) - VALIDATION_EXAMPLES, None)
            training = distil(
                self._base.original,
                self._example,
                settings,
                inputs[: settings.images],
                labels[: settings.images],
                self._taught(settings, cancel),
                (inputs[rest], labels[rest]),
                cancel,
                self._teacher(settings.teacher).original if settings.features else None,
                self._own,
            )
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
            if not trained.cancelled:
                with contextlib.suppress(OSError):  # a full or read-only disk: the student lives on in memory
                    self._path(settings).parent.mkdir(parents=True, exist_ok=True)
                    trained.save(self._path(settings))
            if not trained.cancelled or last.student is not None:  # else there is nothing that it learned
                self._found[settings] = self._assembled(settings, trained)
            yield last

    def _taught(self, settings: Distillation, cancel: threading.Event | None) -> TeacherLogits:
        key = (settings.teacher, settings.images)
        if key not in self._logits:
            inputs = self._task.training.tensors[0][: settings.images]  # type: ignore[union-attr]
            self._logits[key] = teacher_logits(self._teacher(settings.teacher).original, inputs, cancel=cancel)
        return self._logits[key]

    def _teacher(self, name: str) -> Network:
        if name not in self._networks:
            made = self._teachers[name]
            module = made if isinstance(made, nn.Module) else made()
            try:
                network = self._network(module)
            except WorkbenchError as error:
                takes = tuple(self._base.example.tensors[0].shape[1:])
                raise WorkbenchError(
                    f"The teacher {name!r} cannot teach here. {error} The model takes {takes} per example."
                ) from error
            theirs, ours = (tuple(each.call(self._base.example).shape) for each in (network, self._base))
            if theirs != ours:
                raise WorkbenchError(
                    f"The teacher {name!r} returns {theirs[1:]} per example and the model {ours[1:]}; "
                    "both need the same classes."
                )
            self._networks[name] = network
        return self._networks[name]

    def _path(self, settings: Distillation) -> Path:
        teacher = self._teacher(settings.teacher).key
        told: tuple[str, ...] = (MADE_BY, settings.model_dump_json(), self._base.key, teacher, self._task.training_key)
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
        networks = {"teacher": self._teacher(settings.teacher)}
        for name, state in (("student", trained.student_state), ("control", trained.control_state)):
            module = self._made(settings).module
            module.load_state_dict(state)
            networks[name] = self._network(module)
        return TrainedStudent(networks, trained.steps, trained.seconds)

    def _network(self, module: nn.Module) -> Network:
        task = self._task
        return Network(module, task.calibration, len(task), self._folder / "graphs", task.output, task.metrics_for)


def _at_the_start() -> Progress:
    return Progress(0, 1, 0.0, 0.0, None, None, math.nan)
