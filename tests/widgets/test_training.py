"""Choosing a method and fine-tuning, on a bench whose steps a test can hold."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from small_bench import LONG, Gate, Quiet, until

from widgets.choosing import BUDGETS
from widgets.session import Session
from workbench import statistics
from workbench.choosing import Choice
from workbench.errors import Cancelled, RecipeError, WorkbenchError
from workbench.recipe import Finetuning, Quantization, Recipe

METHODS = ("quantease", "gptq", "adaround")
W3 = Recipe(quantization=Quantization(weight_bits=3, activation_bits=8))


class Bench(Quiet):
    """Deterministic reports. `at` is called before every step and may wait or raise."""

    description, training_images = "a fake", 5_000
    task = SimpleNamespace(noun="images")
    layers = (SimpleNamespace(name="fc1"),)

    def __init__(self, report, name="fake"):
        self.name, self._report = name, report
        self.at = lambda what, step, cancel: None
        self.trained, self.tuned, self.threads = set(), [], set()

    @property
    def baseline(self):
        return self._report(Recipe())

    def check(self, recipe):
        if recipe.quantization.scheme == "mx":
            raise RecipeError("no blocks here")

    def finetuned(self, recipe):
        return recipe.key in self.trained

    def follow(self, recipe, cancel=None, progress=None):
        if recipe.quantization.method == "adaround":
            for share in (0.0, 0.455, 1.0):
                progress(share)
                self.at("rounding", share, cancel)
        self.at("measuring", recipe, cancel)
        if cancel is not None and cancel.is_set():
            raise Cancelled
        if recipe.finetuning is not None:
            self.trained.add(recipe.key)
        yield self._report(recipe)

    def auto_stream(self, recipe, seconds=20.0, cancel=None):
        best = recipe
        yield Choice(best, float("inf"), 0, len(METHODS) + 1)
        for tried, method in enumerate(("nearest", *METHODS), start=1):
            self.threads.add(threading.current_thread())
            self.at("choosing", tried, cancel)
            if cancel.is_set():
                return
            best = recipe.replace(quantization=recipe.quantization.replace(method=method))
            yield Choice(best, 1.0 / tried, tried, len(METHODS) + 1)

    def finetune(self, recipe, cancel=None, pause=None):
        self.check(recipe)
        self.tuned.append(recipe)
        steps = 10
        for step in range(1, steps + 1):
            self.threads.add(threading.current_thread())
            self.at("training", step, cancel)
            while pause.is_set() and not cancel.is_set():
                time.sleep(0.002)
            stopped = cancel.is_set()
            if step > 2:
                self.trained.add(recipe.key)
            yield SimpleNamespace(
                step=step,
                steps=steps,
                epoch=1,
                epochs=2,
                seconds=0.1 * step,
                samples_per_second=100.0,
                accuracy=statistics.proportion(50 + step, 100, "measured") if step > 2 else None,
                loss=1.0 / step,
                done=stopped or step == steps,
                cancelled=stopped,
                resumed=0,
                note="",
            )
            if stopped:
                return


@pytest.fixture
def bench(report):
    return Bench(report)


@pytest.fixture
def session(bench):
    session = Session(bench, recipe=W3)
    session.wait(LONG)
    yield session
    session.close()


def held(session, bench, what, step):
    gate = bench.at = Gate(what, step)
    return gate


def test_slow_rounding_is_told_and_can_be_cancelled(session, bench):
    gate = held(session, bench, "rounding", 0.455)
    session.update(method="adaround")
    assert gate.reached.wait(LONG)
    assert session.status == "Rounding weights, 45\u202f%"
    assert session.progress == pytest.approx(0.455)
    session.cancel()
    assert not session.busy
    assert session.stale


# Choosing


def test_the_choice_becomes_the_recipe_in_one_step(session, bench):
    bench.check(session.recipe)
    session.choose_method(2.0)
    assert session.choosing
    assert session.busy
    report = session.wait(LONG)
    assert report.recipe == W3.replace(quantization=W3.quantization.replace(method="adaround"))
    assert not session.choosing
    assert session.choice.tried == session.choice.total
    session.undo()
    assert session.recipe == W3
    assert not session.can_undo


@pytest.mark.parametrize(("step", "method"), [(1, "nearest"), (3, "quantease"), (4, "gptq")])
def test_a_cancelled_choice_keeps_the_best_so_far(session, bench, step, method):
    gate = held(session, bench, "choosing", step)
    session.choose_method(120.0)
    assert gate.reached.wait(LONG)
    until(lambda: session.choice is not None)
    best = session.choice.recipe
    session.cancel()
    assert not session.choosing
    assert session.recipe == best
    session.wait(LONG)
    assert session.report.recipe == best
    assert session._measuring.wait(LONG)
    assert session.recipe == best  # what the cancelled job still had to say is not wanted


def test_a_cancelled_choice_leaves_no_thread(report):
    bench = Bench(report)
    session = Session(bench, recipe=W3)
    session.wait(LONG)
    gate = held(session, bench, "choosing", 2)
    session.choose_method(20.0)
    assert gate.reached.wait(LONG)
    session.cancel()
    session.close()
    assert all(not thread.is_alive() for thread in bench.threads)


def test_a_slider_that_moves_meanwhile_wins(session, bench):
    gate = held(session, bench, "choosing", 2)
    session.choose_method(20.0)
    assert gate.reached.wait(LONG)
    session.update(weight_bits=5)
    assert not session.choosing
    session.wait(LONG)
    assert session.recipe.label == "W5 A8"


def test_the_device_that_is_chosen_is_kept(session):
    session.update(runtime="eager", batch=4)
    session.wait(LONG)
    session.choose_method(2.0)
    session.wait(LONG)
    assert (session.recipe.deployment.runtime, session.recipe.deployment.batch) == ("eager", 4)


@pytest.mark.parametrize("seconds", [3.0, None, "20", True, float("nan"), [2.0]])
def test_only_the_offered_times_are_taken(session, seconds):
    with pytest.raises(WorkbenchError, match="seconds"):
        session.choose_method(seconds)
    assert (session.choosing, session.busy) == (False, False)


def test_there_is_nothing_to_choose_for_fp32(session):
    session.recipe = Recipe()
    with pytest.raises(WorkbenchError, match="bits first"):
        session.choose_method(BUDGETS[0])


def test_a_choice_that_fails_says_so_and_leaves_the_recipe(session, bench):
    def fail(what, step, cancel):
        if what == "choosing":
            raise OSError("disk")

    bench.at = fail
    session.choose_method(2.0)
    with pytest.raises(OSError, match="disk"):
        session.wait(LONG)
    assert "Choosing a method for W3 A8 failed: OSError: disk" in session.problem
    assert (session.choosing, session.recipe) == (False, W3)


def test_a_model_that_is_chosen_meanwhile_ends_the_choice(report):
    first = Bench(report)
    session = Session({"fake": first, "other": Bench(report, "other")}, recipe=W3)
    try:
        session.wait(LONG)
        gate = held(session, first, "choosing", 3)
        session.choose_method(20.0)
        assert gate.reached.wait(LONG)
        session.choose_model("other")
        assert not session.choosing
        session.wait(LONG)
        assert session.recipe == Recipe()
        session.choose_model("fake")
        assert session.recipe == W3
    finally:
        session.close()


# Fine-tuning


def test_a_fine_tuning_is_paused_and_gone_on_with(session, bench):
    gate = held(session, bench, "training", 4)
    session.finetune()
    assert gate.reached.wait(LONG)
    session.pause_training()
    gate.open.set()
    session.update(activation_bits=8)  # controls answer meanwhile
    until(lambda: not session.busy)
    assert session.training and session.paused and session.curve[-1].step < 4
    session.resume_training()
    session.wait(LONG)
    assert (session.training, session.paused, session.problem) == (False, False, "")
    assert session.curve[-1].step == 10


def test_a_fine_tuning_ends_in_the_recipe_and_is_measured(session, bench):
    session.update_finetuning(epochs=2, images=1_000)
    assert session.recipe.finetuning is None
    session.finetune()
    assert (session.training, session.lesson) == (True, "finetuning")
    report = session.wait(LONG)
    assert report.recipe == W3.replace(finetuning=Finetuning(epochs=2, images=1_000))
    assert session.curve[-1].done
    session.without_finetuning()
    assert session.recipe == W3
    session.undo()
    assert session.recipe.finetuning == session.finetuning


@pytest.mark.parametrize(("step", "learned"), [(1, False), (6, True)])
def test_a_stopped_fine_tuning_is_used_only_if_something_was_learned(session, bench, step, learned):
    gate = held(session, bench, "training", step)
    session.finetune()
    assert gate.reached.wait(LONG)
    session.stop_training()
    session.wait(LONG)
    assert (session.recipe.finetuning is not None) == learned
    assert (session.training, session.problem) == (False, "")


def test_what_is_trained_is_the_recipe_of_the_start(session, bench):
    gate = held(session, bench, "training", 5)
    session.finetune()
    assert gate.reached.wait(LONG)
    session.update(weight_bits=7, batch=8)
    until(lambda: not session.busy)
    assert session.training
    gate.open.set()
    session.wait(LONG)
    assert session.recipe.label == "W3 A8 + fine-tuned"
    assert session.recipe.deployment.batch == 8
    assert session.recipe.key in bench.trained


def test_other_bits_do_not_begin_a_training_by_themselves(session, bench):
    session.finetune()
    session.wait(LONG)
    session.update(weight_bits=4)
    session.wait(LONG)
    assert session.recipe.label == "W4 A8"
    assert len(bench.tuned) == 1
    session.update(weight_bits=3)
    assert session.recipe == W3


def test_bits_that_the_training_excludes_are_no_error(session, bench):
    session.finetune()
    tuned = session.wait(LONG).recipe

    def refuse(recipe):
        if recipe.finetuning is not None and recipe.quantization.weight_bits != 3:
            raise RecipeError("finetuning.nested: the recipe has other bits")

    bench.check = refuse
    session.update(weight_bits=6)
    assert session.recipe == tuned.replace(finetuning=None, quantization=tuned.quantization.replace(weight_bits=6))


def test_a_choice_that_finds_nothing_better_keeps_what_was_trained(session, bench):
    session.finetune()
    tuned = session.wait(LONG).recipe
    gate = held(session, bench, "choosing", 1)
    session.choose_method(2.0)
    assert gate.reached.wait(LONG)
    session.cancel()
    assert session.recipe == tuned


def test_bits_that_were_trained_as_well_keep_the_training(session, bench):
    session.finetune()
    tuned = session.wait(LONG).recipe
    four = tuned.replace(quantization=tuned.quantization.replace(weight_bits=4))
    bench.trained.add(four.key)  # as one network does that was made good at several
    session.update(weight_bits=4)
    assert session.recipe == four
    session.update(batch=2)
    assert session.recipe.finetuning == tuned.finetuning


def test_one_training_at_a_time(session, bench):
    gate = held(session, bench, "training", 2)
    session.finetune()
    assert gate.reached.wait(LONG)
    for start in (session.finetune, session.distil):
        with pytest.raises(WorkbenchError, match="under way"):
            start()
    session.stop_training()


@pytest.mark.parametrize("error", [WorkbenchError("No labels; give some."), OSError("disk")], ids=type)
def test_a_failed_fine_tuning_leaves_the_recipe_and_says_why(session, bench, error):
    def fail(what, step, cancel):
        if (what, step) == ("training", 3):
            raise error

    bench.at = fail
    session.finetune()
    with pytest.raises(type(error)):
        session.wait(LONG)
    assert str(error) in session.problem
    assert (session.training, session.recipe) == (False, W3)


def test_another_model_ends_the_fine_tuning_of_the_first(report):
    first, other = Bench(report), Bench(report, "other")
    other.training_images = 700
    session = Session({"fake": first, "other": other}, recipe=W3)
    try:
        session.wait(LONG)
        gate = held(session, first, "training", 5)
        session.finetune()
        assert gate.reached.wait(LONG)
        session.choose_model("other")
        assert (session.training, session.lesson, session.curve) == (False, "", ())
        assert session.finetuning.images == 700
        assert session._learning.wait(LONG)
        session.choose_model("fake")
        assert session.recipe == W3
        assert session.lesson == "finetuning"
    finally:
        session.close()


def test_closing_in_mid_training_leaves_no_thread(report):
    bench = Bench(report)
    session = Session(bench, recipe=W3)
    session.wait(LONG)
    gate = held(session, bench, "training", 4)
    session.finetune()
    assert gate.reached.wait(LONG)
    session.close()
    assert all(not thread.is_alive() for thread in bench.threads)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.update_finetuning(epochs=0), "epochs"),
        (lambda s: s.update_finetuning(nested=(2, 9)), "nested"),
        (lambda s: s.update_finetuning(nested=("2",)), "nested"),
        (lambda s: s.update_finetuning(epoch=3), "no such field"),
        (lambda s: s.update_finetuning(images=5_001), "5,000 training images"),
        (lambda s: setattr(s, "finetuning", Finetuning(images=9_999)), "5,000 training images"),
    ],
)
def test_settings_that_are_not_possible_change_nothing(session, change, match):
    before = session.finetuning
    with pytest.raises(WorkbenchError, match=match):
        change(session)
    assert session.finetuning == before
    assert before.images == 5_000  # what the task has, where the usual is more


def test_fp32_has_no_grids_to_train_on(session):
    session.recipe = Recipe()
    with pytest.raises(WorkbenchError, match="bits first"):
        session.finetune()
    assert not session.training


def test_without_training_images_nothing_is_tuned(report):
    bench = Bench(report)
    bench.training_images = 0
    session = Session(bench, recipe=W3)
    try:
        with pytest.raises(WorkbenchError, match="no training images; fine-tuning"):
            session.finetune()
    finally:
        session.close()
