"""A question about speed before its answer."""

from __future__ import annotations

import pytest

from widgets.guess_speed import STEPS, GuessSpeed, place, speed_view
from workbench.errors import WorkbenchError
from workbench.recipe import Deployment, Quantization, Recipe

EAGER = Recipe(deployment=Deployment(runtime="eager"))
GRAPH = Recipe()
MANY = Recipe(deployment=Deployment(batch=32))


def test_the_scale_has_its_steps_at_even_distances():
    assert [place(step) for step in STEPS] == pytest.approx([k / (len(STEPS) - 1) for k in range(len(STEPS))], abs=1e-4)
    assert place(1.05) == pytest.approx(place(1.0) + 0.5 / (len(STEPS) - 1), abs=0.002)
    assert (place(0.01), place(1000.0)) == (0.0, 1.0)


def test_nothing_is_told_before_it_is_asked():
    view = speed_view("How fast?", 2.0, None)
    assert view["can_show"] and view["answer"] is None and not view["guess"]["disabled"]
    assert view["guess"]["value"] in view["guess"]["values"]


def test_the_answer_compares_both_timings_and_the_guess(report):
    fast = report(GRAPH, latency=(40e-6, 50e-6, 55e-6))
    slow = report(EAGER, latency=(290e-6, 300e-6, 330e-6))
    view = speed_view("How fast?", 2.0, (fast, slow))
    text = "".join(piece["text"] for piece in view["answer"]["text"])
    assert text == "6.0× (5.3 … 8.2×) as fast · 50.0\u202fµs, before 300\u202fµs. That is 3.0× more than you guessed."
    assert view["answer"]["text"][0]["tone"] == "gain" and view["guess"]["disabled"]
    assert view["answer"]["low"] < view["answer"]["value"] < view["answer"]["high"]
    back = speed_view("How fast?", 0.2, (slow, fast))["answer"]["text"]
    assert back[0]["tone"] == "loss" and "That is 1.20× less than you guessed." in back[1]["text"]


def test_what_cannot_be_told_apart_is_said_to_be_so(report):
    view = speed_view("?", 1.0, (report(GRAPH), report(EAGER)))
    assert view["answer"]["text"][0] == {"text": "Not distinguishable 1.00× (0.88 … 1.13×)", "tone": ""}


def test_a_batch_is_counted_by_its_examples(report):
    view = speed_view("?", 1.0, (report(MANY, latency=(8e-4, 8e-4, 8e-4)), report(GRAPH, latency=(5e-5, 5e-5, 5e-5))))
    text = "".join(piece["text"] for piece in view["answer"]["text"])
    assert text.startswith("2.0× as fast · 800\u202fµs for 32, before 50.0\u202fµs.")


def test_both_are_timed_when_the_answer_is_asked_for(session, send, report):
    s = session(recipe=Recipe(quantization=Quantization(weight_bits=4)))
    part = GuessSpeed(s, GRAPH, EAGER, "How fast?")
    send(part, {"do": "guess", "value": 3.0})
    assert part.draw()["guess"]["value"] == 3.0
    send(part, {"do": "show"})
    assert s.recipe == EAGER  # what it is compared with comes first, if it was not timed
    s.tried = (report(EAGER),)
    assert "press Show again" in part.draw()["waiting"]
    send(part, {"do": "show"})
    assert s.recipe == GRAPH
    s.tried = (report(EAGER), report(GRAPH, latency=None))
    assert part.draw()["answer"] is None  # its examples were counted, it was not timed yet
    s.tried = (report(EAGER), report(GRAPH))
    assert part.draw()["answer"] is not None and not part.draw()["can_show"]
    send(part, {"do": "guess", "value": 1.0})
    assert part.draw()["guess"]["value"] == 3.0  # what is known cannot be guessed any more


@pytest.mark.parametrize("value", [0.0, "2", None, True, 7.77])
def test_a_guess_is_one_of_the_steps(session, send, value):
    s = session()
    send(GuessSpeed(s, GRAPH, EAGER, "?"), {"do": "guess", "value": value})
    assert "A guess is one of" in s.problem


def test_a_recipe_that_cannot_be_measured_is_refused_at_once(session):
    s = session()

    def check(recipe):
        raise WorkbenchError("no such runtime")

    s.bench.check = check
    with pytest.raises(WorkbenchError, match="no such runtime"):
        GuessSpeed(s, GRAPH, EAGER, "?")
