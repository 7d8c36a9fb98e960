from __future__ import annotations

from widgets.header import History, ModelPicker, Status, status_view
from workbench.bench import Offer


def test_the_picker_describes_the_model(session, report, send):
    s = session(baseline=report(lost=0, gained=0))
    picker = ModelPicker(s)
    assert picker.view["description"] == "650 parameters · a task · fp32 91.86\u202f%"
    assert [option["value"] for option in picker.view["options"]] == ["seed-cnn", "other"]
    send(picker, {"do": "choose", "model": "other"})
    assert s.model == "other" and picker.draw()["value"] == "other"


def test_a_model_that_is_not_here_is_greyed_with_the_reason(session):
    picker = ModelPicker(session(absent=(Offer("large", "pip install it"),)))
    last = picker.view["options"][-1]
    assert (last["value"], last["disabled"], last["title"]) == ("large", True, "pip install it")


def test_a_model_that_loads_is_shown_as_chosen(session):
    assert ModelPicker(session(loading="other")).view["value"] == "other"


def test_status_says_what_goes_on():
    assert status_view("", 0, busy=False, training=False, problem="")["text"] == "ready"
    working = status_view("3,000 of 10,000", 0.3, busy=True, training=False, problem="")
    assert (working["state"], working["progress"], working["working"]) == ("working", 0.3, True)
    assert status_view("x", 7.0, busy=True, training=False, problem="")["progress"] == 1.0
    wrong = status_view("x", 1.0, busy=False, training=False, problem="bits: 2 to 8")
    assert (wrong["state"], wrong["problem"]) == ("problem", "bits: 2 to 8")


def test_cancel_stops_what_is_under_way(session, send):
    for busy, training, calls in (
        (True, False, [("cancel",)]),
        (False, True, [("stop_training",)]),
        (False, False, []),
    ):
        s = session(busy=busy, training=training)
        send(Status(s), {"do": "cancel"})
        assert s.calls == calls


def test_undo_and_redo(session, send):
    s = session(can_undo=True)
    history = History(s)
    assert history.view == {"undo": True, "redo": False}
    send(history, {"do": "undo"})
    send(history, {"do": "redo"})
    assert s.calls == [("undo",), ("redo",)]
