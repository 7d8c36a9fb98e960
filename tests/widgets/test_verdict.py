from __future__ import annotations

from widgets.verdict import Verdict, verdict_view
from workbench.recipe import Recipe
from workbench.report import Advice

ADVICE = Advice(verdict="7.6× smaller", reason="8-bit kernels run.", suggestion="fc1 at 8 bits helps.", recipe=Recipe())


def test_advice_is_drawn_and_notes_are_not_said_twice(report):
    view = verdict_view(report(advice=ADVICE, notes=("8-bit kernels run.", "Another thing.")))
    assert (view["verdict"], view["reason"], view["suggestion"]) == (
        "7.6× smaller",
        "8-bit kernels run.",
        "fc1 at 8 bits helps.",
    )
    assert view["notes"] == "Another thing."
    assert view["offer"] and view["state"] == "final"


def test_a_disturbed_latency_is_said_to_be_one(report):
    disturbed = report(advice=ADVICE).model_copy(update={"disturbances": ("The figures are void.",)})
    assert verdict_view(disturbed)["notes"] == "The figures are void."


def test_without_a_suggested_recipe_there_is_no_button(report):
    assert not verdict_view(report(advice=Advice(verdict="As good as it gets")))["offer"]


def test_try_it_takes_the_advice(session, report, send):
    s = session(report=report(advice=ADVICE))
    send(Verdict(s), {"do": "take"})
    assert s.calls == [("take_advice",)]


def test_the_last_sentence_stays_greyed_until_there_is_a_new_one(session, report):
    s = session(report=report(advice=ADVICE))
    part = Verdict(s)
    s.busy, s.report = True, report(evaluated=1_000, lost=10, gained=4)
    view = part.draw()
    assert (view["verdict"], view["state"]) == ("7.6× smaller", "stale")
    s.busy = False
    assert part.draw()["verdict"] == ""
