"""Small questions about students, seeds and pauses, on a bench whose steps a test can hold."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from small_bench import LONG, Gate, Quiet, until

from widgets.bounding import Calibration
from widgets.lessons import SEEDS
from widgets.session import Session
from workbench import statistics
from workbench.distillation.progress import DivergenceError
from workbench.errors import Cancelled, RecipeError, WorkbenchError
from workbench.levers.seed_study import SeedStudy
from workbench.recipe import Distillation, Features, Quantization, Recipe
from workbench.report import Comparison, Estimate

STEPS = 6
SHARE = statistics.proportion(80, 100, "measured")
COMPARISON = Comparison(
    student=SHARE, control=SHARE, difference=SHARE, teacher=SHARE, parameters=1, steps=STEPS, seconds=1.0
)


class Task:
    noun = "images"

    def __len__(self):
        return 50


class Bench(Quiet):
    """`at` is called before every step of anything, and may wait or raise."""

    name, description, training_images, task = "fake", "a fake", 5_000, Task()
    layers = (SimpleNamespace(name="fc1"),)

    def __init__(self, report):
        self._report = report
        self.at = lambda what, step, cancel: None
        self.trained, self.finished, self.asked, self.threads = set(), set(), [], set()

    @property
    def baseline(self):
        return self._report(Recipe())

    def check(self, recipe):
        if recipe.distillation is not None and recipe.distillation.images > self.training_images:
            raise RecipeError("distillation.images: too many")

    def follow(self, recipe, cancel=None, progress=None):
        self.at("measuring", recipe, cancel)
        if cancel.is_set():
            raise Cancelled
        yield self._report(recipe)

    def distilled(self, settings):
        return settings in self.trained

    def distil(self, settings, cancel=None, pause=None):
        for step in range(1, STEPS + 1):
            self.at("training", step, cancel)
            while pause.is_set() and not cancel.is_set():
                yield self._progress(step, paused=True)
                time.sleep(0.002)
            stopped = cancel.is_set()
            if step > 1:
                self.trained.add(settings)
            yield self._progress(step, cancelled=stopped)
            if stopped:
                return
        self.finished.add(settings.seed)

    def _progress(self, step, **more):
        return SimpleNamespace(step=step, steps=STEPS, **({"cancelled": False, "paused": False} | more))

    def over_seeds_stream(self, settings, seeds=3, cancel=None):
        study = SeedStudy(settings, tuple(range(settings.seed, settings.seed + seeds)))
        for number in range(1, seeds + 1):
            self.at("comparing", number, cancel)
            if cancel.is_set():
                raise Cancelled
            yield SeedStudy(settings, study.seeds, (COMPARISON,) * number)

    def seeds_so_far(self, settings, seeds=3):
        finished = [seed for seed in range(settings.seed, settings.seed + seeds) if seed in self.finished]
        return SeedStudy(settings, tuple(finished), (COMPARISON,) * len(finished))

    def student(self, settings, profile=None):
        self._ask("student", settings)
        if settings.form == "depth":
            raise WorkbenchError("No block can be left out.")
        there = None if profile is None else SimpleNamespace(latency=Estimate.exact(profile.scale, "s", "predicted"))
        channels = {"conv1": (1, 2), "fc1": (3, 4)}
        return SimpleNamespace(
            width=settings.width,
            latency=there,
            channels=channels,
            beside=self._beside,
            check_pairs=self._check_pairs,
            layers={"fc1": (3,), "fc2": (3,), "flat": (3,)},
        )

    def _beside(self, report):
        return report.latency.model_copy(update={"source": "predicted"})

    def _check_pairs(self, features):
        if "relu" in features.pairs:
            raise RecipeError("distillation.features.pairs: no layer 'relu'")
        if features.loss == "hints" and "flat" in features.pairs:
            raise RecipeError("hints compares position with position")

    def feature_pairs(self, settings):
        self._ask("pairs", settings)
        if settings.features.loss == "attention":
            raise WorkbenchError("The student has no hidden layer with positions.")
        return dict(settings.features.pairs) or {"fc1": "fc2"}

    def softened(self, settings, index, temperature):
        self._ask("softened", (settings, index, temperature))
        if index == 13:
            raise RecipeError("This task has no classes.")
        return (index, temperature, settings in self.trained)

    def difference(self, one, other):
        self._ask("difference", (one, other))
        return Estimate.exact(0.01, "")

    def _ask(self, what, of):
        self.asked.append((what, of))
        self.threads.add(threading.current_thread())
        self.at(what, of, None)


@pytest.fixture
def bench(report):
    return Bench(report)


@pytest.fixture
def session(bench):
    session = Session(bench)
    session.wait(LONG)
    yield session
    session.close()


# Seeds and pauses


def test_several_seeds_are_trained_in_turn_and_compared(session, bench):
    laps = []
    session.observe(lambda change: laps.append((change["new"], session.curve)), "lap")
    session.choose_seeds(3)
    session.distil()
    report = session.wait(LONG)
    assert [lap and (lap.number, lap.of, lap.seed) for lap, _ in laps] == [(1, 3, 0), (2, 3, 1), (3, 3, 2)]
    assert all(curve == () for _, curve in laps)  # each seed has a curve of its own
    assert {settings.seed for settings in bench.trained} == {0, 1, 2}
    assert report.recipe.distillation == session.distillation
    assert session.study.complete and session.study.difference is not None
    session.choose_seeds(1)
    session.distil()
    session.wait(LONG)
    assert (session.lap, session.study) == (None, None)


@pytest.mark.parametrize(("what", "step"), [("training", 4), ("comparing", 2)])
def test_several_seeds_that_are_stopped_leave_the_first_student(session, bench, what, step):
    gate = bench.at = Gate(what, step)
    session.choose_seeds(3)
    session.distil()
    assert gate.reached.wait(LONG)
    session.stop_training()
    assert session.wait(LONG).recipe.distillation == session.distillation
    assert (session.training, session.problem) == (False, "")


def test_seeds_that_were_finished_before_a_stop_are_compared(session, bench):
    session.choose_seeds(3)
    gates = []

    def at(what, step, cancel):
        if (what, step) == ("training", 1):
            gates.append(session.lap.number)
            if gates[-1] == 3:
                session.stop_training()

    bench.at = at
    session.distil()
    session.wait(LONG)
    assert gates == [1, 2, 3] and not session.training
    assert len(session.study.comparisons) == 2


@pytest.mark.parametrize("seeds", [0, 2, True, "3", None])
def test_only_the_offered_numbers_of_seeds_are_taken(session, seeds):
    with pytest.raises(WorkbenchError, match="allowed are 1, 3, 5"):
        session.choose_seeds(seeds)
    assert session.seeds in SEEDS


def test_a_pause_holds_the_training_and_nothing_else(session, bench):
    gate = bench.at = Gate("training", 3)
    session.distil()
    assert gate.reached.wait(LONG)
    session.pause_training()
    assert session.paused
    gate.open.set()
    until(lambda: session.curve and session.curve[-1].paused)
    assert session.status == "Paused: step 3 of 6"
    session.update(weight_bits=4)
    until(lambda: not session.busy)
    assert session.training
    session.resume_training()
    assert session.wait(LONG).recipe == Recipe(
        quantization=Quantization(weight_bits=4), distillation=session.distillation
    )
    assert not session.paused


def test_a_paused_training_can_be_stopped_and_keeps_what_it_has(session, bench):
    gate = bench.at = Gate("training", 4)
    session.distil()
    assert gate.reached.wait(LONG)
    session.pause_training()
    session.stop_training()
    assert session.wait(LONG).recipe.distillation == session.distillation
    gate.open.set()
    session.distil()  # the pause was of the other training
    session.wait(LONG)
    assert not session.paused


def diverging(step):
    """Lets the loss of a training become no number before a step."""

    def at(what, now, cancel):
        if (what, now) == ("training", step):
            raise DivergenceError("The loss of the student became nan.", None)

    return at


def test_a_training_that_diverges_leaves_the_best_until_then_in_the_recipe(session, bench):
    bench.at = diverging(4)
    session.distil()
    assert session.wait(LONG).recipe == Recipe(distillation=session.distillation)
    assert session.problem.startswith("The loss of the student became nan.")
    assert "in the recipe" in session.problem
    assert not session.training


def test_a_training_that_diverges_before_it_learned_anything_leaves_the_recipe(session, bench):
    bench.at = diverging(2)
    session.distil()
    with pytest.raises(DivergenceError):
        session.wait(LONG)
    assert session.problem == "The loss of the student became nan."
    assert (session.training, session.recipe) == (False, Recipe())


def test_without_a_training_there_is_nothing_to_pause(session):
    with pytest.raises(WorkbenchError, match="No training is under way"):
        session.pause_training()
    assert not session.paused


# Questions


def test_a_student_is_sketched_once_for_each_form(session, bench):
    session.sketch_student()
    until(lambda: session.sketch is not None)
    assert (session.sketch.info.width, session.sketch.reason) == (Distillation().width, "")
    session.update_distillation(temperature=7, labels=100, epochs=1)
    session.sketch_student()
    session.update_distillation(width=0.25)
    session.sketch_student()
    until(lambda: session.sketch.info.width == 0.25)
    session.update_distillation(width=0.5)
    session.sketch_student()
    assert session.sketch.info.width == 0.5
    assert len(bench.asked) == 2
    assert threading.current_thread() not in bench.threads


def test_a_student_that_cannot_be_made_says_why(session):
    session.update_distillation(form="depth")
    session.sketch_student()
    until(lambda: session.sketch is not None)
    assert session.sketch[:2] == (None, "No block can be left out.")
    assert session.problem == ""


def sketched(session, condition):
    """Waits until the sketch is so."""
    session.sketch_student()
    until(lambda: session.sketch is not None and condition(session.sketch))
    return session.sketch


def test_a_student_s_latency_is_predicted_here_or_on_the_device_that_is_asked_about(session):
    here = sketched(session, lambda sketch: sketch.latency is not None)
    assert here.place == "here, onnxruntime"
    assert here.latency.high == session.baseline.latency.high
    assert here.latency.source == "predicted"
    session.update(batch=8)
    assert sketched(session, lambda sketch: sketch.place == "here, onnxruntime, batch 8").latency is None
    session.wait(LONG)
    assert sketched(session, lambda sketch: sketch.latency is not None).place == "here, onnxruntime, batch 8"
    session.choose_profile("Raspberry Pi 4")
    there = sketched(session, lambda sketch: sketch.place == "on Raspberry Pi 4")
    assert there.latency.value == 1.0  # its scale
    session._calibrations["Raspberry Pi 4"] = Calibration("fake", Recipe(), 6.0, Estimate.exact(2.0, "s", "predicted"))
    assert sketched(session, lambda sketch: sketch.latency.value != 1.0).latency.value == 3.0


def test_hidden_layers_are_paired_as_proposed_until_others_are_chosen(session, bench):
    with pytest.raises(WorkbenchError, match="choose a loss"):
        session.pair_layers({"fc1": "fc1"})
    session.update_distillation(features={"loss": "hints", "weight": 3.0})
    assert sketched(session, lambda sketch: sketch.pairs).pairs == {"fc1": "fc2"}
    session.pair_layers({"fc1": "fc1", "fc2": "fc2"})
    assert session.distillation.features == Features(weight=3.0, pairs={"fc1": "fc1", "fc2": "fc2"})
    sketched(session, lambda sketch: len(sketch.pairs) == 2)
    with pytest.raises(WorkbenchError, match="no layer 'relu'"):
        session.pair_layers({"relu": "fc1"})
    asked = len(bench.asked)
    session.update_distillation(features=session.distillation.features.replace(weight=5.0))
    session.sketch_student()  # a weight changes no pair
    assert len(bench.asked) == asked
    session.pair_layers({})
    assert sketched(session, lambda sketch: len(sketch.pairs) == 1).pairs == {"fc1": "fc2"}


def test_hidden_layers_that_cannot_learn_are_told_before_training(session):
    session.update_distillation(features={"loss": "attention"})
    sketch = sketched(session, lambda sketch: sketch.reason)
    assert sketch.info.width == 0.5
    assert "no hidden layer with positions" in sketch.reason


def test_pairs_that_another_loss_cannot_compare_are_told_before_training(session):
    session.update_distillation(features={"loss": "distance", "pairs": {"flat": "fc2"}})
    assert sketched(session, lambda sketch: sketch.pairs).reason == ""
    session.update_distillation(features={"loss": "hints", "pairs": {"flat": "fc2"}})
    sketch = sketched(session, lambda sketch: sketch.reason)
    assert (sketch.reason, sketch.pairs) == ("hints compares position with position", {"flat": "fc2"})


def test_a_layer_may_have_a_width_of_its_own(session):
    sketched(session, lambda _: True)
    session.choose_width("conv1", 0.25)
    session.choose_width("fc1", 1.0)
    assert session.distillation.layers == {"conv1": 0.25, "fc1": 1.0}
    for layer, share, words in (("conv2", 0.5, "conv1"), (3, 0.5, "No layer 3"), ("fc1", 0, "above 0")):
        with pytest.raises(WorkbenchError, match=words):
            session.choose_width(layer, share)
    session.choose_width("conv1", None)
    assert session.distillation.layers == {"fc1": 1.0}


def test_the_latest_question_wins_and_those_between_are_not_asked(session, bench):
    gate = bench.at = Gate("student", Distillation(width=0.125, initial=session.distillation.initial))
    session.update_distillation(width=0.125)
    session.sketch_student()
    assert gate.reached.wait(LONG)
    for width in (0.3, 0.6, 0.9):
        session.update_distillation(width=width)
        session.sketch_student()
    gate.open.set()
    until(lambda: session.sketch is not None and session.sketch.info.width == 0.9)
    assert [settings.width for _, settings in bench.asked] == [0.125, 0.9]


def test_an_example_is_heard_at_all_temperatures_of_the_slider(session, bench):
    session.update_distillation(temperature=2.5)
    session.hear(7)
    until(lambda: session.spoken is not None)
    assert session.spoken.index == session.example == 7
    assert {1.0, 2.5, 20.0} <= set(session.spoken.softened)
    assert session.spoken.softened[4.0] == (7, 4.0, False)
    asked = len(bench.asked)
    session.update_distillation(temperature=4)  # was heard already
    session.hear()
    session.update_distillation(temperature=2.5)
    session.hear()
    until(lambda: session._sketcher.idle)
    assert not [each for each in bench.asked[asked:] if each[1][2] == 2.5]


def test_a_student_is_heard_as_soon_as_it_is_there(session):
    session.hear(0)
    until(lambda: session.spoken is not None)
    assert not session.spoken.softened[1.0][2]
    session.distil()
    session.wait(LONG)
    session.update_distillation(temperature=8)  # another student, which is not trained: the one on the screen is heard
    session.hear()
    until(lambda: session.spoken.softened[8.0][2])
    assert session.spoken.settings == session.recipe.distillation


@pytest.mark.parametrize("example", [-1, 50, True, "3", 1.0])
def test_an_example_that_is_not_there_is_refused(session, example):
    with pytest.raises(WorkbenchError, match="allowed are 0 to 49"):
        session.hear(example)
    assert session.example == 0


def test_a_task_without_classes_says_so_where_it_is_asked(session):
    session.hear(13)
    until(lambda: session.spoken is not None)
    assert (session.spoken.softened, session.spoken.reason) == ({}, "This task has no classes.")
    assert session.problem == ""


def test_an_unforeseen_error_is_told_and_the_next_question_is_answered(session, bench):
    def fail(what, of, cancel):
        if what == "student":
            raise OSError("disk")

    bench.at = fail
    session.sketch_student()
    until(lambda: "disk" in session.problem)
    session.hear(3)
    until(lambda: session.spoken is not None)


def test_closing_ends_the_thread(session, bench):
    gate = bench.at = Gate("student", Distillation(initial=session.distillation.initial))
    session.sketch_student()
    assert gate.reached.wait(LONG)
    gate.open.set()
    session.close()
    assert not any(thread.is_alive() for thread in bench.threads)
    session.sketch_student()  # a part may draw once more
    with pytest.raises(WorkbenchError, match="closed"):
        session.hear(1)


# What was tried


def test_two_recipes_are_compared_and_one_is_forgotten(session, bench):
    for bits in (8, 4):
        session.update(weight_bits=bits)
        session.wait(LONG)
    fp32, eight, four = session.tried
    session.compare(eight.recipe.key, four.recipe.key)
    until(lambda: session.compared is not None)
    assert session.compared[:2] == (eight, four)
    assert bench.asked == [("difference", (eight.recipe, four.recipe))]
    for kept in (fp32, four):
        with pytest.raises(WorkbenchError, match="stays"):
            session.forget(kept.recipe.key)
    session.forget(eight.recipe.key)
    assert session.tried == (fp32, four)
    assert session.compared is None
    with pytest.raises(WorkbenchError, match="No recipe"):
        session.restore(eight.recipe.key)
    with pytest.raises(WorkbenchError, match="one and the same"):
        session.compare(four.recipe.key, four.recipe.key)
