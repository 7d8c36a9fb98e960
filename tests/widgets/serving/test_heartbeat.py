from __future__ import annotations

import pytest
import traitlets

from widgets.serving.heartbeat import Heartbeat


@pytest.fixture
def heartbeat(monkeypatch):
    """A heartbeat, and what it sent."""
    sent = []
    widget = Heartbeat()
    monkeypatch.setattr(widget, "send", sent.append)
    return widget, sent


def test_it_answers_a_question_with_its_number(heartbeat):
    widget, sent = heartbeat
    widget._handle_custom_msg({"ping": 7}, [])

    assert sent == [{"pong": 7}]


@pytest.mark.parametrize("nonsense", [None, "ping", {}, {"pong": 1}, []], ids=repr)
def test_it_leaves_what_is_no_question(heartbeat, nonsense):
    widget, sent = heartbeat
    widget._handle_custom_msg(nonsense, [])

    assert sent == []


def test_it_cannot_be_set_to_flood_the_kernel():
    with pytest.raises(traitlets.TraitError):
        Heartbeat(interval=0)
