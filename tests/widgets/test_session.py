"""The session on a bench with plain numbers, whose threads can be held where a test wants them."""

from __future__ import annotations

import gc
import hashlib
import inspect
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
import traitlets
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from small_bench import LONG, until

from widgets.session import Session
from widgets.state import FIRST_DISTILLATION
from workbench import statistics
from workbench.errors import Cancelled, RecipeError, WorkbenchError
from workbench.preflight import Preflight
from workbench.recipe import Deployment, Distillation, Quantization, Recipe
from workbench.report import Advice, Estimate, LayerRow, Report

TOTAL, CHUNK = 1000, 200


@dataclass(frozen=True)
class Point:
    step: int
    steps: int
    seconds: float = 0.0
    samples_per_second: float = 1000.0
    student: Estimate | None = None
    control: Estimate | None = None
    loss: float = 1.0
    done: bool = False
    cancelled: bool = False


class FakeBench:
    """Deterministic numbers from a hash of the recipe. `at` is called at every step and may block or raise."""

    description, parameters, training_images = "a fake", 100, 20_000
    task = SimpleNamespace(noun="images")
    layers = tuple(SimpleNamespace(name=name) for name in ("conv1", "conv2", "fc1", "fc2"))

    def __init__(self, name="fake", at=None, chunk=CHUNK, lesson=10):
        self.name, self.chunk, self.lesson = name, chunk, lesson
        self.at = at or (lambda what, step, cancel: None)
        self.store, self.students, self.looks = {}, set(), ()
        self.started, self.finished, self.threads = [], [], set()

    def check(self, recipe):
        if not isinstance(recipe, Recipe):
            raise RecipeError("a Recipe is needed")
        known = [layer.name for layer in self.layers]
        for pattern in recipe.quantization.layers:
            if not any(recipe.quantization.matches(pattern, name) for name in known):
                raise RecipeError(f"there is no layer {pattern!r}")
        if recipe.deployment.runtime not in ("onnxruntime", "eager"):
            raise RecipeError(f"there is no runtime {recipe.deployment.runtime!r}")
        if recipe.deployment.device != "cpu":
            raise RecipeError(f"{recipe.deployment.device}: not on this machine")
        if recipe.distillation is not None and recipe.distillation.teacher not in ("teacher-cnn", "self"):
            raise RecipeError(f"there is no teacher {recipe.distillation.teacher!r}")

    def teachers(self):
        return (SimpleNamespace(name="teacher-cnn", reason=None), SimpleNamespace(name="self", reason=None))

    @property
    def baseline(self):
        return self._report(Recipe(), TOTAL)

    def known(self, recipe):
        return self.store.get(recipe.key)

    def _report(self, recipe, seen, **more):
        lost = (
            int(hashlib.sha256(f"{self.name}{recipe.key}".encode()).hexdigest(), 16) % 90 if recipe != Recipe() else 0
        )
        lost = lost * seen // TOTAL
        right = seen * 9 // 10 - lost
        return Report(
            recipe=recipe,
            evaluated=seen,
            total=TOTAL,
            accuracy=statistics.proportion(right, seen, "simulated"),
            drop=statistics.paired_difference(lost, 0, seen, "simulated"),
            flips=statistics.flips(lost, 0, seen),
            size=Estimate.exact(1000 + lost, "B"),
            **more,
        )

    def _step(self, what, step, cancel):
        self.threads.add(threading.current_thread())
        self.at(what, step, cancel)
        if cancel is not None and cancel.is_set():
            raise Cancelled

    def preflight_stream(self, cancel=None):
        yield from self.looks

    def frontier_reports(self):
        return ()

    def follow(self, recipe, cancel=None, progress=None):
        self.check(recipe)
        if recipe.key in self.store:
            yield self.store[recipe.key]
            return
        self.started.append(recipe)
        for seen in range(self.chunk, TOTAL + 1, self.chunk):
            self._step(recipe, seen, cancel)
            yield self._report(recipe, seen)
        self._step(recipe, "latency", cancel)
        more = {"latency": Estimate(value=1e-3, low=9e-4, high=2e-3, unit="s", source="measured")}
        yield self._report(recipe, TOTAL, **more)
        self._step(recipe, "costs", cancel)
        quantization = recipe.quantization.replace(weight_bits=8, activation_bits=8)
        suggested = recipe.replace(quantization=quantization)
        more["advice"] = Advice(verdict="fine", recipe=None if suggested == recipe else suggested)
        cost = Estimate.exact(0.01, "")
        more["layers"] = tuple(
            LayerRow(
                name=layer.name, kind="Linear", shape=(1, 1), parameters=1, weight_bits=None, activation_bits=None,
                bytes=1, sqnr=None, cost=cost,
            )
            for layer in self.layers
        )  # fmt: skip
        report = self._report(recipe, TOTAL, **more)
        self.finished.append(recipe)
        self.store[recipe.key] = report
        yield report

    def measure(self, recipe):
        """The oracle: no session, no thread, no store of this bench."""
        *_, report = FakeBench(self.name).follow(recipe)
        return report

    def distilled(self, distillation):
        return distillation in self.students

    def distil(self, distillation, cancel=None, pause=None):
        self.check(Recipe(distillation=distillation))
        for step in range(1, self.lesson + 1):
            self.threads.add(threading.current_thread())
            self.at(distillation, step, cancel)
            student = statistics.proportion(step, self.lesson, "measured") if step > 1 else None
            stopped = cancel is not None and cancel.is_set()
            if student is not None:
                self.students.add(distillation)
            yield Point(step, self.lesson, student=student, done=stopped or step == self.lesson, cancelled=stopped)
            if stopped:
                return


class Gate:
    """Holds a bench at one step until it is opened; unless `deaf`, a cancel lets it through as well."""

    def __init__(self, held=lambda what, step: True, deaf=False):
        self.held, self.deaf = held, deaf
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, what, step, cancel):
        if self.held(what, step):
            self.reached.set()
            deadline = time.monotonic() + LONG
            while not self.open.is_set() and (self.deaf or not cancel.is_set()):
                assert time.monotonic() < deadline, "the gate was never opened"
                time.sleep(0.001)


@pytest.fixture
def make():
    """Makes sessions and closes them; none may leave a thread behind."""
    made = []

    def make(*args, **kwargs):
        made.append(Session(*args, **kwargs))
        return made[-1]

    yield make
    for session in made:
        session.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("workbench-") and any(_owns(s, t) for s in made)]


def _owns(session, thread):
    return thread in (session._measuring._thread, session._learning._thread)


def snapshot(session):
    return {name: getattr(session, name) for name in session.trait_names()}


def watch(session, *names):
    seen = []
    session.observe(lambda change: seen.append(change["new"]), names=list(names))
    return seen


# Measuring


def test_a_session_measures_fp32_first_and_says_what_it_does(make):
    started, said, sessions = threading.Event(), {}, []

    def at(what, step, cancel):
        assert started.wait(LONG)
        said[step] = sessions[0].status

    bench = FakeBench(at=at)
    session = make(bench)
    sessions.append(session)
    assert session.busy
    assert session.report is None
    assert not session.stale
    started.set()
    report = session.wait(LONG)
    assert report == bench.measure(Recipe())
    assert session.report == session.baseline == session.tried[0] == report
    assert (session.busy, session.stale, session.progress, session.problem) == (False, False, 1.0, "")
    assert (session.can_undo, session.can_redo) == (False, False)
    assert session.status.startswith("1,000 of 1,000 images · ")
    assert said[200] == "Measuring…"
    assert said[400] == "200 of 1,000 images"
    assert said["latency"] == "Timing on onnxruntime…"
    assert said["costs"] == "Looking for the layers that cost…"


def test_partial_reports_arrive_and_the_old_one_is_stale_until_the_first(make):
    bench = FakeBench()
    session = make(bench)
    fp32 = session.wait(LONG)
    gate = bench.at = Gate(lambda what, step: step == 200)
    session.update(weight_bits=4)
    assert gate.reached.wait(LONG)
    assert (session.report, session.stale, session.busy, session.progress) == (fp32, True, True, 0.0)
    bench.at = second = Gate(lambda what, step: step == 400)
    gate.open.set()
    assert second.reached.wait(LONG)
    assert session.report.evaluated == 200
    assert (session.stale, session.busy, session.progress) == (False, True, 0.2)
    assert session.tried == (fp32,)
    second.open.set()
    assert session.wait(LONG) == bench.measure(session.recipe)
    assert [report.recipe.label for report in session.tried] == ["fp32", "W4"]


def test_nothing_is_computed_in_the_callers_thread(make):
    bench = FakeBench()
    session = make(bench)
    session.update(weight_bits=3)
    session.wait(LONG)
    session.distil()
    session.wait(LONG)
    session.undo()
    session.redo()
    assert bench.threads
    assert threading.current_thread() not in bench.threads


def test_the_latest_of_200_rapid_changes_wins(make):
    bench = FakeBench()
    session = make(bench)
    session.wait(LONG)
    bench.at = gate = Gate()
    for change in range(200):
        session.update(weight_bits=2 + change % 7, batch=1 + change)
    gate.open.set()
    report = session.wait(LONG)
    assert report.recipe == session.recipe
    assert session.recipe.deployment.batch == 200
    assert report == bench.measure(session.recipe)
    assert bench.finished == [Recipe(), session.recipe]
    assert len(session.tried) == 2


def test_a_report_of_a_superseded_recipe_is_dropped(make):
    bench = FakeBench()
    session = make(bench)
    session.wait(LONG)
    gate = bench.at = Gate(lambda what, step: step == 400, deaf=True)  # goes on with the old one after the cancel
    bench._step = lambda what, step, cancel: bench.at(what, step, cancel)  # and never ends by itself
    session.update(weight_bits=4)
    old = session.recipe
    assert gate.reached.wait(LONG)
    session.update(runtime="eager", weight_bits=5)
    seen = watch(session, "report")
    gate.open.set()
    session.wait(LONG)
    assert seen
    assert {report.recipe for report in seen} == {session.recipe}
    assert old not in [report.recipe for report in session.tried]


def test_views_are_not_flooded_and_the_last_report_always_comes(make):
    bench = FakeBench(chunk=1)
    session = make(bench)
    seen = watch(session, "report")
    began = time.monotonic()
    session.wait(LONG)
    # the first, then one per 0.1 s, then those with a new kind of number
    assert len(seen) <= 1 + (time.monotonic() - began) / 0.1 + 4
    assert seen[0].evaluated == 1
    assert seen[-1] == bench.measure(Recipe())


def test_what_observers_see_is_never_half_changed(make):
    small = FakeBench("small")
    small.layers = small.layers[:1]
    session = make({"fake": FakeBench(), "small": lambda: small})
    wrong = []

    def look(change):
        s = session
        try:
            s.bench.check(s.recipe)
            assert s.model == s.bench.name
            assert s.report is None or s.stale or s.report.recipe == s.recipe
            assert s.busy or not s.loading
            assert s.baseline is None or s.tried[0] == s.baseline
            assert s.tried == () or s.report is not None
        except Exception as error:
            wrong.append((change["name"], error))

    session.observe(look)
    session.set_layers(["fc2"], weight_bits=2)
    session.wait(LONG)
    session.choose_model("small")
    session.wait(LONG)
    session.choose_model("fake")
    session.undo()
    session.wait(LONG)
    assert wrong == []


# Cancelling and failing


@pytest.mark.parametrize("step", [400, "latency", "costs"])
def test_cancel_leaves_the_partial_report_and_asking_again_goes_on_from_it(make, step):
    bench = FakeBench()
    session = make(bench)
    session.wait(LONG)
    gate = bench.at = Gate(lambda what, at: at == step)
    session.update(weight_bits=4)
    assert gate.reached.wait(LONG)
    partial = session.report
    assert partial.recipe == session.recipe
    session.cancel()
    assert session._measuring.wait(LONG / 2)  # the gate lets a cancelled job through, and only that
    assert not session.busy
    assert session.status == f"Cancelled at {partial.evaluated:,} of 1,000 images"
    with pytest.raises(Cancelled):
        session.wait(LONG)
    assert session.problem == ""
    assert session.report == partial
    assert not session.stale
    seen = watch(session, "report")
    bench.at = lambda *_: None
    session.update(weight_bits=4)
    assert session.wait(LONG) == bench.measure(session.recipe)
    assert min(report.evaluated for report in seen) >= partial.evaluated
    assert all(report.latency is not None for report in seen if partial.latency is not None)


def test_cancel_before_anything_was_seen_keeps_the_old_report_grey(make):
    bench = FakeBench()
    session = make(bench)
    fp32 = session.wait(LONG)
    gate = bench.at = Gate()
    session.update(weight_bits=4)
    assert gate.reached.wait(LONG)
    session.cancel()
    assert (session.report, session.stale, session.status) == (fp32, True, "Cancelled")
    session.cancel()  # nothing to do
    session.undo()
    assert (session.report, session.stale, session.busy) == (fp32, False, False)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("no kernel\nline two"), "Measuring W4 failed: RuntimeError: no kernel; details are in the log."),
        (MemoryError(), "Measuring W4 failed: MemoryError; details are in the log."),
        (SystemExit(2), "Measuring W4 failed: SystemExit: 2; details are in the log."),
        (WorkbenchError("The store is full; free some space."), "The store is full; free some space."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_in_the_bench_is_said_in_words_and_the_session_goes_on(make, caplog, error, words):
    bench = FakeBench()
    session = make(bench)
    session.wait(LONG)

    def fail(what, step, cancel):
        if step == 600:
            raise error

    bench.at = fail
    session.update(weight_bits=4)
    with pytest.raises(type(error)):
        session.wait(LONG)
    assert session.problem == words
    assert not session.busy
    assert ("Traceback" in caplog.text) == (not isinstance(error, WorkbenchError))
    bench.at = lambda *_: None
    session.update(weight_bits=5)
    assert session.problem == ""
    assert session.wait(LONG) == bench.measure(session.recipe)


def test_a_store_that_cannot_be_read_is_a_problem_not_an_end(make):
    bench = FakeBench()
    session = make(bench)
    session.wait(LONG)

    def broken(recipe):
        raise WorkbenchError("The store cannot be read; is the disk there?")

    bench.known = broken
    session.update(weight_bits=4)
    assert session.wait(LONG).recipe == session.recipe
    assert session.problem == "The store cannot be read; is the disk there?"
    session.undo()
    assert session.wait(LONG).recipe == Recipe()


def test_numbers_that_cannot_be_kept_come_with_the_reason(make):
    class ReadOnly(dict):
        problem = "The store is read-only; reports are kept in memory."

    bench = FakeBench()
    bench.store = ReadOnly()
    session = make(bench)
    session.update(weight_bits=4)
    assert session.wait(LONG) == bench.measure(session.recipe)
    assert session.problem == ReadOnly.problem


def test_a_runtime_that_fails_is_a_problem_and_everything_else_is_there(make):
    bench = FakeBench()

    def untimed(recipe, cancel=None, progress=None):
        report = bench._report(recipe, TOTAL, untimed="openvino crashed on this model (SIGSEGV).")
        yield report
        bench.store[recipe.key] = report.model_copy(update={"advice": Advice(verdict="fine")})
        yield bench.store[recipe.key]

    session = make(bench)
    session.wait(LONG)
    works, bench.follow = bench.follow, untimed
    session.update(weight_bits=4)
    report = session.wait(LONG)
    assert (report.accuracy.value, report.advice.verdict) == (
        bench._report(session.recipe, TOTAL).accuracy.value,
        "fine",
    )
    assert session.problem == "openvino crashed on this model (SIGSEGV)."
    bench.follow = works
    session.undo()
    session.wait(LONG)
    assert session.problem == ""
    session.redo()
    session.wait(LONG)
    assert session.problem == "openvino crashed on this model (SIGSEGV)."


def test_a_runtime_that_failed_before_is_tried_again(make):
    bench = FakeBench()
    recipe = Recipe(quantization=Quantization(weight_bits=4))
    bench.store[recipe.key] = bench._report(recipe, TOTAL, untimed="onnxruntime was not done in time.")
    asked = []
    works = bench.follow

    def follow(recipe, cancel=None, progress=None):
        asked.append(recipe)
        bench.store.pop(recipe.key, None)
        return works(recipe, cancel, progress)

    bench.follow = follow
    session = make(bench)
    session.wait(LONG)
    session.update(weight_bits=4)
    assert session.wait(LONG).latency is not None
    assert asked[-1] == session.recipe and session.problem == ""


def test_a_bench_with_nothing_to_report_is_an_error(make):
    bench = FakeBench()
    bench.follow = lambda recipe, cancel=None, progress=None: iter(())
    session = make(bench)
    with pytest.raises(WorkbenchError, match="nothing to report"):
        session.wait(LONG)
    assert "nothing to report" in session.problem


def test_wait_says_when_the_time_is_up(make):
    bench = FakeBench(at=Gate())
    session = make(bench)
    with pytest.raises(TimeoutError, match="fp32"):
        session.wait(0.01)
    session.cancel()


def test_wait_in_an_observer_refuses_instead_of_hanging(make):
    session = make(FakeBench())
    session.wait(LONG)
    session.observe(lambda change: session.wait(), names=["report"])
    session.update(weight_bits=4)
    session.wait(LONG)
    assert "observer" in session.problem


# Bad input


BITS = [0, 9, -3, 4.5, "four", float("nan"), True, [4], np.float32(4)]


@pytest.mark.parametrize("field", ["weight_bits", "activation_bits"])
@pytest.mark.parametrize("bits", BITS, ids=repr)
def test_bits_that_are_not_allowed_change_nothing(make, field, bits):
    session = make(FakeBench())
    session.wait(LONG)
    before = snapshot(session)
    for attempt in (session.update, lambda **b: session.set_layers(["fc1"], **b)):
        with pytest.raises(WorkbenchError, match=rf"{field}.*{1 if field == 'weight_bits' else 2} to 8"):
            attempt(**{field: bits})
    assert snapshot(session) == before


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda s: s.update(weight_bit=4), "weight_bits"),
        (lambda s: s.update(weight_bits=4, nonsense=1), "nonsense"),
        (lambda s: s.update(version=2), "version"),
        (lambda s: s.update(runtime="tensorrt"), "tensorrt"),
        (lambda s: s.update(weight_bits=4, runtime="tensorrt"), "tensorrt"),
        (lambda s: s.update(device="cuda"), "not on this machine"),
        (lambda s: s.update(batch=0), "batch"),
        (lambda s: s.update(threads=-1), "threads"),
        (lambda s: s.update(layers={"fc9": {"weight_bits": 4}}), "fc9"),
        (lambda s: s.update(layers=5), "layers"),
        (lambda s: s.set_layers(["fc9"], weight_bits=4), "fc9"),
        (lambda s: s.set_layers(["fc1", "fc9"], weight_bits=4), "fc9"),
        (lambda s: s.set_layers(["fc1"], bits=4), "bits"),
        (lambda s: s.set_layers(["fc1"]), "which bits"),
        (lambda s: s.set_layers([], weight_bits=4), "at least one"),
        (lambda s: s.set_layers([5], weight_bits=4), "Names"),
        (lambda s: s.clear_layers(["fc9"]), "fc"),
        (lambda s: s.restore("0" * 64), "tried"),
        (lambda s: s.restore(None), "tried"),
        (lambda s: s.choose_model("seed"), "seed"),
        (lambda s: s.choose_model(5), "5"),
        (lambda s: s.choose_model(["fake"]), "fake"),
        (lambda s: s.update_distillation(temperature=0), "temperature"),
        (lambda s: s.update_distillation(teacher="nobody"), "nobody"),
        (lambda s: s.update_distillation(temprature=3), "temprature"),
        (lambda s: setattr(s, "recipe", Recipe(quantization=Quantization(layers={"fc9": {"weight_bits": 4}}))), "fc9"),
        (lambda s: setattr(s, "recipe", Recipe(deployment=Deployment(runtime="tensorrt"))), "tensorrt"),
        (lambda s: setattr(s, "distillation", Distillation(teacher="nobody")), "nobody"),
    ],
)
def test_what_is_not_possible_is_refused_in_words_and_changes_nothing(make, attempt, words):
    bench = FakeBench()
    session = make(bench)
    session.wait(LONG)
    before, started = snapshot(session), list(bench.started)
    with pytest.raises(WorkbenchError, match=words):
        attempt(session)
    assert snapshot(session) == before
    assert bench.started == started


@pytest.mark.parametrize("name", Session.class_trait_names())
@pytest.mark.parametrize("nonsense", ["nonsense", None, 7, {"weight_bits": 4}], ids=repr)
def test_a_trait_set_to_nonsense_keeps_its_value(make, name, nonsense):
    session = make(FakeBench())
    session.wait(LONG)
    before = snapshot(session)
    with pytest.raises(traitlets.TraitError):
        setattr(session, name, nonsense)
    assert snapshot(session) == before


def test_a_session_does_not_start_on_a_recipe_that_is_not_possible():
    before = threading.active_count()
    with pytest.raises(WorkbenchError, match="fc9"):
        Session(FakeBench(), Recipe(quantization=Quantization(layers={"fc9": {"weight_bits": 4}})))
    assert threading.active_count() == before


def test_guard_says_what_went_wrong_and_lets_nothing_out(make, caplog, capfd):
    session = make(FakeBench())
    session.wait(LONG)
    with session.guard():
        session.update(weight_bits=9)
    assert "1 to 8" in session.problem
    assert "Traceback" not in caplog.text
    with session.guard("Drawing the tiles"):
        raise KeyError("sqnr")
    assert session.problem == "Drawing the tiles failed: KeyError: 'sqnr'; details are in the log."
    assert "KeyError" in caplog.text
    session.update(activation_bits=8)
    with session.guard():
        raise Cancelled
    assert session.problem == ""
    with pytest.raises(KeyboardInterrupt), session.guard():
        raise KeyboardInterrupt
    session.update(weight_bits=4)
    assert session.problem == ""


def test_an_observer_that_fails_is_reported_and_stops_nothing(make, caplog):
    bench = FakeBench()
    session = make(bench)

    def broken(change):
        raise ZeroDivisionError("a broken view")

    session.observe(broken, names=["report", "recipe", "problem"])
    session.update(weight_bits=4)
    assert session.wait(LONG) == bench.measure(session.recipe)
    assert "a broken view" in session.problem
    assert "a broken view" in caplog.text


# History


def test_undo_redo_and_restore_show_what_is_stored_at_once(make):
    bench = FakeBench()
    session = make(bench)
    fp32 = session.wait(LONG)
    session.update(weight_bits=4)
    four = session.wait(LONG)
    session.update(runtime="eager")
    eager = session.wait(LONG)
    stale, busy, started = watch(session, "stale"), watch(session, "busy"), len(bench.started)
    for move, expected in (
        (session.undo, four),
        (session.undo, fp32),
        (session.undo, fp32),
        (session.redo, four),
        (session.redo, eager),
        (session.redo, eager),
        (lambda: session.restore(fp32.recipe.key), fp32),
        (session.undo, eager),
    ):
        move()
        assert (session.report, session.recipe) == (expected, expected.recipe)
        assert session.status == "1,000 of 1,000 images"
    assert stale == busy == []
    assert len(bench.started) == started
    assert session.tried == (fp32, four, eager)
    session.undo()
    session.update(weight_bits=6)
    assert not session.can_redo


def test_a_step_that_has_become_impossible_is_refused_and_the_history_stays(make):
    bench = FakeBench()
    session = make(bench)
    session.update(runtime="eager")
    session.update(weight_bits=4)
    session.wait(LONG)
    check, before = bench.check, snapshot(session)

    def without_eager(recipe):
        check(recipe)
        if recipe.quantization == Quantization():
            raise WorkbenchError("eager: gone")

    bench.check = without_eager
    with pytest.raises(WorkbenchError, match="gone"):
        session.undo()
    assert snapshot(session) == before
    bench.check = check
    session.undo()
    assert session.recipe == Recipe(deployment=Deployment(runtime="eager"))


def test_a_dragged_slider_is_one_step(make):
    session = make(FakeBench())
    session._desk.undo._clock = lambda: 100.0  # a quick hand
    for bits in (8, 7, 6, 5):
        session.update(weight_bits=bits)
    session.update(activation_bits=8)
    session.set_layers(["fc1", "fc2"], weight_bits=2)
    assert dict(session.recipe.quantization.layers) == dict.fromkeys(
        ["fc1", "fc2"], session.recipe.quantization.layers["fc1"]
    )
    labels = []
    while session.can_undo:
        labels.append(session.recipe.label)
        session.undo()
    assert labels == ["W5 A8, fc1 W2, fc2 W2", "W5 A8", "W5"]
    assert session.recipe == Recipe()


def test_layers_are_set_on_top_of_each_other_and_cleared(make):
    session = make(FakeBench())
    session.set_layers("fc1", weight_bits=2)
    session.set_layers(["fc1", "conv*"], activation_bits=None)
    quantization = session.recipe.quantization
    assert quantization.layers["fc1"].model_fields_set == {"weight_bits", "activation_bits"}
    session.clear_layers(["fc1", "conv2"])
    assert list(session.recipe.quantization.layers) == ["conv1"]
    session.undo()
    assert session.recipe.quantization == quantization


def test_advice_is_taken_only_where_it_belongs(make):
    bench = FakeBench()
    session = make(bench)
    suggested = session.wait(LONG).advice.recipe
    gate = bench.at = Gate()
    session.update(weight_bits=3)
    with pytest.raises(WorkbenchError, match="no suggestion"):
        session.take_advice()  # what is on the screen was said of fp32
    gate.open.set()
    session.undo()
    session.take_advice()
    assert session.recipe == suggested
    assert session.wait(LONG).advice.recipe is None
    with pytest.raises(WorkbenchError, match="no suggestion"):
        session.take_advice()


def test_the_code_makes_the_recipe_again(make):
    session = make(FakeBench())
    session.update(weight_bits=4, runtime="eager")
    scope = {}
    exec(session.code(), scope)  # noqa: S102
    assert scope["recipe"] == session.recipe
    assert "W4" in repr(session)


class SessionAgainstAList(RuleBasedStateMachine):
    """Undo, redo, restore and two models with a history each, against lists."""

    RECIPES = tuple(Recipe(deployment=Deployment(batch=batch)) for batch in (1, 2, 3, 4))

    def __init__(self):
        super().__init__()
        self.benches = {name: FakeBench(name) for name in "ab"}
        self.session = Session({name: (lambda bench=bench: bench) for name, bench in self.benches.items()})
        self.at = "a"
        self.past, self.future, self.tried = (
            {name: value() for name in "ab"} for value in (lambda: [Recipe()], list, dict)
        )
        self.finish()

    def finish(self):
        report = self.session.wait(LONG)
        self.tried[self.at][report.recipe.key] = report
        return report

    @rule(recipe=st.sampled_from(RECIPES))
    def choose(self, recipe):
        self.session.recipe = recipe
        self._pushed(recipe)

    def _pushed(self, recipe):
        if recipe != self.past[self.at][-1]:
            self.past[self.at].append(recipe)
            self.future[self.at] = []

    @rule()
    def undo(self):
        self.session.undo()
        if len(self.past[self.at]) > 1:
            self.future[self.at].append(self.past[self.at].pop())

    @rule()
    def redo(self):
        self.session.redo()
        if self.future[self.at]:
            self.past[self.at].append(self.future[self.at].pop())

    @precondition(lambda self: self.tried[self.at])
    @rule(data=st.data())
    def restore(self, data):
        key = data.draw(st.sampled_from(sorted(self.tried[self.at])))
        self.session.restore(key)
        self._pushed(self.tried[self.at][key].recipe)

    @rule()
    def refuse(self):
        with pytest.raises(WorkbenchError):
            self.session.update(runtime="tensorrt")

    @rule()
    def cancel(self):
        self.session.cancel()

    @rule(name=st.sampled_from("ab"))
    def choose_model(self, name):
        self.session.choose_model(name)
        until(lambda: not self.session.loading)
        self.at = name

    @rule()
    def wait(self):
        self.session.recipe = self.session.recipe  # goes on where it was cancelled
        assert self.finish() == self.benches[self.at].measure(self.session.recipe)
        assert not self.session.stale

    @invariant()
    def agree(self):
        session = self.session
        assert (session.model, session.bench) == (self.at, self.benches[self.at])
        assert session.recipe == self.past[self.at][-1]
        assert session.can_undo == (len(self.past[self.at]) > 1)
        assert session.can_redo == bool(self.future[self.at])
        assert session.problem == ""
        keys = [report.recipe.key for report in session.tried]
        assert set(self.tried[self.at]) <= set(keys)
        assert len(set(keys)) == len(keys)
        if session.baseline is not None:
            assert keys[0] == Recipe().key

    def teardown(self):
        self.session.close()


TestSessionAgainstAList = SessionAgainstAList.TestCase
TestSessionAgainstAList.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


# Distillation


def test_a_training_ends_in_the_recipe_and_is_measured(make):
    bench = FakeBench()
    session = make(bench)
    session.update(weight_bits=4)
    session.wait(LONG)
    session.update_distillation(temperature=3, images=500)
    assert session.distillation == FIRST_DISTILLATION.replace(temperature=3, images=500)
    assert session.recipe.distillation is None
    session.distil()
    assert session.training
    report = session.wait(LONG)
    assert not session.training
    assert session.curve[-1].done
    assert report.recipe == Recipe(quantization=Quantization(weight_bits=4), distillation=session.distillation)
    assert report == bench.measure(report.recipe)
    session.without_distillation()
    assert session.recipe == Recipe(quantization=Quantization(weight_bits=4))
    session.undo()
    assert session.report == report


def test_controls_answer_while_a_student_learns(make):
    bench = FakeBench()
    session = make(bench)
    session.wait(LONG)
    gate = bench.at = Gate(lambda what, step: isinstance(what, Distillation) and step == 5)
    session.distil()
    assert gate.reached.wait(LONG)
    assert session.status.startswith("Training: step")
    session.update(weight_bits=5)
    until(lambda: not session.busy)
    assert session.report == bench.measure(session.recipe)
    assert session.training
    with pytest.raises(WorkbenchError, match="under way"):
        session.distil()
    session.update(activation_bits=6)
    gate.open.set()
    assert session.wait(LONG).recipe.label == "student ×0.5 + W5 A6"


@pytest.mark.parametrize(("step", "learned"), [(1, False), (5, True)])
def test_a_stopped_training_is_used_only_if_something_was_learned(make, step, learned):
    bench = FakeBench()
    session = make(bench)
    session.wait(LONG)
    gate = bench.at = Gate(lambda what, at: isinstance(what, Distillation) and at == step)
    session.distil()
    assert gate.reached.wait(LONG)
    session.stop_training()
    report = session.wait(LONG)
    assert session.curve[-1].cancelled
    assert (report.recipe.distillation == session.distillation) == learned
    assert session.can_undo == learned
    assert (session.training, session.problem) == (False, "")
    assert session.status.startswith("1,000 of 1,000 images")
    session.stop_training()  # nothing to do


def test_stopping_at_once_ends_the_training(make):
    session = make(FakeBench(at=lambda *_: time.sleep(0.001)))
    for _ in range(20):
        session.distil()
        session.stop_training()
        until(lambda: not session.training)
    assert session.problem == ""


@pytest.mark.parametrize(
    "error", [WorkbenchError("The teacher's file is gone; restore it."), OSError("disk")], ids=type
)
def test_a_failed_training_leaves_the_recipe_and_says_why(make, error):
    bench = FakeBench()
    session = make(bench)
    session.wait(LONG)

    def fail(what, step, cancel):
        if isinstance(what, Distillation) and step == 3:
            raise error

    bench.at = fail
    session.distil()
    with pytest.raises(type(error)):
        session.wait(LONG)
    assert str(error) in session.problem
    assert not session.training
    assert session.recipe == Recipe()
    assert not session.can_undo
    bench.at = lambda *_: None
    session.distil()
    assert session.problem == ""
    assert session.wait(LONG).recipe.distillation == session.distillation


def test_a_student_that_was_trained_again_is_measured_again(make):
    bench = FakeBench()
    session = make(bench)
    session.distil()
    session.wait(LONG)
    bench.store.clear()
    session.distil()
    recipe = session.wait(LONG).recipe
    assert bench.started.count(recipe) == 2


def test_a_bench_without_training_images_says_so(make):
    bench = FakeBench()
    bench.training_images = 0
    session = make(bench)
    with pytest.raises(WorkbenchError, match="training images"):
        session.distil()
    assert not session.training


# Models


def test_another_model_is_loaded_in_the_background_and_remembered(make):
    loading, go = threading.Event(), threading.Event()
    other = FakeBench("other")

    def load():
        loading.set()
        assert go.wait(LONG)
        assert threading.current_thread() is not threading.main_thread()
        return other

    session = make({"fake": FakeBench(), "other": load})
    assert session.models == ("fake", "other")
    session.update(weight_bits=4)
    four = session.wait(LONG)
    session.choose_model("other")
    assert loading.wait(LONG)
    assert (session.model, session.loading, session.status) == ("fake", "other", "Loading other…")
    assert (session.busy, session.stale, session.report) == (True, True, four)
    go.set()
    report = session.wait(LONG)
    assert (session.model, session.loading, session.bench) == ("other", "", other)
    assert report == other.measure(Recipe())
    assert session.tried == (report,)
    assert not session.can_undo
    session.choose_model("fake")
    assert (session.model, session.recipe, session.report, session.busy) == ("fake", four.recipe, four, False)
    assert session.tried == (session.baseline, four)
    assert session.can_undo
    session.choose_model("other")
    assert (session.report, session.busy) == (report, False)


def test_a_model_that_cannot_be_loaded_leaves_the_current_one(make):
    def load():
        raise WorkbenchError("other: the checkpoint was altered; get it again.")

    session = make({"fake": FakeBench(), "other": load})
    fp32 = session.wait(LONG)
    session.choose_model("other")
    with pytest.raises(WorkbenchError, match="altered"):
        session.wait(LONG)
    assert session.problem == "other: the checkpoint was altered; get it again."
    assert (session.model, session.loading, session.busy) == ("fake", "", False)
    assert (session.report, session.stale) == (fp32, False)
    session.update(weight_bits=4)
    assert session.wait(LONG).recipe.label == "W4"


@pytest.mark.parametrize("change_of_mind", ["back", "same", "update", "cancel"])
def test_a_load_that_is_no_longer_wanted_changes_nothing(make, change_of_mind):
    loading, go = threading.Event(), threading.Event()

    def load():
        loading.set()
        assert go.wait(LONG)
        return FakeBench("other")

    session = make({"fake": FakeBench(), "other": load})
    session.wait(LONG)
    session.choose_model("other")
    assert loading.wait(LONG)
    {
        "back": lambda: session.choose_model("fake"),
        "same": lambda: setattr(session, "recipe", session.recipe),
        "update": lambda: session.update(weight_bits=4),
        "cancel": session.cancel,
    }[change_of_mind]()
    assert session.loading == ""
    go.set()
    report = session.wait(LONG)
    assert session._measuring.wait(LONG)
    assert (session.model, session.bench.name, session.stale) == ("fake", "fake", False)
    assert report.recipe == session.recipe


def test_another_model_ends_the_training_of_the_first(make):
    bench = FakeBench()
    session = make({"fake": bench, "other": FakeBench("other")})
    session.wait(LONG)
    gate = bench.at = Gate(lambda what, step: isinstance(what, Distillation) and step == 5, deaf=True)
    session.distil()
    assert gate.reached.wait(LONG)
    session.choose_model("other")
    assert not session.training
    assert session.curve == ()
    gate.open.set()
    assert session.wait(LONG).recipe == Recipe()
    assert session._learning.wait(LONG)
    assert session.recipe == Recipe()
    assert session.curve == ()
    session.choose_model("fake")
    assert session.recipe == Recipe()


def test_a_session_that_begins_elsewhere_finds_the_baseline_by_itself(make):
    recipe = Recipe(quantization=Quantization(weight_bits=3))
    session = make(FakeBench(), recipe)
    report = session.wait(LONG)
    assert report.recipe == recipe
    assert session.baseline.recipe == Recipe()
    assert session.tried == (session.baseline, report)


# Threads and ends


def test_a_trait_can_be_set_from_any_thread(make):
    bench = FakeBench()
    session = make(bench)
    seen = []
    session.observe(lambda change: seen.append((change["new"], threading.current_thread().name)), names=["recipe"])
    recipe = Recipe(quantization=Quantization(weight_bits=6))
    thread = threading.Thread(target=lambda: setattr(session, "recipe", recipe), name="elsewhere")
    thread.start()
    thread.join(LONG)
    assert seen == [(recipe, "elsewhere")]
    assert session.wait(LONG) == bench.measure(recipe)


def test_many_threads_at_once_lose_no_change(make):
    bench = FakeBench()
    session = make(bench)

    def count(field):
        for value in range(2, 27):
            session.update(**{field: value})
            session.undo()
            session.redo()

    threads = [threading.Thread(target=count, args=(field,)) for field in ("batch", "threads")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert session.problem == ""
    assert session.wait(LONG) == bench.measure(session.recipe)
    while session.can_undo:
        session.undo()
    assert session.recipe == Recipe()


def test_two_sessions_on_one_bench_do_not_see_each_other(make):
    bench = FakeBench()
    one, two = make(bench), make(bench)
    one.update(weight_bits=4)
    two.update(weight_bits=7)
    assert one.wait(LONG).recipe.label == "W4"
    assert two.wait(LONG).recipe.label == "W7"
    one.close()
    two.undo()
    assert two.wait(LONG).recipe == Recipe()
    assert [report.recipe.label for report in two.tried] == ["fp32", "W7"]


def test_close_in_the_middle_of_everything_ends_the_threads(make):
    bench = FakeBench(at=Gate(lambda what, step: step in (5, CHUNK)))
    session = make(bench)
    session.distil()
    until(lambda: len(bench.threads) == 2 and bench.students)  # a student has learned something, too late
    waiting = []

    def wait():
        try:
            session.wait(LONG)
        except Cancelled as error:
            waiting.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    session.close()
    session.close()
    thread.join(LONG)
    assert len(waiting) == 1
    assert not any(thread.is_alive() for thread in bench.threads)
    assert (session.busy, session.training) == (False, False)
    for attempt in (
        lambda: session.update(weight_bits=4),
        session.distil,
        session.undo,
        lambda: session.choose_model("fake"),
    ):
        with pytest.raises(WorkbenchError, match="closed"):
            attempt()
    assert session.problem == ""


def test_a_session_that_nobody_holds_ends_its_threads():
    bench = FakeBench()
    session = Session(bench)
    session.distil()
    session.wait(LONG)
    threads = {session._measuring._thread, session._learning._thread}
    assert all(thread.is_alive() for thread in threads)
    assert session._measuring.wait(LONG)
    assert session._learning.wait(LONG)
    del session
    gc.collect()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def test_a_process_that_ends_in_mid_work_does_not_hang():
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("fake", {__file__!r})
fake = importlib.util.module_from_spec(spec)
import sys; sys.modules["fake"] = fake
sys.path.insert(0, {str(Path(__file__).parent)!r})
spec.loader.exec_module(fake)
bench = fake.FakeBench(at=fake.Gate())
session = fake.Session(bench)
session.distil()
fake.until(lambda: len(bench.threads) == 2)
print("working")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=3 * LONG)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "working", "")


def preflight(**more):
    return Preflight(model="net", parameters=1, layers=(), memory=1, **more)


def test_the_model_is_looked_at_when_its_first_numbers_are_there(make):
    bench = FakeBench()
    bench.looks = (preflight(), preflight(warnings=("odd",), complete=True))
    session = make(bench)

    session.wait(10)
    until(lambda: session.preflight is not None and session.preflight.complete)
    assert session.preflight.warnings == ("odd",)
    assert not session.busy


def test_a_model_that_cannot_be_looked_at_still_has_its_numbers(make):
    bench = FakeBench()
    session = make(bench)
    session.wait(10)
    del bench.looks

    session.update(weight_bits=3)
    session.wait(10)

    until(lambda: "Looking at the model" in session.problem)
    assert session.report.complete


def test_no_part_of_a_session_overwrites_what_another_part_has_without_calling_it():
    parts = [part for part in Session.__mro__ if part.__module__.startswith("widgets.")]
    seen = {}
    for part in reversed(parts):
        for name, member in vars(part).items():
            if not inspect.isfunction(member):
                continue
            if name in seen:
                assert f"super().{name}(" in inspect.getsource(member), f"{part.__name__} and {seen[name]}: {name}"
            seen[name] = part.__name__
