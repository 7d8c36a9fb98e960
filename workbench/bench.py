"""A model on a task: turns recipes into reports. The only way to a number."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

from torch import nn

from workbench import advice, runtimes
from workbench.arguments import number, whole
from workbench.choosing import Choice, choose
from workbench.comparisons import against, fp32, layer_costs, paired, student_against_control
from workbench.distillation.students import Own
from workbench.distillation.trainer import Progress
from workbench.doubts import expectations
from workbench.environment import environment, environment_key
from workbench.errors import Cancelled, RecipeError, WorkbenchError, nearest
from workbench.evaluation import Evaluation
from workbench.explaining.effects import explained
from workbench.explaining.explanation import Explanation
from workbench.explaining.flipping import flipped
from workbench.explaining.flips import FlipList
from workbench.explaining.histogram import LayerHistogram, layer_histogram
from workbench.exporting.agreeing import agreeing
from workbench.exporting.agreement import Agreement
from workbench.exporting.exporter import Exported, Shipment, export_stream
from workbench.exporting.folder import Contents
from workbench.finetuned_networks import FinetunedNetworks
from workbench.finetuning.trainer import Progress as Finetuned
from workbench.frontier.shipped import along, fingerprint
from workbench.halving import Halving, halve
from workbench.hardware.bound import DeviceBound
from workbench.hardware.counting import counted
from workbench.hardware.counts import Counts
from workbench.hardware.library import profile as hardware_profile
from workbench.hardware.library import profiles as hardware_profiles
from workbench.hardware.precision import Precision
from workbench.hardware.profile import Profile
from workbench.hardware.roofline import bound as roofline_bound
from workbench.inputs import Inputs
from workbench.layers import LayerInfo, LeftAlone, follows
from workbench.levers.finetuning_study import against_labels, finetuned_over_seeds
from workbench.levers.interaction import Interaction, taken_apart
from workbench.levers.seed_study import SeedStudy, over_seeds, so_far
from workbench.levers.teaching import AgreementMatrix, Listener, Softened, agreement_matrix
from workbench.network import Network
from workbench.planning.forecast import Cost, Forecast
from workbench.planning.latency import fast_enough
from workbench.planning.plan import Budget, Plan
from workbench.planning.planner import Planner
from workbench.planning.sensitivity import Progress as Measured
from workbench.planning.space import Space
from workbench.preflight import Preflight, look
from workbench.quantization.quantizer import LayerSpec, specs
from workbench.recipe import Deployment, Distillation, Quantization, Recipe, Scheme
from workbench.report import Estimate, Report
from workbench.runtimes import Prepared, Timing
from workbench.speed.details import TimingDetails, timed
from workbench.speed.disturbances import disturbances, reading
from workbench.speed.layer_times import LayerTimes, layer_times
from workbench.speed.memory import available, peak_growth, refuse_beyond
from workbench.speed.subject import Subject
from workbench.speed.sweep import Sweep, sweep
from workbench.speed.waterfall import Waterfall, waterfall
from workbench.store import Store
from workbench.student_info import StudentInfo
from workbench.task import Task
from workbench.trained_students import Teacher, TrainedStudents

FIRST_EXAMPLES = 1000
"""The first report of a stream rests on as many examples, unless they take longer than `SECONDS_BETWEEN`."""
SECONDS_BETWEEN = 0.08
PLANNED_BITS = (2, 3, 4, 6, 8)
"""What a planned layer's weights can have, unless other bits are named."""

SWEPT_BATCHES = (1, 8, 32)

LISTED_FLIPS = 200
"""Examples of either kind that a list of flips has at most."""


class Offer(NamedTuple):
    """Something that could be chosen."""

    name: str
    reason: str | None
    """Why it cannot be chosen here; None where it can."""


class Bench:
    """A model on a task, with its caches.

    Example:
        >>> import workbench as wb
        >>> bench = wb.zoo.load("seed-cnn")
        >>> bench.measure(wb.Recipe(quantization=wb.Quantization(weight_bits=8))).accuracy.source
        'simulated'
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        name: str | None = None,
        store: Store | None = None,
        teachers: Mapping[str, Teacher] | None = None,
        students: Mapping[str, Own] | None = None,
    ) -> None:
        """
        Args:
            model: Any module that takes the task's inputs. It is copied; the one that was given is left as it is.
            task: What it is measured on.
            name: How the page calls it; the class's name by default.
            store: Where reports are kept; the user's own store by default.
            teachers: Networks, or functions that load them, that a student can learn from beside the model.
            students: Networks, or functions that make them, that can learn beside those that are made from the model.
        """
        if not isinstance(model, nn.Module):
            raise WorkbenchError(f"Bench needs a torch.nn.Module; this is a {type(model).__name__}.")
        self.name = name or type(model).__name__
        self.task = task
        self.store = store or Store()
        self.licence = ""
        """A sentence on whose the model is, for those who get it; the zoo knows it of its own."""
        self.frontier_file: Path | None = None
        """What `workbench frontier` wrote about the model; the zoo knows where its own are."""
        self._told = expectations(model)
        self._network = _network(model, task, self.store.folder / "graphs")
        self._evaluation = Evaluation(task, self._network.batch)
        self._students = TrainedStudents(self._network, task, self.store.folder, teachers or {}, students)
        taught_by = {name: partial(self._students.teacher, name) for name, _ in self._students.teachers()}
        self._finetuned = FinetunedNetworks(self._network_for, task, self.store.folder, taught_by)
        self._measuring = threading.RLock()  # two timings at once would spoil both
        self._baseline_run: tuple[Deployment, Prepared] | None = None
        self._preflight: Preflight | None = None

    def __repr__(self) -> str:
        return f"Bench({self.name!r}: {self.description})"

    @property
    def parameters(self) -> int:
        """Weights and biases of the model."""
        return self._network.parameters

    @property
    def description(self) -> str:
        """``93,322 parameters · Fashion-MNIST, 10,000 test images``."""
        return f"{self.parameters:,} parameters · {self.task.description or repr(self.task)}"

    @property
    def training_images(self) -> int:
        """Examples that a student can be trained on; 0 where the task has none."""
        return self._students.available

    @cached_property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The layers that can be quantized, in the order of the module tree."""
        return tuple(layer.info for layer in self._network.layers.values())

    @property
    def left_alone(self) -> tuple[LeftAlone, ...]:
        """Modules whose parameters always stay in floating point, and why."""
        return self._network.left_alone

    @cached_property
    def baseline(self) -> Report:
        """The model in fp32 (without latency, which depends on the deployment)."""
        *_, report = self.stream(Recipe())
        return report

    @cached_property
    def identity(self) -> tuple[str, str]:
        """SHA-256 of the model's weights, whatever runs them, and of its task."""
        return fingerprint(self._network.state), self.task.key

    def frontier_reports(self) -> tuple[Report, ...]:
        """Reports that came along with the model, every estimate ``imported``; none where they are not about it."""
        return along(self.frontier_file, *self.identity)

    # What can be chosen

    def runtimes(self) -> tuple[Offer, ...]:
        """What can run the model, and why some cannot here."""
        return tuple(Offer(*offer) for offer in runtimes.offers())

    def devices(self) -> tuple[Offer, ...]:
        """Where it can run."""
        return tuple(Offer(*offer) for offer in runtimes.device_offers())

    def teachers(self) -> tuple[Offer, ...]:
        """Who can teach a student of this model."""
        return tuple(Offer(*offer) for offer in self._students.teachers())

    def students(self) -> tuple[str, ...]:
        """Students that are no form of this model, by the names that `Distillation.student` takes."""
        return self._students.own

    def preflight(self, cancel: threading.Event | None = None) -> Preflight:
        """What will work with this model and what will not; takes seconds.

        Raises:
            Cancelled: `cancel` was set.
        """
        *_, found = self.preflight_stream(cancel)
        return found

    def preflight_stream(self, cancel: threading.Event | None = None) -> Iterator[Preflight]:
        """As `preflight`, from the first answer on; the last one is complete, and kept.

        Raises:
            Cancelled: `cancel` was set.
        """
        if self._preflight is not None:
            yield self._preflight
            return
        for found in look(self.name, self._told, self._network, self.task, self._evaluation, cancel):
            yield found
        self._preflight = found

    def check(self, recipe: Recipe) -> None:
        """Whether this bench can measure a recipe.

        Raises:
            RecipeError: A layer, runtime, device, teacher or loss that is not here; what is, is named.
        """
        if not isinstance(recipe, Recipe):
            raise RecipeError(f"A workbench.Recipe is needed; this is a {type(recipe).__name__}.")
        known = [layer.name for layer in self.layers]
        for pattern in recipe.quantization.layers:
            if not any(recipe.quantization.matches(pattern, name) for name in known):
                raise RecipeError(f"quantization.layers: there is no layer {pattern!r}. {nearest(pattern, known)}")
        deployment = recipe.deployment
        for field, value, offers in (
            ("runtime", deployment.runtime, self.runtimes()),
            ("device", deployment.device, self.devices()),
        ):
            reasons = dict(offers)
            if value not in reasons:
                raise RecipeError(f"deployment.{field}: there is no {field} {value!r}. {nearest(value, reasons)}")
            if reasons[value] is not None:
                raise RecipeError(f"deployment.{field}: {reasons[value]}")
        refusal = runtimes.refusal(deployment, self._network)
        if refusal is not None:
            raise RecipeError(f"deployment: {refusal}")
        if recipe.distillation is None:  # a student is smaller: asked again when it is there
            self._room(self._network, deployment.batch)
        self._check_dynamic(recipe)
        if recipe.finetuning is not None:
            self._finetuned.check(recipe, self._network)
        if recipe.distillation is not None:
            self._students.check(recipe.distillation)
        elif self._network.graph_only and recipe.quantization.equalize:
            raise RecipeError("quantization.equalize: weights of an ONNX graph are not rescaled here; leave it out.")
        elif self._network.graph_only and recipe.quantization.informed:
            raise RecipeError(
                "quantization: what the layers of an ONNX graph are given cannot be looked at here. Choose "
                "method='nearest', a range other than 'hessian' and 'auto', and correction='none'."
            )

    def _check_dynamic(self, recipe: Recipe) -> None:
        """Whether ranges that are taken at each call go with the rest of a recipe.

        Raises:
            RecipeError: They do not; the message says with what.
        """
        asked = recipe.quantization
        if asked.activation_range != "dynamic":
            return
        what = "quantization.activation_range: 'dynamic'"
        layers = self._network.layers
        for name in layers:
            bits = asked.bits_for(name, common=follows(layers[name], asked.sums))[1]
            if bits not in (None, 8) and not layers[name].activations and layers[name].weight is not None:
                raise RecipeError(f"{what} puts activations on 8 bits, and {name} has {bits}; choose 8 or 'static'.")
        if asked.joint:
            raise RecipeError(f"{what} does not go with method='brecq' or correction='batchnorm'; choose 'static'.")
        if recipe.finetuning is not None or recipe.distillation is not None:
            raise RecipeError(f"{what} is for the model as it is, not for one that is trained; choose 'static'.")
        reason = runtimes.dynamic_refusal(recipe.deployment.runtime)
        if reason is not None and any(asked.bits_for(name)[1] for name in layers):
            raise RecipeError(f"deployment.runtime: {reason}")

    # Measuring

    def known(self, recipe: Recipe) -> Report | None:
        """The finished report of a recipe if there is one, without any work."""
        if recipe.distillation is not None and not self.distilled(recipe.distillation):
            return None
        if recipe.finetuning is not None and not self.finetuned(recipe):
            return None
        return self.store.get(recipe.key, self._model_key(recipe), self.task.key, environment_key())

    def measure(
        self,
        recipe: Recipe,
        cancel: threading.Event | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Report:
        """All examples, all numbers. Trains the recipe's student first if that was not done yet.

        Args:
            recipe: What is measured.
            cancel: Ends it.
            progress: See `stream`.

        Raises:
            RecipeError: See `check`.
            Cancelled: `cancel` was set; nothing is kept.
        """
        *_, report = self.follow(recipe, cancel, progress)
        return report

    def stream(
        self,
        recipe: Recipe,
        cancel: threading.Event | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Iterator[Report]:
        """Reports that grow with the examples seen, the first within 100 ms (seed-cnn), until all were.

        Accuracy, drop and flips carry intervals from the first report on; size and layers are exact
        at once; latency is left to `measure`.

        Args:
            recipe: What is measured.
            cancel: Ends it.
            progress: Hears how much of the weights' rounding is done, 0 to 1, where the method takes long:
                the first report waits for it.

        Raises:
            RecipeError: See `check`.
            Cancelled: `cancel` was set.
        """
        self.check(recipe)
        started = time.perf_counter()
        network, asked = self._ready(recipe, cancel, progress)
        size = Estimate.exact(len(network.artifact(recipe.quantization, recipe.to_json())), "B")
        rows = network.rows(recipe.quantization)
        spoken = started
        plain = self._evaluation.stream(self._network, fp32(self._network), self._network, cancel)
        baseline = next(plain)
        for outcomes in self._evaluation.stream(network, asked, self._network, cancel):
            seen, now = len(outcomes), time.perf_counter()
            while len(baseline) < seen:
                baseline = next(plain)
            first = spoken == started and (seen >= FIRST_EXAMPLES or now - started > SECONDS_BETWEEN)
            if seen < len(self.task) and not first and (spoken == started or now - spoken < SECONDS_BETWEEN):
                continue
            spoken = now
            yield Report(
                recipe=recipe,
                evaluated=seen,
                total=len(self.task),
                metric=outcomes.metrics[0].info,
                accuracy=self._origin(recipe, outcomes.accuracy()),
                drop=self._origin(recipe, outcomes.drop(baseline)),
                flips=outcomes.flips(baseline),
                scores=tuple(
                    score.model_copy(update={"value": self._origin(recipe, score.value)}) for score in outcomes.scores()
                ),
                size=size,
                layers=rows,
                notes=(*self.task.notes, *network.remarks(recipe.quantization)),
                environment=environment(),
            )

    def follow(
        self,
        recipe: Recipe,
        cancel: threading.Event | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Iterator[Report]:
        """As `stream`, then the same report with more: control and teacher, latency, layer costs, advice.

        Where the runtime fails, `Report.untimed` says why there is no latency, and the rest is there.
        The last report is final and kept in the store; a recipe that was measured before comes from there.
        """
        self.check(recipe)
        known = self.known(recipe)
        if known is not None and not known.untimed:  # what failed then may work now
            self.forecast.observe(known)
            yield known
            return
        for report in self.stream(recipe, cancel, progress):
            yield report
        if recipe.distillation is not None:
            trained = self._students.get(recipe.distillation, cancel)
            comparison = student_against_control(self._evaluation, trained, self._network, cancel)
            report = report.model_copy(update={"distillation": comparison})
            yield report
        try:
            report = self._timed(report, cancel)
        except WorkbenchError as error:  # everything else is known all the same
            report = report.model_copy(update={"untimed": str(error)})
        yield report
        on = (self._evaluation, self._network_for(recipe), self._network)
        for rows in layer_costs(*on, recipe.quantization, cancel):
            report = report.model_copy(update={"layers": rows})
            yield report
        told = advice.advise(report, self.baseline, lambda other: against(*on, (recipe, other), cancel))
        report = report.model_copy(update={"advice": told})
        self.store.put(report, self._model_key(recipe), self.task.key, environment_key())
        self.forecast.observe(report)
        yield report

    def difference(self, recipe: Recipe, other: Recipe, cancel: threading.Event | None = None) -> Estimate:
        """By how much a recipe is better than another one, paired over the same examples; negative: worse.

        Args:
            recipe: One.
            other: Another. Of both, a student is trained first if that was not done yet.
            cancel: Checked before every batch.

        Raises:
            RecipeError: See `check`.
            Cancelled: `cancel` was set.
        """
        for each in (recipe, other):
            self.check(each)
        one, another = (self._ready(each, cancel) for each in (recipe, other))
        return paired(self._evaluation, one, another, self._network, cancel)

    # Students

    def student(self, distillation: Distillation, profile: Profile | str | None = None) -> StudentInfo:
        """What a student would be before it is trained: parameters, bytes, MACs, and what could not be reduced.

        Args:
            distillation: The settings.
            profile: A device of `hardware`, or its name, whose latency for one example is bounded as well.

        Raises:
            RecipeError: There is no teacher or student of a name.
            WorkbenchError: No student can be made so, or there is no profile of that name.
        """
        device = hardware_profile(profile) if isinstance(profile, str) else profile
        return self._students.info(distillation, device)

    def distilled(self, distillation: Distillation) -> bool:
        """Whether the student of these settings was trained already."""
        return self._students.known(distillation)

    def feature_pairs(self, distillation: Distillation) -> dict[str, str]:
        """Which hidden layers learn from which of the teacher's: the given pairs, or a proposal to begin with.

        Args:
            distillation: The settings; without `Distillation.features`, pairs for hints.

        Returns:
            Student's layer to teacher's; `Features.pairs` takes it, changed or not.
        """
        return self._students.feature_pairs(distillation)

    def distil(
        self,
        distillation: Distillation,
        cancel: threading.Event | None = None,
        pause: threading.Event | None = None,
    ) -> Iterator[Progress]:
        """Train a student and, beside it, its control; a student that is known comes at once.

        It happens in a process of its own. A training that was interrupted, also by a killed process, goes on from
        where it was kept last, and ends with the same bits.

        Args:
            distillation: The settings.
            cancel: Stops within a step; the best so far is used from then on in this process.
            pause: While it is set, the training holds.

        Yields:
            Several times a second. The last one has ``done=True``.
        """
        self.check(Recipe(distillation=distillation))
        return self._students.train(distillation, cancel, pause)

    def over_seeds(
        self, distillation: Distillation, seeds: int = 3, cancel: threading.Event | None = None
    ) -> SeedStudy:
        """Whether the teacher helps: student against control over seeds that follow each other.

        Args:
            distillation: The settings, with the first seed. Each seed is a training that is found again.
            seeds: How many, 1 to 10.
            cancel: Ends it; what comes back has the seeds that were measured until then.

        Raises:
            RecipeError: See `check`; or a number of seeds that is not allowed.
            Cancelled: `cancel` was set before a seed was measured.
        """
        *_, study = self.over_seeds_stream(distillation, seeds, cancel)
        return study

    def over_seeds_stream(
        self, distillation: Distillation, seeds: int = 3, cancel: threading.Event | None = None
    ) -> Iterator[SeedStudy]:
        """As `over_seeds`, with the `progress` of each training, and after every seed."""
        self.check(Recipe(distillation=distillation))
        return over_seeds(distillation, seeds, self._students, self._evaluation, self._network, cancel)

    def seeds_so_far(self, distillation: Distillation, seeds: int = 3) -> SeedStudy:
        """As `over_seeds`, of those seeds that were trained to their end; nothing is trained."""
        self.check(Recipe(distillation=distillation))
        return so_far(distillation, seeds, self._students, self._evaluation, self._network)

    def softened(self, distillation: Distillation, index: int, temperature: float | None = None) -> Softened:
        """Probabilities that the teacher gives the classes of a test example, softened; the student's if it is trained.

        Args:
            distillation: The settings.
            index: Of the example, in the task.
            temperature: In the place of that of the settings.

        Raises:
            RecipeError: There is no such example, teacher or temperature; or the task has no classes.
        """
        self._students.check(distillation)
        at = distillation if temperature is None else distillation.replace(temperature=temperature)
        found = self._students.found(distillation)
        students = {who: found.networks[who] for who in ("student", "control")} if found else {}
        return self._listener.softened(index, at.temperature, self._teachers_of(distillation), students)

    def confusion(self, recipe: Recipe, cancel: threading.Event | None = None) -> AgreementMatrix:
        """What the recipe's student answers where its teacher answers what, on all test examples.

        Args:
            recipe: With `Recipe.distillation`; its student, on its grids. It is trained first if need be.
            cancel: Checked before every batch.

        Raises:
            RecipeError: See `check`; or there is no student, or the task has no classes.
            Cancelled: `cancel` was set.
        """
        self.check(recipe)
        if recipe.distillation is None:
            raise RecipeError("confusion: the recipe has no student; give it `distillation=Distillation()`.")
        teachers = self._teachers_of(recipe.distillation)
        return agreement_matrix(self._evaluation, recipe.distillation, teachers, self._ready(recipe, cancel), cancel)

    def _teachers_of(self, distillation: Distillation) -> list[Network]:
        return [self._students.teacher(name) for name in distillation.teachers]

    @cached_property
    def _listener(self) -> Listener:
        return Listener(self.task)

    def halving(
        self, candidates: Sequence[Distillation], epochs: int = 1, cancel: threading.Event | None = None
    ) -> Halving:
        """Successive halving: which of several settings makes the best student.

        Args:
            candidates: Settings; their epochs are not looked at.
            epochs: Of the first rung; each further one has twice as many for the better half.
            cancel: Ends it; `Halving.cancelled` says so, and what was trained is kept.

        Raises:
            RecipeError: See `check`; or fewer than two settings that differ.
        """
        *_, found = self.halving_stream(candidates, epochs, cancel)
        return found

    def halving_stream(
        self, candidates: Sequence[Distillation], epochs: int = 1, cancel: threading.Event | None = None
    ) -> Iterator[Halving]:
        """As `halving`, with the progress of each training, and after each."""
        for settings in candidates:
            self.check(Recipe(distillation=settings))
        return halve(candidates, epochs, self._students, cancel)

    # Fine-tuning

    def finetuned(self, recipe: Recipe) -> bool:
        """Whether the network of a recipe with `Recipe.finetuning` was trained already."""
        if recipe.finetuning is None or (recipe.distillation is not None and not self.distilled(recipe.distillation)):
            return False
        return self._finetuned.known(recipe)

    def finetune(
        self, recipe: Recipe, cancel: threading.Event | None = None, pause: threading.Event | None = None
    ) -> Iterator[Finetuned]:
        """Train the weights and steps of a quantized network on, from what rounding made of them.

        A network that is known comes at once. A training that was interrupted, also by a killed process, goes on
        from its last finished epoch, and ends with the same bits. With `Recipe.distillation` it is the student
        that is trained on.

        Args:
            recipe: With `Recipe.finetuning`; its quantization says on which grids.
            cancel: Stops within a step; the best so far is used from then on in this process.
            pause: While it is set, the training holds.

        Yields:
            Several times a second. The last one has ``done=True``.

        Raises:
            RecipeError: See `check`.
        """
        self.check(recipe)
        if recipe.finetuning is None:
            raise RecipeError("finetuning: the recipe has none; give it `finetuning=Finetuning()`.")
        return self._finetuned.train(recipe, cancel, pause)

    def finetuned_over_seeds(self, recipe: Recipe, seeds: int = 3, cancel: threading.Event | None = None) -> SeedStudy:
        """Whether a teacher helps a network on its grids: with it against the labels alone, over several seeds.

        Args:
            recipe: With a `Recipe.finetuning` that a teacher has a share in, and the first seed.
            seeds: How many, 1 to 10. Each is two trainings that are found again.
            cancel: Ends it; what comes back has the seeds that were measured until then.

        Raises:
            RecipeError: See `check`; or there is no control for it, or a number of seeds that is not allowed.
            Cancelled: `cancel` was set before a seed was measured.
        """
        *_, study = self.finetuned_over_seeds_stream(recipe, seeds, cancel)
        return study

    def finetuned_over_seeds_stream(
        self, recipe: Recipe, seeds: int = 3, cancel: threading.Event | None = None
    ) -> Iterator[SeedStudy]:
        """As `finetuned_over_seeds`, with the `progress` of each training, and after every seed."""
        self.check(recipe)
        against_labels(recipe, seeds)
        self._finetuned.check_control()
        yield from finetuned_over_seeds(
            recipe,
            seeds,
            lambda each: self._finetuned.train(each, cancel),
            lambda each: self._ready(each, cancel),
            self._finetuned.teacher(recipe, cancel),
            self._evaluation,
            self._network,
            cancel,
        )

    # Levers together

    def interaction(self, recipe: Recipe, cancel: threading.Event | None = None) -> Interaction:
        """What the recipe's student, quantization and fine-tuning cost alone, and whether together they cost the sum.

        Args:
            recipe: With two of them or more; what was not trained yet is trained.
            cancel: Checked before every batch.

        Raises:
            RecipeError: See `check`; or the recipe has fewer levers.
            Cancelled: `cancel` was set.
        """
        *_, found = self.interaction_stream(recipe, cancel)
        return found

    def interaction_stream(self, recipe: Recipe, cancel: threading.Event | None = None) -> Iterator[Interaction]:
        """As `interaction`, after every lever; `Interaction.stage` says what is being done."""
        self.check(recipe)
        on = (self._evaluation, self._network)
        yield from taken_apart(
            recipe, *on, lambda own: self._ready(own, cancel), lambda own: self._trainings(own, cancel), cancel
        )

    def _trainings(self, recipe: Recipe, cancel: threading.Event | None) -> Iterator[tuple[str, float]]:
        """Train what a recipe needs and is not there: says what, and the share that is done."""
        if recipe.distillation is not None and not self.distilled(recipe.distillation):
            for taught in self._students.train(recipe.distillation, cancel):
                if taught.cancelled:
                    raise Cancelled
                yield "training the student", taught.step / taught.steps
        if recipe.finetuning is not None and not self.finetuned(recipe):
            for tuned in self._finetuned.train(recipe, cancel):
                if tuned.cancelled:
                    raise Cancelled
                yield "fine-tuning", tuned.step / tuned.steps

    # Shipping

    def export(
        self, recipe: Recipe, path: str | Path, *, overwrite: bool = False, cancel: threading.Event | None = None
    ) -> Path:
        """Write what a recipe makes, read it again and compare it with the simulation before it is put in place.

        Args:
            recipe: What is written; its student is trained first if that was not done yet.
            path: ``.onnx``: the graph with QDQ nodes. ``.pt2``: a program for `torch.export.load`. ``.xml``:
                OpenVINO's, with a ``.bin`` beside it. ``.safetensors``: packed whole-number weights with their scales.
                Without an ending: a folder with the model, a script that runs it, examples and the report.
            overwrite: Whether what is there may be replaced.
            cancel: Ends it; nothing is written.

        Raises:
            WorkbenchError: The ending is unknown, the path exists, cannot be written, or the model cannot be written
                so; or what was written does not do what was simulated. What was at the path is left whole.
            Cancelled: `cancel` was set.
        """
        *_, last = self.export_stream(recipe, path, overwrite=overwrite, cancel=cancel)
        return last.path

    def export_stream(
        self, recipe: Recipe, path: str | Path, *, overwrite: bool = False, cancel: threading.Event | None = None
    ) -> Iterator[Exported]:
        """As `export`: says how far it is and how what was written agrees; the last one is done."""
        self.check(recipe)
        network, asked = self._ready(recipe, cancel)

        def contents() -> Contents:
            return Contents(self.name, asked, self.measure(recipe, cancel), self.task.inputs, self.licence)

        shipment = Shipment(self._evaluation, network, asked, recipe, contents)
        yield from export_stream(shipment, Path(path), overwrite=overwrite, cancel=cancel)

    # Choosing a method

    def auto(self, recipe: Recipe, seconds: float = 20.0, cancel: threading.Event | None = None) -> Recipe:
        """The recipe with the method, grid and range that suit its bits best on the calibration data.

        Args:
            recipe: Whose bits, layers and granularity are kept.
            seconds: How long methods are tried: 2, 20 or 120, say.
            cancel: Ends it at once; the best so far is returned.

        Raises:
            RecipeError: See `check`; or the seconds are no number from 0 on.
        """
        *_, last = self.auto_stream(recipe, seconds, cancel)
        return last.recipe

    def auto_stream(
        self, recipe: Recipe, seconds: float = 20.0, cancel: threading.Event | None = None
    ) -> Iterator[Choice]:
        """As `auto`: the best so far, at once and after each candidate. Ends, and raises nothing, at `cancel`."""
        self.check(recipe)
        seconds = number("seconds", seconds, 0)
        return choose(self._untrained(recipe, cancel), self.task, recipe, seconds, cancel)

    # Predicting

    @cached_property
    def forecast(self) -> Forecast:
        """What predictions rest on."""
        return Forecast(self._network, self.task, lambda: self.baseline, self.store.folder)

    def predict(self, recipe: Recipe) -> Report:
        """What a recipe will cost, in milliseconds: every estimate that is not exact is predicted.

        The first recipe of a method (all but bits and layers) takes seconds, in which the effects of single
        layers are measured on calibration data; `sensitivity_stream` does that ahead, with progress, and
        every report that is measured sharpens what is predicted next. Latency is there if the same kernels
        were timed before.

        Raises:
            RecipeError: See `check`; or the recipe is for a network that is trained, or looks at it as a whole.
        """
        self.check(recipe)
        if not self.forecast.known(recipe):
            for _ in self.forecast.measure(recipe.quantization):
                pass
        return self.forecast.predict(recipe)

    def predictable(self, recipe: Recipe) -> bool:
        """Whether `predict` answers in milliseconds."""
        return self.forecast.refusal(recipe) is None and self.forecast.known(recipe)

    def sensitivity(
        self, quantization: Quantization | None = None, cancel: threading.Event | None = None
    ) -> tuple[Cost, ...]:
        """What each layer's weights and activations alone cost at each bit-width, on calibration data.

        Args:
            quantization: The method; its bits and layers do not count.
            cancel: Checked before every batch; what was measured is kept.

        Raises:
            Cancelled: `cancel` was set.
        """
        for _ in self.sensitivity_stream(quantization, cancel):
            pass
        return self.forecast.costs(quantization or Quantization())

    def sensitivity_stream(
        self, quantization: Quantization | None = None, cancel: threading.Event | None = None
    ) -> Iterator[Measured]:
        """As `sensitivity`: measures, and says after every run over the calibration data how far it is.

        Raises:
            Cancelled: `cancel` was set.
        """
        return self.forecast.measure(quantization or Quantization(), cancel)

    def plan(
        self,
        *,
        max_bytes: float | None = None,
        max_drop: float | None = None,
        max_latency: float | None = None,
        runtime: str | None = None,
        bits: Sequence[int] = PLANNED_BITS,
        schemes: Sequence[Scheme] = (),
        evaluations: int = 20,
        template: Recipe | None = None,
        cancel: threading.Event | None = None,
    ) -> Plan:
        """The best mix of weight bits under a budget, and why.

        With `max_bytes` that is the least drop, with `max_drop` alone the fewest bytes, with neither the point
        where the frontier bends. What is measured is chosen from, so the best report looks a little better than
        it is: by less than its interval, which does not count the choosing.

        Args:
            max_bytes: Of the file.
            max_drop: In the metric's unit, a fraction for shares: 0.005 is half a point.
            max_latency: Seconds a call takes here; measured once for each kind of kernel.
            runtime: What runs it; the template's by default.
            bits: What each layer's weights can have.
            schemes: Grids that they can have, such as ``("symmetric", "codebook")``; the template's by default.
            evaluations: How many mixes may be measured on all examples; 0: all is predicted.
            template: All that is not planned: method, activations, deployment; layers that it names keep their
                bits. By default 8-bit activations and nothing else.
            cancel: Ends the search; the best so far is returned.

        Raises:
            PlanError: No mix keeps the budget; what comes nearest is named.
            RecipeError: See `check`; or a budget or `evaluations` is no such number.
        """
        budget = {"max_bytes": max_bytes, "max_drop": max_drop, "max_latency": max_latency}
        settings = {
            "runtime": runtime,
            "bits": bits,
            "schemes": schemes,
            "evaluations": evaluations,
            "template": template,
        }
        *_, plan = self.plan_stream(**budget, **settings, cancel=cancel)  # type: ignore[arg-type]
        return plan

    def plan_stream(
        self,
        *,
        max_bytes: float | None = None,
        max_drop: float | None = None,
        max_latency: float | None = None,
        runtime: str | None = None,
        bits: Sequence[int] = PLANNED_BITS,
        schemes: Sequence[Scheme] = (),
        evaluations: int = 20,
        template: Recipe | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[Plan]:
        """As `plan`: plans that get better, from a first guess on; `Plan.stage` says what is being done.

        After `cancel` the last one is the best so far. Its arguments and errors are those of `plan`.
        """
        template = template or Recipe(quantization=Quantization(activation_bits=8))
        if runtime is not None:
            template = template.replace(deployment=template.deployment.replace(runtime=runtime))
        if len(schemes) == 1:
            template = template.replace(quantization=template.quantization.replace(scheme=schemes[0]))
        self.check(template)
        budget = Budget(max_bytes=max_bytes, max_drop=max_drop, max_latency=max_latency)
        evaluations = whole("evaluations", evaluations, 0)
        if max_latency is not None:
            if len(set(schemes)) > 1:
                raise RecipeError(
                    "schemes: which kernels run depends on the grids, and a latency is timed for one; with "
                    "max_latency, plan with one scheme."
                )
            with contextlib.suppress(Cancelled):  # the plan will show that it is not known
                template = fast_enough(template, max_latency, lambda recipe: self._with_latency(recipe, cancel))
        space = Space(template, bits, self._network.layers, schemes)
        yield from Planner(self.forecast, space, budget, self._planned).stream(evaluations, cancel)

    # Explaining

    def explain(self, recipe: Recipe, cancel: threading.Event | None = None) -> Explanation:
        """Which layer hurts: what each quantized layer costs among the others and alone, simulated, with intervals.

        Args:
            recipe: What is explained.
            cancel: Checked before every batch.

        Raises:
            RecipeError: See `check`.
            Cancelled: `cancel` was set.
        """
        *_, explanation = self.explain_stream(recipe, cancel)
        return explanation

    def explain_stream(self, recipe: Recipe, cancel: threading.Event | None = None) -> Iterator[Explanation]:
        """As `explain`, after every run over the examples; which layer hurts is known before the rest.

        Raises:
            RecipeError: See `check`.
            Cancelled: `cancel` was set.
        """
        self.check(recipe)
        network, _ = self._ready(recipe, cancel)
        metric = self.baseline.metric
        yield from explained(self._evaluation, network, self._network, recipe, metric, cancel)

    def histogram(self, recipe: Recipe, layer: str) -> LayerHistogram:
        """A layer's weights, and its input on the calibration data, before and after they are put on their grids.

        Raises:
            RecipeError: See `check`; or there is no such layer.
        """
        self.check(recipe)
        network = self._network_for(recipe)
        if layer not in network.layers:
            raise RecipeError(f"histogram: there is no layer {layer!r}. {nearest(layer, network.layers)}")
        spec = specs(recipe.quantization, network.layers)[layer]
        return layer_histogram(network.layers[layer], spec, network.quantizer)

    def flips(self, recipe: Recipe, limit: int = LISTED_FLIPS, cancel: threading.Event | None = None) -> FlipList:
        """Examples that are right in fp32 and wrong now, and the other way, with the layers that undo each flip.

        Where examples are not right or wrong: those whose score fell and rose most.

        Args:
            recipe: What is looked at.
            limit: Of either kind at most; of a large network fewer are listed, so that it takes seconds.
            cancel: Checked before every batch.

        Raises:
            RecipeError: See `check`.
            Cancelled: `cancel` was set.
        """
        *_, found = self.flips_stream(recipe, limit, cancel)
        return found

    def flips_stream(
        self, recipe: Recipe, limit: int = LISTED_FLIPS, cancel: threading.Event | None = None
    ) -> Iterator[FlipList]:
        """As `flips`: the answers first, then after every layer that was restored.

        Raises:
            RecipeError: See `check`.
            Cancelled: `cancel` was set.
        """
        self.check(recipe)
        limit = whole("limit", limit, 0)
        network, _ = self._ready(recipe, cancel)
        yield from flipped(self._evaluation, network, self._network, recipe, limit, cancel)

    # Inside

    def _with_latency(self, recipe: Recipe, cancel: threading.Event | None) -> Report:
        """A predicted report with the latency of its kernels, which are timed once."""
        report = self.forecast.predict(recipe)
        if report.latency is None:
            self.forecast.observe(self._timed(report, cancel))
            report = self.forecast.predict(recipe)
        return report

    def _planned(self, recipe: Recipe, cancel: threading.Event | None) -> Report:
        known = self.known(recipe)
        if known is not None:
            return known
        *_, report = self.stream(recipe, cancel)
        foreseen = self.forecast.predict(recipe)
        return report.model_copy(update={"latency": foreseen.latency, "speedup": foreseen.speedup})

    def _model_key(self, recipe: Recipe) -> str:
        """The model's weights and, where others were trained, these: a cancelled training makes other ones."""
        own = self._network.key
        changed = recipe.distillation is not None or recipe.finetuning is not None
        return f"{own}+{self._network_for(recipe).key}" if changed else own

    def _network_for(self, recipe: Recipe, cancel: threading.Event | None = None) -> Network:
        if recipe.finetuning is not None:
            return self._finetuned.get(recipe, cancel)
        network = self._network
        if recipe.distillation is not None:
            network = self._students.get(recipe.distillation, cancel).networks["student"]
        return network.equalized if recipe.quantization.equalize and recipe.quantization.active else network

    def _untrained(self, recipe: Recipe, cancel: threading.Event | None = None) -> Network:
        """The network before a fine-tuning, which changes its numbers and no shape."""
        return self._network_for(recipe.replace(finetuning=None), cancel)

    def _ready(
        self,
        recipe: Recipe,
        cancel: threading.Event | None,
        progress: Callable[[float], None] | None = None,
    ) -> tuple[Network, dict[str, LayerSpec]]:
        """A recipe's network, with its weights on their grids, and what is asked of each layer."""
        network = self._network_for(recipe, cancel)
        asked = specs(recipe.quantization, network.layers)
        network.prepare(asked, cancel, progress)
        return network, asked

    def _origin(self, recipe: Recipe, estimate: Estimate) -> Estimate:
        """fp32 is what runs, so its accuracy is measured; on a grid it is simulated."""
        return estimate if recipe.quantization.active else estimate.model_copy(update={"source": "measured"})

    def _timed(self, report: Report, cancel: threading.Event | None) -> Report:
        timing, note, doubts = self._clocked(report.recipe, cancel)
        times = {"latency": timing.candidate, "speedup": timing.speedup}
        return report.model_copy(update={**times, "running": note or "", "disturbances": doubts})

    def _clocked(self, recipe: Recipe, cancel: threading.Event | None) -> tuple[Timing, str | None, tuple[str, ...]]:
        """A recipe's time in turn with the baseline's, what really runs, and what disturbed it."""
        deployment = recipe.deployment
        with self._measuring:
            baseline = self._prepared_baseline(deployment, cancel)
            network = self._network_for(recipe)
            layers = network.quantized(specs(recipe.quantization, network.layers))
            candidate = runtimes.prepare(deployment, network, layers, cancel)
            batch = self._batch(network, deployment.batch)
            before = reading()
            timing = runtimes.time(candidate, baseline, batch, cancel)
            return timing, candidate.note, disturbances(before, reading(), deployment.threads)

    def _prepared_baseline(self, deployment: Deployment, cancel: threading.Event | None) -> Prepared:
        """Only the last one is kept: one deployment is looked at at a time."""
        if self._baseline_run is None or self._baseline_run[0] != deployment:
            self._baseline_run = (deployment, runtimes.prepare(deployment, self._network, {}, cancel))
        return self._baseline_run[1]

    # Speed here

    def latency(self, recipe: Recipe, cancel: threading.Event | None = None) -> Estimate:
        """Seconds per call, as `measure` tells it, without the accuracy: the recipe is quantized, prepared and timed.

        Raises:
            RecipeError: See `check`.
            WorkbenchError: The runtime cannot run it.
            Cancelled: `cancel` was set.
        """
        self.check(recipe)
        self._ready(recipe, cancel)
        return self._clocked(recipe, cancel)[0].candidate

    def timing(self, recipe: Recipe, cancel: threading.Event | None = None) -> TimingDetails:
        """How fast a recipe runs here and how sure that is: percentiles, loading, memory, energy, the machine's noise.

        Raises:
            RecipeError: See `check`.
            WorkbenchError: The runtime cannot run it.
            Cancelled: `cancel` was set.
        """
        *_, details = self.timing_stream(recipe, cancel)
        return details

    def timing_stream(self, recipe: Recipe, cancel: threading.Event | None = None) -> Iterator[TimingDetails]:
        """As `timing`, from the latency on. Its errors are those of `timing`."""
        return timed(self._subject(recipe, cancel), lambda: self._memory_needed(recipe), self._measuring, cancel)

    def waterfall(self, recipe: Recipe, cancel: threading.Event | None = None) -> Waterfall:
        """Which lever makes it faster, from plain PyTorch to the recipe, each step timed against the one before.

        Raises:
            RecipeError: See `check`.
            Cancelled: `cancel` was set.
        """
        *_, found = self.waterfall_stream(recipe, cancel)
        return found

    def waterfall_stream(self, recipe: Recipe, cancel: threading.Event | None = None) -> Iterator[Waterfall]:
        """As `waterfall`, after every step. Its errors are those of `waterfall`."""
        return waterfall(self._subject(recipe, cancel), self._measuring, cancel)

    def sweep(
        self,
        recipe: Recipe,
        runtimes: Sequence[str] | None = None,
        batches: Sequence[int] = SWEPT_BATCHES,
        threads: Sequence[int] | None = None,
        cancel: threading.Event | None = None,
    ) -> Sweep:
        """Which runtime wins at which batch and thread count, and whether that can be told from the next best.

        Args:
            recipe: What is timed.
            runtimes: Their names; all by default.
            batches: Examples in a call.
            threads: 1 and all processors by default.
            cancel: Checked between calls.

        Raises:
            RecipeError: See `check`; or a runtime, batch or thread count that is not allowed.
            Cancelled: `cancel` was set.
        """
        *_, found = self.sweep_stream(recipe, runtimes, batches, threads, cancel)
        return found

    def sweep_stream(
        self,
        recipe: Recipe,
        runtimes: Sequence[str] | None = None,
        batches: Sequence[int] = SWEPT_BATCHES,
        threads: Sequence[int] | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[Sweep]:
        """As `sweep`, after every batch and thread count. Its arguments and errors are those of `sweep`."""
        return sweep(self._subject(recipe, cancel), runtimes, batches, threads, self._measuring, cancel)

    def layer_times(self, recipe: Recipe, cancel: threading.Event | None = None) -> LayerTimes:
        """Seconds of each layer in a call, from the runtime's own profiler.

        Raises:
            RecipeError: See `check`.
            WorkbenchError: The runtime has no profiler, or cannot run the recipe.
            Cancelled: `cancel` was set.
        """
        subject = self._subject(recipe, cancel)
        with self._measuring:
            return layer_times(subject, self._bits(recipe), cancel)

    def _subject(self, recipe: Recipe, cancel: threading.Event | None) -> Subject:
        self.check(recipe)
        network, asked = self._ready(recipe, cancel)
        return Subject(recipe, network, network.quantized(asked), lambda size: self._batch(network, size), cancel)

    def _batch(self, network: Network, size: int) -> Inputs:
        """Examples, as many as are asked for; refused before they are made if they would not fit in memory."""
        self._room(network, size)
        return self.task.calibration.cycled(size)

    def _room(self, network: Network, size: int) -> None:
        if size > network.batch:  # as many fit, as the evaluation shows
            fixed, each = self._memory(network)
            refuse_beyond(size, fixed, each, available())

    def _memory_needed(self, recipe: Recipe) -> float:
        fixed, each = self._memory(self._network_for(recipe))
        return fixed + each * recipe.deployment.batch

    def _memory(self, network: Network) -> tuple[float, float]:
        """Bytes of the weights, and those that each example takes; found once, as every check of a large batch asks."""
        if network not in self._sizes:
            self._sizes[network] = self._memory_of(network)
        return self._sizes[network]

    def _memory_of(self, network: Network) -> tuple[float, float]:
        fixed = 4.0 * sum(tensor.numel() for tensor in network.state.values())
        if network.graph_only:
            grown = peak_growth(lambda: network.call(self.task.calibration.cycled(network.batch)))
            return fixed, (grown or 0) / network.batch
        counts = self._counts(network)
        return fixed, 4.0 * (counts.peak_activation + 2 * counts.inputs + counts.outputs)

    # What runs, against what is simulated

    def runs_integers(self, recipe: Recipe) -> bool:
        """Whether a recipe runs in integer kernels where they can be had, and can be compared without any training."""
        runtime = runtimes.get(recipe.deployment.runtime)
        rewrites = runtime.takes == "graph" or runtime.compiles  # what runs operator by operator has none
        return recipe.quantization.active and rewrites and self._made(recipe)

    def _made(self, recipe: Recipe) -> bool:
        """Whether what a recipe trains is there."""
        distilled = recipe.distillation is None or self.distilled(recipe.distillation)
        return distilled and (recipe.finetuning is None or self.finetuned(recipe))

    def agreement(self, recipe: Recipe, cancel: threading.Event | None = None) -> Agreement:
        """How far what the recipe's runtime gives agrees with the simulation, on every example.

        Raises:
            RecipeError: See `check`.
            WorkbenchError: The runtime cannot take the network.
            Cancelled: `cancel` was set.
        """
        *_, found = self.agreement_stream(recipe, cancel)
        return found

    def agreement_stream(self, recipe: Recipe, cancel: threading.Event | None = None) -> Iterator[Agreement]:
        """As `agreement`, from the first batch on; the last one says where a disagreement starts."""
        self.check(recipe)
        network, asked = self._ready(recipe, cancel)
        prepare = partial(runtimes.prepare, recipe.deployment, network, cancel=cancel)
        yield from agreeing(self._evaluation, network, asked, recipe, prepare, cancel)

    # Devices that are not here

    def hardware(self) -> tuple[Profile, ...]:
        """Hardware profiles that come along; `workbench.hardware.load_profiles` reads your own."""
        return hardware_profiles()

    def counts(self, recipe: Recipe | None = None) -> Counts:
        """MACs, FLOPs and elements of every operator, for one example of the recipe's network; run once.

        Raises:
            RecipeError: See `check`.
            WorkbenchError: The model is an ONNX graph, whose operators are not counted.
        """
        recipe = recipe or Recipe()
        self.check(recipe)
        network = self._untrained(recipe)
        if network.graph_only:
            raise WorkbenchError("counts: those of an ONNX graph are not known; load the model as a torch module.")
        return self._counts(network)

    def _counts(self, network: Network) -> Counts:
        if network not in self._counted:
            self._counted[network] = counted(network.module, network.example[:1], _by_weight(network))
        return self._counted[network]

    def bound(self, recipe: Recipe, profile: Profile | str) -> DeviceBound:
        """What a recipe would take on a device that is not here: a range, what limits it, and whether it fits.

        Its runtime and threads do not count, its batch does. A student is trained first if that was not done yet.

        Args:
            recipe: What is asked.
            profile: One of `hardware`, its name, or one of your own.

        Raises:
            RecipeError: See `check`.
            WorkbenchError: There is no profile of that name; or see `counts`.
        """
        device = profile if isinstance(profile, Profile) else hardware_profile(profile)
        counts = self.counts(recipe)
        network = self._untrained(recipe)
        precision = Precision(recipe.quantization, self._bits(recipe), _by_weight(network))
        return roofline_bound(counts, precision, device, recipe.deployment.batch)

    def _bits(self, recipe: Recipe) -> dict[str, tuple[int | None, int | None]]:
        """What is asked of each layer's weights and activations."""
        asked = specs(recipe.quantization, self._untrained(recipe).layers)
        return {name: (w.bits if w else None, a.bits if a else None) for name, (w, a) in asked.items()}

    @cached_property
    def _counted(self) -> WeakKeyDictionary[Network, Counts]:
        return WeakKeyDictionary()

    @cached_property
    def _sizes(self) -> WeakKeyDictionary[Network, tuple[float, float]]:
        return WeakKeyDictionary()


def _by_weight(network: Network) -> dict[str, str]:
    """Layers by the names of their weights in the state."""
    return {layer.weight_name: name for name, layer in network.layers.items() if layer.weight_name}


def _network(model: nn.Module, task: Task, graphs: Path) -> Network:
    from workbench.loading.onnx_session import OnnxModule

    if isinstance(model, OnnxModule):
        from workbench.onnx_network import OnnxNetwork

        return OnnxNetwork(model, task.calibration, len(task), task.output)
    return Network(model, task.calibration, len(task), graphs, task.output, task.metrics_for)
