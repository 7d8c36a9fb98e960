"""The picture of an explanation, and what a person can ask of it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from widgets.explanation import ExplanationPart, explanation_view, histogram_view
from widgets.flip_rows import ALL, NONE, ROWS, flips_view
from workbench.explaining.explanation import Explanation, LayerEffect
from workbench.explaining.flips import Answer, Flip, FlipList
from workbench.explaining.histogram import Histogram, LayerHistogram
from workbench.inputs import Inputs
from workbench.recipe import Quantization, Recipe
from workbench.report import Estimate, MetricInfo

W4 = Recipe(quantization=Quantization(weight_bits=4, activation_bits=8))
COUNTED = MetricInfo(counted=True)


def estimate(low, value, high):
    return Estimate(low=low, value=value, high=high, unit="", source="simulated")


def effect(name, off, on=None, weights=None, activations=None, bits=(4, 8)):
    parts = {"off": off, "on": on, "weights": weights, "activations": activations}
    made = {key: estimate(*ends) for key, ends in parts.items() if ends}
    return LayerEffect(name=name, kind="Linear", weight_bits=bits[0], activation_bits=bits[1], weight_sqnr=20.5, **made)


CONV = effect("conv1", (0.001, 0.002, 0.003), (0.001, 0.004, 0.006), (0.001, 0.003, 0.004), (0.0005, 0.001, 0.002))
FC = effect("fc1", (0.008, 0.01, 0.012), (0.001, 0.002, 0.003), (0.001, 0.002, 0.003), (-0.001, 0.0, 0.001))
FC2 = effect("fc2", (-0.001, 0.0, 0.001), (-0.001, 0.0, 0.001), (-0.001, 0.0, 0.001), (-0.001, 0.0, 0.001))


def explanation(**changes):
    made = {"recipe": W4, "metric": COUNTED, "layers": (CONV, FC, FC2), "examples": 5000, "hurts": "fc1"}
    return Explanation(**{**made, "done": 12, "total": 12, **changes})


def flip(index, kind="lost", by=("fc1",)):
    said = {"lost": (("shirt", 1.0), ("coat", 0.0)), "gained": (("coat", 0.0), ("shirt", 1.0))}[kind]
    answers = [Answer(text=text, probability=0.913, margin=0.8, score=score) for text, score in said]
    return Flip(index=index, kind=kind, target="shirt", fp32=answers[0], now=answers[1], undone_by=by)


def flips(number=30, **changes):
    lost = tuple(flip(index, by=("fc1", "conv1") if index % 3 else ()) for index in range(number))
    made = {"recipe": W4, "metric": COUNTED, "lost": lost, "gained": (flip(99, "gained"),), "lost_total": 45}
    return FlipList(**{**made, "gained_total": 1, "examples": 10_000, "done": 4, "total": 4, **changes})


TASK = SimpleNamespace(inputs=Inputs(torch.rand(100, 1, 8, 8)))


def test_before_it_is_asked_there_is_one_button_and_no_number():
    view = explanation_view(None)
    assert (view["state"], view["ask"], view["able"], view["rows"]) == ("empty", "Which layer hurts?", True, [])
    assert explanation_view(None, active=False)["why"] == "Nothing is quantized yet."


def test_the_worst_stands_first_named_with_its_interval_and_origin():
    view = explanation_view(explanation())
    assert [row["name"] for row in view["rows"]] == ["fc1", "conv1", "fc2"]
    assert "".join(piece["text"] for piece in view["answer"]) == (
        "fc1: 1.00 points (0.80 … 1.20) come back when it alone returns to fp32."
    )
    assert view["answer"][0] == {"text": "fc1", "tone": "layer"}
    assert view["badge"] == {"origin": "simulated", "word": "simulated"}
    assert view["heads"][1] == "Won back in fp32, points" and view["remark"] == "W4 A8 · 5,000 examples"
    fc1, conv1, fc2 = view["rows"]
    assert (fc1["hurts"], fc1["off"]["text"], fc1["off"]["at"]) == (True, "1.00", 1.0)
    assert conv1["on"]["split"] == 0.75 and "75" in conv1["parts"]
    assert not fc2["off"]["certain"] and "not distinguishable" in fc2["off"]["title"] and fc2["on"]["split"] is None
    assert json.dumps(view)


def test_until_all_were_looked_at_rows_stand_as_in_the_network():
    half = explanation(layers=(CONV, FC.model_copy(update={"off": None}), FC2), hurts=None, done=2)
    view = explanation_view(half, working="Layers: run 2 of 12")
    assert [row["name"] for row in view["rows"]] == ["conv1", "fc1", "fc2"]
    assert (view["state"], view["progress"], view["keep"]) == ("growing", round(2 / 12, 3), None)
    assert view["rows"][1]["off"]["text"] == ""


def test_where_no_layer_hurts_there_is_nothing_to_keep():
    view = explanation_view(explanation(hurts=None, layers=(FC2,)))
    assert view["keep"] is None and "No single layer hurts" in view["answer"][0]["text"]


def test_a_layer_in_8_bits_can_only_go_to_fp32():
    eight = effect("fc1", (0.008, 0.01, 0.012), bits=(8, 8))
    offers = explanation_view(explanation(layers=(eight,)))["keep"]["offers"]
    assert [offer["bits"] for offer in offers] == [None]


def test_other_metrics_have_their_unit():
    view = explanation_view(explanation(metric=MetricInfo(name="MAE", unit="m", share=False, higher_is_better=False)))
    assert view["heads"][2] == "Lost by it alone, m" and "0.01 m" in view["answer"][1]["text"]


def test_what_belongs_to_an_earlier_recipe_is_greyed_and_offers_nothing(session):
    s = session(recipe=W4, explanation=explanation())
    part = ExplanationPart(s)
    assert part.view["state"] == "final" and part.view["keep"]["layer"] == "fc1"
    s.recipe = Recipe(quantization=Quantization(weight_bits=3))
    view = part.draw()
    assert (view["state"], view["keep"], view["ask"]) == ("stale", None, "Which layer hurts now?")


def test_keeping_a_layer_is_one_call_of_the_session(session, send):
    s = session(recipe=W4, explanation=explanation())
    part = ExplanationPart(s)
    send(part, {"do": "keep", "layer": "fc1", "bits": 8})
    assert s.recipe.quantization.layers["fc1"].model_dump(exclude_unset=True) == {"weight_bits": 8}
    s.explanation = explanation(recipe=s.recipe)
    send(part, {"do": "keep", "layer": "fc1", "bits": None})
    assert s.recipe.quantization.bits_for("fc1") == (None, None)


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ({"do": "keep", "layer": "fc9", "bits": 8}, "not explained"),
        ({"do": "keep", "layer": "fc1", "bits": 5}, "bits"),
        ({"do": "keep", "layer": 3, "bits": 8}, "text"),
        ({"do": "page", "kind": "all", "layer": "", "at": 0}, "kind"),
        ({"do": "page", "kind": "lost", "layer": "", "at": -1}, "at"),
        ({"do": "page", "kind": "lost", "layer": "", "at": True}, "at"),
    ],
)
def test_nonsense_changes_nothing(session, send, message, word):
    s = session(recipe=W4, explanation=explanation(), flip_list=flips())
    s.bench.task = TASK
    part = ExplanationPart(s)
    before = part.view
    send(part, message)
    assert word in s.problem and s.recipe == W4 and part.draw() == before


def test_the_button_and_the_pictures_ask_the_session(session, send):
    s = session(recipe=W4)
    part = ExplanationPart(s)
    for message in ({"do": "explain"}, {"do": "stop"}, {"do": "histogram", "layer": "fc1"}):
        send(part, message)
    assert s.calls == [("explain",), ("stop_explaining",), ("show_histogram", "fc1")]


def test_histograms_are_fractions_of_the_plot():
    weights = Histogram(
        bits=3,
        low=-1.0,
        high=1.0,
        minimum=-0.9,
        maximum=1.0,
        before=(0.0, 100.0, 25.0),
        after=(0.0, 81.0, 44.0),
        values=(-0.5, 0.0, 0.5),
        clip_low=(-0.8, -0.4),
        clip_high=(0.5, 40.0),
        clipped=0.0123,
        sqnr=14.2,
    )
    inputs = Histogram(bits=None, low=0.0, high=6.0, minimum=0.0, maximum=6.0, before=(1.0,) * 3)
    view = histogram_view(LayerHistogram(layer="fc1", kind="Linear", weights=weights, inputs=inputs, notes=("a",)))
    plot, other = view["plots"]
    assert plot["before"] == [0.0, 1.0, 0.5] and plot["after"][1] == 0.9
    assert plot["values"] == [0.25, 0.5, 0.75] and plot["limits"][0] == {"from": 0.1, "to": 0.3}
    assert plot["limits"][1]["to"] <= 1.5
    assert plot["told"] == "3 bits, 1.23 % clipped, SQNR 14.2 dB" and "−0.900 to 1.00" in plot["label"]
    assert other["told"] == "stays in fp32" and other["after"] == [] and other["limits"] == []
    assert view["notes"] == ["a"]


def page(**changes):
    return {"kind": "lost", "layer": ALL, "at": 0, **changes}


def test_flips_come_in_pages_with_pictures_and_what_undoes_them():
    pictures = {}
    view = flips_view(flips(), TASK, page(), pictures)
    assert [row["index"] for row in view["rows"]] == list(range(ROWS))
    assert view["where"] == "1–12 of 30" and view["note"] == "The list holds 30 of 45."
    assert [tab["text"] for tab in view["tabs"]] == ["Lost 45", "Won 1"]
    row = view["rows"][1]
    assert row["picture"].startswith("data:image/png;base64,") and row["text"] == ""
    assert (row["target"], row["fp32"]["text"], row["now"]["text"]) == ("shirt", "shirt", "coat")
    assert row["fp32"]["sure"] == "91\u202f%" and row["right"] == {"fp32": True, "now": False}
    assert (row["undone"], row["more"]) == ("fc1", "also conv1")
    assert view["rows"][0]["undone"] == "none alone" and len(pictures) == ROWS
    last = flips_view(flips(), TASK, page(at=500), pictures)
    assert last["at"] == 24 and last["where"] == "25–30 of 30"


def test_flips_can_be_filtered_by_the_layer_that_undoes_them():
    view = flips_view(flips(), TASK, page(layer="conv1"), {})
    assert view["total"] == 20 and all(row["index"] % 3 for row in view["rows"])
    assert [each["text"] for each in view["filters"]] == ["all layers", "fc1 (20)", "conv1 (20)", "none alone (10)"]
    assert flips_view(flips(), TASK, page(layer=NONE), {})["total"] == 10
    assert flips_view(flips(), TASK, page(layer="nowhere"), {})["layer"] == ALL
    growing = flips_view(flips(done=2), TASK, page(), {})
    assert NONE not in [each["value"] for each in growing["filters"]] and growing["rows"][0]["undone"] == "…"
    assert flips_view(None, TASK, page(), {}) is None


def test_where_nothing_is_right_or_wrong_they_are_worse_and_better():
    made = flips(metric=MetricInfo(name="MAE", share=False, higher_is_better=False))
    view = flips_view(made, SimpleNamespace(inputs=Inputs(torch.rand(100, 10))), page(), {})
    assert [tab["text"] for tab in view["tabs"]] == ["Worse 45", "Better 1"] and not view["counted"]
    assert view["rows"][0]["picture"] == "" and view["rows"][0]["text"].count(",") == 7


def test_turning_a_page_draws_it(session, send):
    s = session(recipe=W4, explanation=explanation(), flip_list=flips())
    s.bench.task = TASK
    part = ExplanationPart(s)
    send(part, {"do": "page", "kind": "gained", "layer": "", "at": 0})
    assert [row["index"] for row in part.view["flips"]["rows"]] == [99] and s.problem == ""
