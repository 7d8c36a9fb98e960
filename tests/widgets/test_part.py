from __future__ import annotations

import importlib
import threading
import time
from pathlib import Path

import pytest
import traitlets

import widgets
from widgets import part as part_module
from widgets.part import Pacer, Part
from workbench.recipe import Quantization, Recipe

ALONE = (
    "DeploymentPanel",
    "DistillationPanel",
    "History",
    "LayerTable",
    "LearningCurves",
    "ModelPicker",
    "QuantizationPanel",
    "Status",
    "Tiles",
    "TradeOff",
    "Tried",
    "Verdict",
)


def wait_until(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


class Counter(traitlets.HasTraits):
    """A stand-in for a session with one number."""

    number = traitlets.Int(0)
    recipe = Recipe()

    def guard(self, what=""):
        import contextlib

        return contextlib.nullcontext()


class Show(Part):
    watches = ("number",)
    drawn = 0

    def draw(self):
        self.drawn += 1
        return {"number": self.session.number}


def test_the_last_update_is_always_drawn_and_updates_do_not_queue():
    session = Counter()
    show = Show(session)
    for _ in range(5):
        for _ in range(400):
            session.number += 1
        wait_until(lambda: show.view == {"number": session.number})
    assert show.drawn < 100  # 2,000 changes


def test_it_tells_which_recipe_it_is_drawn_for_and_never_one_that_it_does_not_show_yet():
    session = Counter()

    class Slow(Show):
        def draw(self):
            drawn = super().draw()
            session.recipe = Recipe(quantization=Quantization(weight_bits=4))  # meanwhile
            return drawn

    show = Slow(session)
    assert show.drawn_for == Recipe().key
    show.refresh()
    assert show.drawn_for == session.recipe.key


def test_updates_from_several_threads_are_not_lost():
    session = Counter()
    show = Show(session)
    lock = threading.Lock()

    def work():
        for _ in range(200):
            with lock:
                session.number += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: show.view == {"number": 800})


def test_a_request_during_a_drawing_leads_to_one_more():
    pacer = Pacer(interval=0.01)
    inside, go_on, states = threading.Event(), threading.Event(), []
    state = ["first"]

    def draw():
        states.append(state[0])
        inside.set()
        go_on.wait(5)

    pacer.request(draw)
    assert inside.wait(5)
    state[0] = "last"  # after `draw` has read it
    for _ in range(50):
        pacer.request(draw)
    go_on.set()
    wait_until(lambda: len(states) == 2)
    time.sleep(0.05)
    assert states == ["first", "last"]


def test_a_drawing_that_fails_does_not_stop_the_others(capsys):
    pacer = Pacer(interval=0.01)
    drawn = []
    pacer.request(lambda: 1 / 0)
    pacer.request(lambda: drawn.append("a"))
    wait_until(lambda: drawn == ["a"])
    again = threading.Event()
    wait_until(lambda: pacer._timer is None)
    pacer.request(again.set)
    assert again.wait(5)


@pytest.mark.parametrize("name", ALONE)
def test_every_part_can_be_made_before_anything_was_measured(name, session):
    s = session()
    part = getattr(widgets, name)(s)
    assert part.view
    assert s.problem == ""


@pytest.mark.parametrize("name", ALONE)
def test_every_part_draws_a_report_and_follows_the_session(name, session, report):
    s = session()
    part = getattr(widgets, name)(s)
    done = report(costs={"fc1": (0.001, 0.002, 0.003)})
    with s.hold_trait_notifications():
        s.recipe, s.report, s.baseline = done.recipe, done, report(lost=0, gained=0)
        s.tried, s.busy, s.status, s.can_undo = (done,), True, "1 of 2", True
    wait_until(lambda: part_module.pacer_of(s)._timer is None)
    assert part.view == part.draw()
    assert s.problem == ""


NONSENSE = [
    None,
    "undo",
    7,
    [],
    {},
    {"do": None},
    {"do": ["update"]},
    {"do": "no-such-thing"},
    {"do": "__init__"},
    {"do": "_update", "weight_bits": 4},
]


@pytest.mark.parametrize("content", NONSENSE, ids=repr)
@pytest.mark.parametrize("name", ALONE)
def test_nonsense_from_the_page_changes_nothing_and_is_answered_in_words(name, content, session, send):
    s = session()
    part = getattr(widgets, name)(s)
    before = (s.recipe, s.distillation, s.model)
    send(part, content)
    assert (s.recipe, s.distillation, s.model) == before and s.calls == []
    assert name in s.problem


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("QuantizationPanel", {"do": "update"}),
        ("QuantizationPanel", {"do": "update", "weight_bits": 99}),
        ("QuantizationPanel", {"do": "update", "weight_bits": 4.5}),
        ("QuantizationPanel", {"do": "update", "weight_bits": "four"}),
        ("QuantizationPanel", {"do": "update", "weight_bits": [4]}),
        ("QuantizationPanel", {"do": "update", "weight_bits": True}),
        ("QuantizationPanel", {"do": "update", "method": "magic"}),
        ("QuantizationPanel", {"do": "update", "layers": {"fc1": {"weight_bits": 2}}}),
        ("QuantizationPanel", {"do": "update", "runtime": "eager"}),
        ("QuantizationPanel", {"do": "update", "self": 1}),
        ("DeploymentPanel", {"do": "update", "batch": 0}),
        ("DeploymentPanel", {"do": "update", "threads": -1}),
        ("DeploymentPanel", {"do": "update", "runtime": None}),
        ("DeploymentPanel", {"do": "update", "device": "tpu"}),
        ("DeploymentPanel", {"do": "update", "weight_bits": 4}),
        ("DistillationPanel", {"do": "update", "temperature": 0}),
        ("DistillationPanel", {"do": "update", "temperature": "hot"}),
        ("DistillationPanel", {"do": "update", "width": 2}),
        ("DistillationPanel", {"do": "update", "labels": -1}),
        ("DistillationPanel", {"do": "update", "teacher": "../etc"}),
        ("DistillationPanel", {"do": "update", "images": 3}),
        ("LayerTable", {"do": "set"}),
        ("LayerTable", {"do": "set", "names": ["fc1"]}),
        ("LayerTable", {"do": "set", "names": [], "weight_bits": 4}),
        ("LayerTable", {"do": "set", "names": "fc1", "weight_bits": 4}),
        ("LayerTable", {"do": "set", "names": [1], "weight_bits": 4}),
        ("LayerTable", {"do": "set", "names": ["fc9"], "weight_bits": 4}),
        ("LayerTable", {"do": "set", "names": ["fc1"], "weight_bits": 0}),
        ("LayerTable", {"do": "set", "names": ["fc1"], "range": "mse"}),
        ("LayerTable", {"do": "reset", "names": {"fc1": 1}}),
        ("TradeOff", {"do": "restore"}),
        ("TradeOff", {"do": "restore", "key": 5}),
        ("Tried", {"do": "restore", "key": "no such key"}),
        ("ModelPicker", {"do": "choose"}),
        ("ModelPicker", {"do": "choose", "model": "nobody"}),
    ],
    ids=repr,
)
def test_wrong_values_from_the_page_change_nothing_and_are_answered(name, content, session, send):
    s = session()
    part = getattr(widgets, name)(s)
    before = (s.recipe, s.distillation, s.model)
    send(part, content)
    assert (s.recipe, s.distillation, s.model) == before and s.calls == []
    assert s.problem or part.view["refused"]["text"]  # in the status line, or where it was asked for


def test_the_page_cannot_set_state(session):
    s = session()
    part = widgets.QuantizationPanel(s)
    view, css = part.view, part._css
    part.set_state({"view": {"weight_bits": 99}, "_css": "* { display: none }", "_esm": "evil"})
    assert (part.view, part._css) == (view, css)
    assert s.recipe == type(s.recipe)()


def test_a_closed_part_follows_no_longer_and_closes_twice(session):
    s = session()
    part = widgets.Status(s)
    part.close()
    part.close()
    assert part.comm is None
    s.status = "later"
    wait_until(lambda: part_module.pacer_of(s)._timer is None)
    assert part.view["text"] != "later"


def test_every_part_is_a_module_and_a_script_and_names_are_found_lazily():
    here = Path(widgets.__file__).parent
    for name in ALONE:
        kind = getattr(widgets, name)
        script = str(kind._esm)
        assert script.startswith((here / "common.js").read_text(encoding="utf-8"))
        assert script.count("export default") == 1
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "import ", "http://", "https://"):
            assert forbidden not in script.replace("http://www.w3.org/2000/svg", ""), forbidden
    assert set(widgets.__all__) <= set(dir(widgets))
    with pytest.raises(AttributeError, match="Tile"):
        widgets.Nothing  # noqa: B018
    assert importlib.import_module("widgets.tiles").Tiles is widgets.Tiles
