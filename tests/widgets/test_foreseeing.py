"""Predictions beside measurements, and how what they rest on is learned without being in the way."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from small_bench import LONG, until

from widgets import foreseeing
from widgets.session import Session
from workbench.errors import Cancelled, RecipeError
from workbench.preflight import Preflight
from workbench.recipe import Distillation, Quantization, Recipe
from workbench.report import Estimate

RUNS = 40


def quantized(bits, **more):
    return Recipe(quantization=Quantization(weight_bits=bits, **more))


class Bench:
    """Reports from a fixture, effects that are "measured" step by step; `measuring` and `learning` may hold it."""

    description, training_images = "a fake", 0
    task = SimpleNamespace(noun="images", calibration=range(512))

    def __init__(self, report, layers, name="fake"):
        self.name, self.layers, self.report = name, layers, report
        self.measuring = self.learning = lambda step, cancel: None
        self.known_methods, self.asked, self.during = set(), 0, []
        self.refuses, self.busy = False, False

    runtimes = devices = teachers = frontier_reports = lambda self: ()
    check = known = lambda self, recipe: None
    distilled = lambda self, distillation: True  # noqa: E731

    def preflight_stream(self, cancel=None):
        return iter(())

    @property
    def baseline(self):
        return self.report(Recipe(), lost=0, gained=0)

    def follow(self, recipe, cancel, progress=None):
        self.busy = True
        for seen in (1_000, 10_000):
            self.measuring(seen, cancel)
            if cancel.is_set():
                raise Cancelled
            yield self.report(recipe, evaluated=seen)
        self.busy = False

    def plan(self, **_):
        return SimpleNamespace(predicted=())

    @staticmethod
    def _method(quantization):
        return quantization.replace(weight_bits=None, activation_bits=None, layers={})

    def predictable(self, recipe):
        return recipe.distillation is None and self._method(recipe.quantization) in self.known_methods

    def predict(self, recipe):
        if self.refuses:
            raise RecipeError("this one cannot be predicted")
        half = 0.002
        bits = recipe.quantization.weight_bits or 8
        made = self.report(recipe)
        drop = Estimate(
            value=0.001 * bits, low=0.001 * bits - half, high=0.001 * bits + half, unit="", source="predicted"
        )
        accuracy = Estimate(value=0.9, low=0.89, high=0.91, unit="", source="predicted")
        return made.model_copy(update={"evaluated": 0, "drop": drop, "accuracy": accuracy, "latency": None})

    def sensitivity_stream(self, quantization, cancel):
        self.asked += 1
        for step in range(1, RUNS + 1):
            self.learning(step, cancel)
            if cancel.is_set():
                raise Cancelled
            self.during.append(self.busy)
            yield step, RUNS
        self.known_methods.add(self._method(quantization))


def holding(*steps):
    """Holds at these steps until it is opened or cancelled."""
    reached, opened = threading.Event(), threading.Event()

    def hold(step, cancel):
        if step in steps:
            reached.set()
            deadline = time.monotonic() + LONG
            while not (opened.is_set() or cancel.is_set()):
                assert time.monotonic() < deadline
                time.sleep(0.001)

    hold.reached, hold.opened = reached, opened
    return hold


@pytest.fixture
def bench(report, session):
    return Bench(report, session().bench.layers)


@pytest.fixture
def make():
    made = []

    def make(*args):
        made.append(Session(*args))
        return made[-1]

    yield make
    for session in made:
        session.close()
        thread = session._foreseeing._thread
        assert thread is None or not thread.is_alive()


def learned(session):
    until(lambda: session._method() in session._desk.learned and session._errand is None)


def test_a_prediction_stands_at_once_and_the_measurement_beside_it(make, bench):
    bench.learning = held = holding(1)
    session = make(bench, quantized(4))
    session.wait(LONG)
    assert session.prediction is None  # nothing is known yet
    held.opened.set()
    learned(session)
    bench.measuring = gate = holding(1_000)
    session.update(weight_bits=3)
    assert session.prediction.recipe == session.recipe == quantized(3)  # no thread was waited for
    assert session.prediction.accuracy.source == "predicted"
    assert session.stale and session.report.recipe == quantized(4)
    gate.opened.set()
    session.wait(LONG)
    assert session.report.recipe == session.prediction.recipe


def test_only_what_was_predicted_before_it_was_measured_becomes_a_point(make, bench):
    session = make(bench, quantized(4))
    session.wait(LONG)
    learned(session)
    assert session.foreseen == ()  # W4 was measured first
    for bits in (3, 5):
        session.update(weight_bits=bits)
        session.wait(LONG)
    session.restore(quantized(4).key)
    session.wait(LONG)
    assert [point.name for point in session.foreseen] == ["W3", "W5"]
    for point in session.foreseen:
        assert point.measured == bench.report(Recipe()).drop
        assert point.predicted.source == "predicted"


def test_learning_gives_way_to_a_measurement_and_goes_on_afterwards(make, bench):
    bench.learning = held = holding(5)
    session = make(bench, quantized(4))
    session.wait(LONG)
    assert held.reached.wait(LONG)
    assert session.sensing is not None
    bench.measuring = gate = holding(1_000)
    session.update(weight_bits=3)
    assert session.sensing is None
    assert gate.reached.wait(LONG)
    assert bench.during.count(True) == 0
    bench.learning = lambda step, cancel: None
    gate.opened.set()
    session.wait(LONG)
    learned(session)
    assert bench.asked == 2 and True not in bench.during
    assert session.prediction is not None and session.sensing is None and session.problem == ""


def test_learning_waits_until_the_model_was_looked_at(make, bench):
    gate, looks = threading.Event(), []

    def look(cancel=None):
        yield Preflight(model="fake", parameters=1, layers=(), memory=1)
        looks.append("began")
        assert gate.wait(LONG)
        yield Preflight(model="fake", parameters=1, layers=(), memory=1, complete=True)

    bench.preflight_stream = look
    session = make(bench, quantized(4))
    session.wait(LONG)
    until(lambda: looks)
    assert bench.asked == 0 and session.sensing is None
    gate.set()
    learned(session)
    assert bench.asked == 1


def test_what_takes_long_is_learned_only_when_it_is_asked_for(make, bench, monkeypatch):
    monkeypatch.setattr(foreseeing, "TRIAL", 0.0)
    monkeypatch.setattr(foreseeing, "DEAR", 0.01)
    bench.learning = lambda step, cancel: time.sleep(0.002)
    session = make(bench, quantized(4))
    session.wait(LONG)
    until(lambda: session.sensing_takes > 0)
    assert session.sensing is None and session._method() not in session._desk.learned
    session.update(weight_bits=3)
    session.wait(LONG)
    assert bench.asked == 1  # another recipe of the method does not begin anew
    bench.learning = held = holding(7)
    session.learn()
    assert session.sensing_takes == 0 and session.asked_to_learn
    assert held.reached.wait(LONG)
    session.stop_learning()
    assert session.sensing is None
    bench.learning = lambda step, cancel: None
    session.learn()
    learned(session)
    assert session.prediction is not None


def test_what_cannot_be_predicted_is_measured_without_a_word(make, bench):
    session = make(bench, quantized(4))
    session.wait(LONG)
    learned(session)
    bench.refuses = True
    session.update(weight_bits=3)
    assert session.prediction is None
    assert session.wait(LONG).recipe == quantized(3)
    bench.refuses = False
    session.recipe = quantized(3).replace(distillation=Distillation())
    assert session.prediction is None
    session.wait(LONG)
    assert session.problem == "" and session.foreseen == ()


def test_a_method_that_is_refused_is_not_tried_again_and_a_bench_that_cannot_learn_is_none(make, bench):
    def refuse(step, cancel):
        raise RecipeError("not for this method")

    bench.learning = refuse
    session = make(bench, quantized(4))
    session.wait(LONG)
    until(lambda: session._method() in session._desk.hopeless)
    session.update(weight_bits=3)
    session.wait(LONG)
    assert (bench.asked, session.problem, session.prediction) == (1, "", None)
    with pytest.raises(RecipeError.__base__, match="cannot be predicted"):
        session.learn()


def test_an_error_while_learning_is_said_and_the_session_goes_on(make, bench, caplog):
    def fail(step, cancel):
        raise ZeroDivisionError("no")

    bench.learning = fail
    session = make(bench, quantized(4))
    session.wait(LONG)
    until(lambda: "Learning what layers cost failed" in session.problem)
    session.update(weight_bits=3)
    assert session.wait(LONG).recipe == quantized(3)
    assert bench.asked == 1


def test_another_model_keeps_what_it_learned_and_ends_what_the_first_was_learning(make, bench, report):
    other = Bench(report, bench.layers, "other")
    bench.learning = held = holding(3)
    session = make({"fake": bench, "other": other}, quantized(4))
    session.wait(LONG)
    assert held.reached.wait(LONG)
    session.choose_model("other")
    session.wait(LONG)
    learned(session)
    assert session.model == "other" and other.asked == 1
    session.update(weight_bits=3)
    session.wait(LONG)
    assert session.prediction is not None
    bench.learning = lambda step, cancel: None
    session.choose_model("fake")
    session.wait(LONG)
    learned(session)
    assert bench.asked == 2 and session.foreseen == ()
    session.choose_model("other")
    session.wait(LONG)
    assert other.asked == 1 and session.prediction is not None
