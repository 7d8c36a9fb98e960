"""A session that finds out where the time goes: on demand, in order, undisturbed, kept for each recipe."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import small_bench
from small_bench import LONG, until

from widgets.clocking import KEPT, LOOKS
from widgets.session import Session
from workbench.errors import Cancelled, WorkbenchError
from workbench.recipe import Quantization, Recipe

INT8 = Recipe(quantization=Quantization(weight_bits=8, activation_bits=8))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_bench.made(tmp_path_factory.mktemp("store"))


class Looked:
    """A bench that answers looks from a script, and notes what was asked while what else went on."""

    def __init__(self, bench, *, hold=(), fail=(), integers=False):
        self._bench = bench
        self._integers = integers
        self._hold, self._fail = hold, fail
        self.asked = []
        self.cancelled = []
        self.session = None
        self.disturbed = False

    def __getattr__(self, name):
        return getattr(self._bench, name)

    def _answers(self, kind, recipe, cancel):
        self.asked.append((kind, recipe))
        session = self.session
        self.disturbed |= session.busy or session.training or bool(session.explaining) or not session._foreseeing.idle
        yield SimpleNamespace(kind=kind, part=1)
        if kind in self._fail:
            raise WorkbenchError(f"{kind} cannot be had.")
        if kind in self._hold:
            assert cancel.wait(LONG)
            self.cancelled.append(kind)
            raise Cancelled
        yield SimpleNamespace(kind=kind, part=2)

    def runs_integers(self, recipe):
        return self._integers

    def waterfall_stream(self, recipe, cancel):
        return self._answers("waterfall", recipe, cancel)

    def sweep_stream(self, recipe, cancel):
        return self._answers("sweep", recipe, cancel)

    def timing_stream(self, recipe, cancel):
        return self._answers("timing", recipe, cancel)

    def agreement_stream(self, recipe, cancel):
        return self._answers("agreement", recipe, cancel)

    def interaction_stream(self, recipe, cancel):
        return self._answers("interaction", recipe, cancel)

    def layer_times(self, recipe, cancel):
        *_, last = self._answers("layers", recipe, cancel)
        return last

    def confusion(self, recipe, cancel):
        *_, last = self._answers("confusion", recipe, cancel)
        return last


def made(small, **how):
    bench = Looked(small, **how)
    session = bench.session = Session(bench, INT8)
    session.wait(LONG)
    return session, bench


def test_every_look_is_had_in_the_order_it_was_asked_for(small):
    session, bench = made(small)
    for kind in LOOKS:
        session.look(kind)
    session.look(LOOKS[-1])  # asked twice is asked once
    assert session.looking
    until(lambda: not session.looking)
    assert [kind for kind, _ in bench.asked] == list(LOOKS)
    assert set(session.findings) == set(LOOKS)
    for kind, found in session.findings.items():
        assert (found.recipe, found.done, found.reason) == (INT8, True, "")
        assert (found.result.kind, found.result.part) == (kind, 2)
    assert not session.clocking and session.problem == "" and not bench.disturbed
    session.close()
    assert "workbench-clocking" not in [thread.name for thread in threading.enumerate()]


def test_the_real_thing(small):
    session = Session(small, INT8)
    session.wait(LONG)
    session.look("layers")
    session.look("agreement")
    until(lambda: not session.looking)
    assert session.problem == "" and all(each.reason == "" for each in session.findings.values())
    assert session.findings["layers"].result.recipe == INT8
    assert session.findings["agreement"].result.examples == 300
    session.close()


def test_a_look_that_fails_says_why_and_the_next_one_is_had(small):
    session, _ = made(small, fail=("waterfall",))
    session.look("waterfall")
    session.look("timing")
    until(lambda: not session.looking)
    failed = session.findings["waterfall"]
    assert failed.reason == "waterfall cannot be had." and failed.done
    assert failed.result is None or failed.result.part == 1
    assert session.findings["timing"].reason == "" and session.problem == ""
    session.close()


def test_one_that_waits_can_be_forgotten_and_one_that_runs_ended(small):
    session, bench = made(small, hold=("waterfall",))
    for kind in ("waterfall", "sweep", "timing"):
        session.look(kind)
    until(lambda: "waterfall" in session.findings)
    assert session.clocking
    session.stop_looking("sweep")
    assert session.looking == ("waterfall", "timing")
    session.stop_looking("waterfall")
    until(lambda: not session.looking)
    assert bench.cancelled == ["waterfall"]
    assert [kind for kind, _ in bench.asked] == ["waterfall", "timing"]
    partial = session.findings["waterfall"]
    assert partial.result.part == 1 and not partial.done  # what was found out stays
    session.stop_looking("waterfall")  # nothing to end
    session.close()


@pytest.mark.parametrize("how", ["stop_looking", "close", "update"])
def test_it_ends_when_it_is_told_or_nobody_waits_for_it(small, how):
    session, bench = made(small, hold=("waterfall",))
    session.look("waterfall")
    session.look("sweep")
    until(lambda: bench.asked)
    getattr(session, how)(**({"weight_bits": 5} if how == "update" else {}))
    until(lambda: bench.cancelled == ["waterfall"])
    assert session.looking == () and not session.clocking
    session.close()
    assert [kind for kind, _ in bench.asked] == ["waterfall"]


def test_another_recipe_keeps_the_last_finding_until_its_own_and_going_back_finds_it(small):
    session, _ = made(small)
    session.look("timing")
    until(lambda: not session.looking)
    first = session.findings["timing"]
    session.update(weight_bits=6)
    assert session.findings["timing"] is first  # of an earlier recipe, which it says
    session.look("timing")
    until(lambda: not session.looking)
    assert session.findings["timing"].recipe == session.recipe != INT8
    session.recipe = INT8
    assert session.findings["timing"] is first
    session.close()


def test_only_so_many_are_kept(small):
    session, _ = made(small)
    for threads in range(1, KEPT + 3):
        session.update(threads=threads)
        session.wait(LONG)
        session.look("timing")
        until(lambda: not session.looking)
    assert len(session._kept["small", "timing"]) == KEPT
    session.close()


def test_it_waits_until_nothing_else_is_measured(small):
    session, bench = made(small)
    session.update(weight_bits=3)  # measured now
    session.look("timing")
    until(lambda: not session.looking)
    assert not bench.disturbed and session.recipe.key in session._desk.final
    session.close()


def test_an_explanation_waits_for_what_has_begun(small):
    session, bench = made(small, hold=("timing",))
    session.look("timing")
    until(lambda: session.clocking)
    session.explain()
    time.sleep(0.3)
    assert session.explanation is None
    session.stop_looking()
    until(lambda: not session.explaining)
    assert session.explanation is not None and bench.cancelled == ["timing"]
    session.close()


def test_an_unknown_look_is_refused(small):
    session, _ = made(small)
    with pytest.raises(WorkbenchError, match="'waterfall'"):
        session.look("waterfal")
    session.close()
    with pytest.raises(WorkbenchError, match="closed"):
        session.look("timing")


def test_a_waterfall_that_was_asked_for_follows_the_recipe_until_it_is_stopped(small):
    session, bench = made(small)
    session.update(weight_bits=7)
    session.wait(LONG)
    session.look("waterfall")
    until(lambda: not session.looking)
    session.update(threads=2)
    first = session.findings["waterfall"]
    assert first.recipe != session.recipe  # greyed meanwhile
    until(lambda: session.findings["waterfall"].recipe == session.recipe and not session.looking)
    for batch in (2, 4, 8):  # only what stays is taken apart
        session.update(batch=batch)
    until(lambda: session.findings["waterfall"].recipe == session.recipe and session.findings["waterfall"].done)
    assert [recipe.deployment.batch for kind, recipe in bench.asked] == [1, 1, 8]
    assert not bench.disturbed
    session.stop_looking("waterfall")
    session.update(batch=2)
    session.wait(LONG)
    time.sleep(1)
    assert len(bench.asked) == 3 and session.looking == ()
    session.close()


def test_moving_on_ends_a_waterfall_that_follows(small):
    session, bench = made(small)
    session.look("waterfall")
    until(lambda: not session.looking)
    bench._hold = ("waterfall",)
    session.update(batch=2)
    until(lambda: session.clocking)
    session.update(batch=4)
    until(lambda: bench.cancelled == ["waterfall"])
    bench._hold = ()
    until(lambda: session.findings["waterfall"].recipe == session.recipe and session.findings["waterfall"].done)
    session.close()


def test_what_runs_is_compared_by_itself_with_what_is_simulated(small):
    session, bench = made(small, integers=True)
    until(lambda: session.findings and not session.looking)
    found = session.findings["agreement"]
    assert (found.recipe, found.done, found.reason) == (INT8, True, "")
    session.recipe = INT8  # it is known, and not compared again
    session.update(weight_bits=5)
    until(lambda: session.findings["agreement"].recipe == session.recipe and not session.looking)
    session.undo()
    session.wait(LONG)
    time.sleep(1)
    assert [recipe.quantization.weight_bits for _, recipe in bench.asked] == [8, 5] and not bench.disturbed
    session.close()


@pytest.mark.parametrize("what", ["look", "explain"])
def test_what_is_asked_for_comes_before_what_is_not(small, what):
    session, bench = made(small, integers=True, hold=("agreement",))
    until(lambda: session.clocking and bench.asked)
    bench._hold = ()
    session.look("timing") if what == "look" else session.explain()
    until(lambda: bench.cancelled == ["agreement"])
    until(lambda: not session.looking and not session.explaining)
    asked = [kind for kind, _ in bench.asked]
    assert asked == ["agreement", *(["timing"] if what == "look" else []), "agreement"]
    assert session.findings["agreement"].done
    assert what == "look" or session.explanation is not None
    session.close()
