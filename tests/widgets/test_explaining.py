"""A session that explains: on demand, growing, cancelled by the next recipe, kept for each model."""

from __future__ import annotations

import threading

import pytest
import small_bench
from small_bench import LONG, until

from widgets.session import Session
from workbench.errors import WorkbenchError
from workbench.recipe import Quantization, Recipe

LOW = Recipe(quantization=Quantization(weight_bits=2, activation_bits=4))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return small_bench.made(tmp_path_factory.mktemp("store"))


@pytest.fixture
def session(bench):
    session = Session(bench, LOW)
    session.wait(LONG)
    yield session
    session.close()


def test_one_call_explains_the_layers_and_lists_the_flips(session, bench):
    seen = []
    session.observe(lambda change: seen.append(change["new"]), names=["explanation"])
    session.explain()
    assert session.explaining
    until(lambda: not session.explaining)
    assert session.explanation == bench.explain(LOW) and session.flip_list == bench.flips(LOW)
    assert [each.done for each in seen] == sorted(each.done for each in seen) and session.problem == ""


def test_histograms_come_on_demand_and_go_with_the_recipe(session, bench):
    session.show_histogram("0")
    until(lambda: "0" in session.histograms)
    assert session.histograms == {"0": bench.histogram(LOW, "0")}
    session.update(weight_bits=3)
    assert session.histograms == {}
    session.wait(LONG)
    session.show_histogram("2")
    until(lambda: "2" in session.histograms)
    with pytest.raises(WorkbenchError, match="no layer"):
        session.show_histogram("fc")


def test_what_is_asked_meanwhile_is_answered_too(session):
    session.explain()
    session.show_histogram("0")
    until(lambda: not session.explaining)
    until(lambda: "0" in session.histograms)


def test_fp32_has_nothing_to_explain(session):
    session.update(weight_bits=None, activation_bits=None)
    with pytest.raises(WorkbenchError, match="Nothing is quantized"):
        session.explain()


class Slow:
    """A bench whose explanations wait until they are cancelled."""

    def __init__(self, bench):
        self._bench = bench
        self.cancelled = threading.Event()

    def __getattr__(self, name):
        return getattr(self._bench, name)

    def explain_stream(self, recipe, cancel):
        yield next(self._bench.explain_stream(recipe, cancel))
        if cancel.wait(LONG):
            self.cancelled.set()


@pytest.mark.parametrize("how", ["stop_explaining", "close", "update"])
def test_it_ends_when_it_is_told_or_nobody_waits_for_it(bench, how):
    slow = Slow(bench)
    session = Session(slow, LOW)
    session.wait(LONG)
    session.explain()
    until(lambda: session.explanation is not None)
    getattr(session, how)(**({"weight_bits": 5} if how == "update" else {}))
    assert slow.cancelled.wait(LONG) and session.explaining == "" and session.explanation is not None
    session.close()
    assert "workbench-explaining" not in [thread.name for thread in threading.enumerate()]


def test_coming_back_to_a_model_finds_its_explanation(bench):
    session = Session({"one": bench, "two": lambda: bench}, LOW)
    session.wait(LONG)
    session.explain()
    until(lambda: not session.explaining)
    found = session.explanation
    session.choose_model("two")
    until(lambda: session.model == "two")
    assert session.explanation is None and session.flip_list is None
    session.choose_model("one")
    assert session.explanation == found and session.flip_list is not None
    session.close()


def test_an_error_is_said(bench):
    class Broken(Slow):
        def explain_stream(self, recipe, cancel):
            raise WorkbenchError("it broke")

    session = Session(Broken(bench), LOW)
    session.wait(LONG)
    session.explain()
    until(lambda: not session.explaining)
    assert "it broke" in session.problem
    session.close()
