"""What was measured elsewhere, and measuring it here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from small_bench import LONG, Gate, Quiet, until

from widgets.session import Session
from workbench import statistics
from workbench.errors import WorkbenchError
from workbench.frontier.shipped import imported
from workbench.recipe import Distillation, Finetuning, Quantization, Recipe

W4 = Recipe(quantization=Quantization(weight_bits=4))
STUDENT = W4.replace(distillation=Distillation(width=0.25, initial="model", labels=1_000))
TUNED = W4.replace(finetuning=Finetuning(epochs=2))


class Bench(Quiet):
    """Measures at once; what was trained is noted."""

    name, description, training_images = "fake", "a fake", 20_000
    task = SimpleNamespace(noun="images")
    layers = (SimpleNamespace(name="fc1"),)

    def __init__(self, report):
        self._report = report
        self.learned = []
        self.at = lambda what, settings, cancel: None

    @property
    def baseline(self):
        return self._report(Recipe())

    def check(self, recipe):
        pass

    def distilled(self, settings):
        return settings in self.learned

    def finetuned(self, recipe):
        return recipe.finetuning in self.learned

    def follow(self, recipe, cancel=None, progress=None):
        assert all(part is None or part in self.learned for part in (recipe.distillation, recipe.finetuning))
        yield self._report(recipe)

    def distil(self, settings, cancel=None, pause=None):
        return self._train(settings, cancel)

    def finetune(self, recipe, cancel=None, pause=None):
        return self._train(recipe.finetuning, cancel)

    def _train(self, settings, cancel):
        self.at("training", settings, cancel)
        self.learned.append(settings)
        accuracy = statistics.proportion(90, 100, "measured")
        yield SimpleNamespace(
            step=1, steps=1, seconds=0.1, samples_per_second=1.0, student=accuracy, control=accuracy, accuracy=accuracy,
            loss=1.0, done=True, cancelled=cancel.is_set(), paused=False, note="",
        )  # fmt: skip

    def frontier_reports(self):
        return tuple(imported(self._report(recipe)) for recipe in (Recipe(), W4, STUDENT, TUNED))


@pytest.fixture
def session(report):
    made = Session(Bench(report))
    made.wait(LONG)
    yield made
    made.close()


def test_what_came_along_is_there_and_was_not_tried(session):
    assert [each.recipe for each in session.imported] == [Recipe(), W4, STUDENT, TUNED]
    assert {each.accuracy.source for each in session.imported} == {"imported"}
    assert [each.recipe for each in session.tried] == [Recipe()]


def test_a_recipe_without_training_is_measured_at_once(session):
    assert not session.trains(W4)
    session.measure_imported(W4.key)
    assert session.wait(LONG).recipe == W4 and session.bench.learned == []


@pytest.mark.parametrize(("recipe", "kind"), [(STUDENT, "distillation"), (TUNED, "finetuning")])
def test_what_has_to_learn_learns_with_its_curves_and_is_the_recipe_then(session, recipe, kind):
    assert session.trains(recipe)
    session.measure_imported(recipe.key)
    assert session.wait(LONG).recipe == recipe
    assert session.lesson == kind and session.curve
    assert getattr(session, kind) == getattr(recipe, kind) and session.bench.learned == [getattr(recipe, kind)]
    assert not session.trains(recipe)


@pytest.fixture
def both(session, report):
    """A student that is fine-tuned, which came along."""
    recipe = STUDENT.replace(finetuning=Finetuning(epochs=3))
    session.set_trait("imported", (imported(report(recipe)),))
    return recipe


def test_a_tuned_student_learns_twice_and_both_are_seen(session, both):
    seen = []
    session.observe(lambda change: seen.append((session.lesson, len(change["new"]))), "curve")
    session.measure_imported(both.key)
    assert session.wait(LONG).recipe == both
    assert session.bench.learned == [both.distillation, both.finetuning]
    assert [lesson for lesson, points in seen if points] == ["distillation", "finetuning"]
    assert (session.distillation, session.finetuning) == (both.distillation, both.finetuning)
    assert {report.recipe for report in session.tried} >= {both}


def test_a_student_that_is_there_is_only_tuned(session, both):
    session.bench.learned.append(both.distillation)
    session.measure_imported(both.key)
    assert session.wait(LONG).recipe == both
    assert session.bench.learned == [both.distillation, both.finetuning]


def test_what_is_stopped_is_not_tuned(session, both):
    session.bench.at = gate = Gate("training", both.distillation)
    session.measure_imported(both.key)
    assert gate.reached.wait(LONG)
    session.stop_training()
    assert session.wait(LONG).recipe == both.replace(finetuning=None)
    assert session.bench.learned == [both.distillation]


def test_other_bits_that_are_chosen_meanwhile_are_not_tuned(session, both):
    session.bench.at = gate = Gate("training", both.distillation)
    session.measure_imported(both.key)
    assert gate.reached.wait(LONG)
    session.update(weight_bits=5)
    gate.open.set()
    report = session.wait(LONG)
    assert report.recipe.label == "student ×0.25 + W5"
    assert session.bench.learned == [both.distillation]


def test_an_error_of_the_tuning_is_told_and_the_student_stays(session, both):
    def fail(what, settings, cancel):
        if settings == both.finetuning:
            raise OSError("disk")

    session.bench.at = fail
    session.measure_imported(both.key)
    until(lambda: "disk" in session.problem)
    assert (session.training, session.recipe) == (False, both.replace(finetuning=None))


def test_what_did_not_come_along_is_refused(session):
    with pytest.raises(WorkbenchError, match="came along with fake"):
        session.measure_imported("0" * 64)
    assert session.recipe == Recipe()


def test_a_bench_that_brings_nothing_has_nothing(report):
    bench = Bench(report)
    bench.frontier_reports = tuple
    with_nothing = Session(bench)
    assert with_nothing.imported == ()
    with_nothing.close()
