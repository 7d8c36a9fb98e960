from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from widgets.guess import STEPS, Guess, guess_view, place
from workbench.errors import RecipeError
from workbench.recipe import Quantization, Recipe

W3 = Recipe(quantization=Quantization(weight_bits=3, activation_bits=8))


def test_guesses_lie_evenly_and_what_is_beyond_at_the_ends():
    assert [place(step) for step in STEPS] == pytest.approx([k / (len(STEPS) - 1) for k in range(len(STEPS))], abs=1e-4)
    assert (place(-3.0), place(1e9)) == (0.0, 1.0)


@given(st.floats(-10, 100), st.floats(-10, 100))
def test_a_larger_loss_never_lies_before_a_smaller_one(one, other):
    assert (place(one) <= place(other)) or one > other


def test_before_it_is_shown_nothing_tells_the_answer(session, report, send):
    s = session()
    s.tried = (report(W3),)
    part = Guess(s, W3, "What will 3 bits cost?")
    assert part.view["answer"] is None
    assert part.view["can_show"]
    send(part, {"do": "guess", "value": 5})
    assert part.view["guess"]["value"] == 5
    assert part.view["answer"] is None
    assert s.recipe == Recipe()


def test_what_is_shown_is_measured_and_stays(session, report, send):
    s = session()
    part = Guess(s, W3.quantization, "What will 3 bits cost?")
    send(part, {"do": "show"})
    assert s.recipe == W3
    s.busy, s.status = True, "Measuring…"
    view = part.draw()
    assert (view["waiting"], view["can_show"], view["guess"]["disabled"]) == ("Measuring…", False, True)
    s.busy, s.tried = False, (report(W3),)
    view = part.draw()
    answer = view["answer"]
    assert answer["low"] <= answer["value"] <= answer["high"]
    assert answer["origin"]["origin"] == "simulated"
    s.recipe = Recipe()  # whatever is tried next
    assert part.draw()["answer"] == answer
    send(part, {"do": "guess", "value": 80})
    assert part.draw() == view | {"guess": view["guess"]}
    assert s.problem.startswith("A guess is one of")  # 80 is none


def test_what_was_cancelled_can_be_asked_for_again(session, send):
    s = session()
    part = Guess(s, W3, "?")
    send(part, {"do": "show"})
    s.busy, s.problem = False, "disk full"
    view = part.draw()
    assert view["can_show"]
    assert view["waiting"] == "disk full"


@pytest.mark.parametrize(
    ("lost", "gained", "guess", "tone", "text"),
    [
        (500, 0, 5.0, "loss", ("It costs 5.00 points (", "within its interval")),
        (500, 0, 1.0, "loss", ("It costs 5.00", "4.00 points more than you guessed")),
        (500, 0, 10.0, "loss", ("It costs 5.00", "5.00 points less than you guessed")),
        (50, 50, 0.0, "", ("Not distinguishable from fp32", "within its interval")),
        (0, 300, 1.0, "gain", ("It costs −3.00", "4.00 points less")),
    ],
)
def test_the_answer_is_told_with_its_interval_and_against_the_guess(report, lost, gained, guess, tone, text):
    answer = guess_view("?", guess, report(W3, lost=lost, gained=gained))["answer"]
    told = "".join(piece["text"] for piece in answer["text"])
    assert all(each in told for each in text)
    assert answer["text"][0]["tone"] == tone


@pytest.mark.parametrize("value", [4, "5", None, True, 1e9])
def test_only_steps_can_be_guessed(session, send, value):
    s = session()
    part = Guess(s, W3, "?")
    send(part, {"do": "guess", "value": value})
    assert part.draw()["guess"]["value"] == 1
    assert s.problem


def test_a_recipe_that_cannot_be_measured_is_refused_at_once(session):
    s = session()

    def check(recipe):
        raise RecipeError("no such layer")

    s.bench.check = check
    with pytest.raises(RecipeError, match="no such layer"):
        Guess(s, W3, "?")
