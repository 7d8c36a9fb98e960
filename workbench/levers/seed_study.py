"""Whether a teacher helps, over several seeds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from workbench.comparisons import fp32, student_against_control
from workbench.distillation.progress import Progress
from workbench.errors import Cancelled, RecipeError
from workbench.evaluation import Evaluation
from workbench.finetuning.trainer import Progress as Finetuned
from workbench.network import Network
from workbench.recipe import Distillation, Recipe
from workbench.report import Comparison, Estimate, MetricInfo
from workbench.statistics import repeated
from workbench.tables import Tabular, interval
from workbench.trained_students import TrainedStudent, TrainedStudents

MOST_SEEDS = 10
HELPS, NOTHING, HURTS = "the teacher helps", "no distinguishable benefit", "the teacher hurts here"


@dataclass(frozen=True)
class SeedStudy(Tabular):
    """The same training from several seeds, each beside one without the teacher, as far as it was done."""

    settings: Distillation | Recipe
    """Of the first seed: of a distillation; or the recipe of a network that is fine-tuned on its grids."""
    seeds: tuple[int, ...]
    """All of them, those of `comparisons` first."""
    comparisons: tuple[Comparison, ...] = ()
    """Student and control of each seed that was trained to its end and measured on the test data."""
    metric: MetricInfo = field(default_factory=lambda: MetricInfo(counted=True))
    """What `student` and `control` are."""
    progress: Progress | Finetuned | None = None
    """Of the training that is under way; None where none is."""

    @property
    def complete(self) -> bool:
        """Whether every seed was measured."""
        return len(self.comparisons) == len(self.seeds)

    @cached_property
    def student(self) -> Estimate | None:
        """Mean accuracy of the students so far; None before the first."""
        return self._mean("student")

    @cached_property
    def control(self) -> Estimate | None:
        """Mean accuracy of the controls so far."""
        return self._mean("control")

    @cached_property
    def difference(self) -> Estimate | None:
        """Student minus control: the mean over seeds with Student's t interval, which says what another seed would
        do on these test examples; of one seed, the paired interval over these examples."""
        return self._mean("difference")

    @property
    def verdict(self) -> str:
        """``the teacher helps``, ``no distinguishable benefit`` or ``the teacher hurts here``; "" before the first."""
        return "" if self.difference is None else verdict(self.difference)

    def also(
        self,
        trained: TrainedStudent,
        evaluation: Evaluation,
        reference: Network,
        cancel: threading.Event | None = None,
    ) -> SeedStudy:
        """With the comparison of one more seed.

        Args:
            trained: The student and control of the first seed that was not compared.
            evaluation: The test examples.
            reference: The model on the bench.
            cancel: Checked before every batch.

        Raises:
            Cancelled: `cancel` was set.
        """
        comparison = student_against_control(evaluation, trained, reference, cancel)
        student = trained.networks["student"]
        (metric, *_) = evaluation.all(student, fp32(student), reference, cancel).metrics  # from memory
        return replace(self, comparisons=(*self.comparisons, comparison), metric=metric.info, progress=None)

    def _mean(self, name: str) -> Estimate | None:
        own: list[Estimate] = [getattr(each, name) for each in self.comparisons]
        if len(own) < 2:
            return own[0] if own else None
        return repeated([each.value for each in own], own[0].unit, own[0].source)

    def _headline(self) -> str:
        done = f"{len(self.comparisons)} of {len(self.seeds)} seeds"
        return f"{self.settings.label}, {done}{f': {self.verdict}' if self.verdict else ''}"

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        rows = [
            (str(seed), *(self._worded(getattr(each, name)) for name in ("student", "control", "difference")))
            for seed, each in zip(self.seeds, self.comparisons, strict=False)
        ]
        if self.student is not None and self.control is not None and self.difference is not None and len(rows) > 1:
            rows.append(("mean", *map(self._worded, (self.student, self.control, self.difference))))
        return ("seed", "with teacher", "control", "difference"), rows

    def _worded(self, estimate: Estimate) -> str:
        return interval(estimate, self.metric, "%")


def verdict(difference: Estimate) -> str:
    """What a difference of student and control means."""
    if difference.includes(0):
        return NOTHING
    return HELPS if difference.value > 0 else HURTS


def repetitions(settings: Distillation, seeds: int) -> list[Distillation]:
    """The same settings from seeds that follow each other; soups have no member in common."""
    return [settings.replace(seed=settings.seed + number * settings.soup) for number in range(seeds)]


def over_seeds(
    settings: Distillation,
    seeds: int,
    students: TrainedStudents,
    evaluation: Evaluation,
    reference: Network,
    cancel: threading.Event | None = None,
) -> Iterator[SeedStudy]:
    """Train and measure one seed after the other; those that were trained before are found again.

    Args:
        settings: Their seed is the first.
        seeds: How many.
        students: Trains them.
        evaluation: The test examples.
        reference: The model on the bench.
        cancel: Ends it; seeds that were finished are kept.

    Yields:
        With the progress of a training, several times a second, and after every seed. After a cancel the last one
        has the seeds that were measured until then.

    Raises:
        RecipeError: A number of seeds that is not allowed.
        Cancelled: `cancel` was set before a seed was measured.
    """
    require_seeds(seeds)
    each = repetitions(settings, seeds)
    study = SeedStudy(settings, tuple(one.seed for one in each))
    try:
        for one in each:
            for progress in students.train(one, cancel):
                if progress.cancelled:
                    raise Cancelled
                yield replace(study, progress=progress)
            study = study.also(students.get(one, cancel), evaluation, reference, cancel)
            yield study
    except Cancelled:
        if not study.comparisons:
            raise
        yield study


def so_far(
    settings: Distillation, seeds: int, students: TrainedStudents, evaluation: Evaluation, reference: Network
) -> SeedStudy:
    """Compare those of several seeds that were trained to their end; nothing is trained.

    Args:
        settings: As in `over_seeds`.
        seeds: As in `over_seeds`.
        students: Finds them.
        evaluation: The test examples.
        reference: The model on the bench.

    Raises:
        RecipeError: A number of seeds that is not allowed.
    """
    require_seeds(seeds)
    each = repetitions(settings, seeds)
    found = {one.seed: students.found(one) for one in each}
    there = {seed: trained for seed, trained in found.items() if trained is not None and not trained.cancelled}
    study = SeedStudy(settings, (*there, *(seed for seed in found if seed not in there)))
    for trained in there.values():
        study = study.also(trained, evaluation, reference)
    return study


def require_seeds(seeds: int) -> None:
    """Refuse other numbers of seeds than are allowed.

    Raises:
        RecipeError: See above.
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
        raise RecipeError(f"seeds = {seeds!r}: allowed are 1 to {MOST_SEEDS}, a training of student and control each.")
