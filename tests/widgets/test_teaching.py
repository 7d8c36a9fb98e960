from __future__ import annotations

import json

import pytest
import torch

from widgets.agreement_matrix import MOST_CLASSES, matrix_view
from widgets.clocking import Finding
from widgets.distilling import Spoken
from widgets.interaction import interaction_view
from widgets.teaching import ROW, Teaching, differing_view, spoken_view
from workbench import Task
from workbench.levers.interaction import Interaction, Lever, levers
from workbench.levers.teaching import AgreementMatrix, Differing, Softened
from workbench.recipe import Distillation, Finetuning, Quantization, Recipe
from workbench.report import Estimate
from workbench.statistics import proportion

STUDENT = Recipe(distillation=Distillation())
BOTH = STUDENT.replace(quantization=Quantization(weight_bits=4))
CLASSES = ("bag", "boot", "coat")
MATRIX = AgreementMatrix(
    classes=CLASSES,
    counts=((80, 0, 20), (0, 100, 0), (5, 0, 95)),
    agreement=proportion(275, 300, "measured"),
    differing=tuple(
        Differing(index=n, teacher=0 if n < 20 else 2, student=2 if n < 20 else 0, probability=1 - n / 100)
        for n in range(25)
    ),
)


def estimate(value, spread=0.01):
    return Estimate(value=value, low=value - spread, high=value + spread, unit="", source="simulated")


def softened(temperature, student=None):
    logits = torch.tensor([3.0, 1.0, 0.0])
    return Softened(
        index=4,
        temperature=temperature,
        classes=CLASSES,
        teacher=tuple((logits / temperature).softmax(0).tolist()),
        student=student,
        target=1,
    )


def spoken(**more):
    return Spoken(4, Distillation(), {t: softened(t, **more) for t in (1.0, 2.0, 20.0)})


@pytest.fixture
def task():
    inputs = torch.rand(30, 1, 8, 8)
    return Task.classification(inputs, torch.arange(30) % 3, calibration=inputs, classes=3)


def test_bars_of_every_temperature_are_there_before_the_slider_asks(task):
    view = spoken_view(spoken(), Distillation(temperature=2), task, {})
    assert [each["name"] for each in view["classes"]] == list(CLASSES)
    assert [each["right"] for each in view["classes"]] == [False, True, False]
    assert (view["target"], view["speakers"], view["total"]) == ("boot", ["teacher"], 30)
    assert view["picture"].startswith("data:image/png")
    for temperature in (1.0, 2.0, 20.0):
        bars = view["at"][f"{temperature:g}"]["teacher"]
        assert [bar["share"] for bar in bars] == pytest.approx(softened(temperature).teacher, abs=1e-4)
    tops = [view["at"][key]["teacher"][0]["share"] for key in ("1", "2", "20")]
    assert tops == sorted(tops, reverse=True)  # the hotter, the flatter


def test_a_student_speaks_where_there_is_one(task):
    view = spoken_view(spoken(student=(0.2, 0.3, 0.5)), Distillation(), task, {})
    assert view["speakers"] == ["teacher", "student"]
    assert [bar["text"] for bar in view["at"]["2"]["student"]] == ["20.00", "30.00", "50.00"]


def test_the_slider_and_the_bars_name_temperatures_alike(session):
    part = Teaching(session(spoken=None))
    temperature = part.view["spoken"]["temperature"]
    # the browser looks a temperature up by the text that JavaScript makes of the number
    texts = {json.dumps(value).removesuffix(".0") for value in temperature["values"]}
    assert {f"{value:g}" for value in temperature["values"]} == texts


def test_what_cannot_be_heard_says_why(task):
    view = spoken_view(Spoken(4, Distillation(), {}, "No classes."), Distillation(), task, {})
    assert (view["reason"], view["at"], view["index"]) == ("No classes.", {}, 4)
    assert spoken_view(None, Distillation(), None, {})["total"] == 0


def test_of_many_classes_the_most_probable_are_shown():
    many = Softened(
        index=0, temperature=1, classes=tuple(map(str, range(100))), teacher=tuple(k / 4950 for k in range(100))
    )
    view = spoken_view(Spoken(0, Distillation(), {1.0: many}), Distillation(), None, {})
    assert [each["name"] for each in view["classes"]] == [str(k) for k in range(90, 100)]


def test_the_matrix_names_what_is_confused_most():
    view = matrix_view(MATRIX)
    assert view["said"].startswith("They agree on 91.67\u202f% (")
    assert [(p["teacher"], p["student"], p["text"]) for p in view["pairs"]] == [
        ("bag", "coat", "20"),
        ("coat", "bag", "5"),
    ]
    shades = [[cell["shade"] for cell in row["cells"]] for row in view["rows"]]
    assert shades == [[0.8, 0, 1.0], [0, 1.0, 0], [0.25, 0, 0.95]]
    assert view["rows"][0]["cells"][2]["spoken"] == "teacher bag, student coat: 20"


def test_a_matrix_of_too_many_classes_is_only_its_pairs():
    n = MOST_CLASSES + 1
    counts = tuple(tuple(int(row != column) for column in range(n)) for row in range(n))
    large = AgreementMatrix(classes=tuple(map(str, range(n))), counts=counts, agreement=proportion(0, 9, "measured"))
    view = matrix_view(large)
    assert (view["rows"], view["classes"]) == ([], [])
    assert view["pairs"]


def test_differing_examples_come_a_few_at_a_time_and_of_a_pair(task):
    view = differing_view(MATRIX, task, {}, at=ROW, example=9)
    assert [row["index"] for row in view["rows"]] == list(range(ROW, 2 * ROW))
    assert [row["index"] for row in view["rows"] if row["now"]] == [9]
    assert view["where"] == f"{ROW + 1}–{2 * ROW} of 25"
    pair = differing_view(MATRIX, task, {}, pair=(2, 0), at=999)
    assert [row["index"] for row in pair["rows"]] == list(range(20, 25))
    assert (pair["pair"], pair["total"]) == ("coat → bag", 5)
    assert differing_view(MATRIX, task, {}, pair=(1, 0))["where"] == "none"
    assert differing_view(None, task, {}) is None


def test_levers_are_bars_from_a_common_zero_and_what_they_do_to_each_other_is_told():
    levers = tuple(
        Lever(name=name, label=label, recipe=BOTH, drop=drop, size=Estimate.exact(9e4, "B"), factor=4.0)
        for name, label, drop in (
            ("student", "student ×0.5", estimate(0.06)),
            ("quantization", "W4", estimate(0.002)),
        )
    )
    partial = interaction_view(Interaction(recipe=BOTH, levers=levers, stage="together"))
    assert [row["name"] for row in partial["rows"]] == ["student ×0.5", "W4"]
    assert partial["said"] == ""
    whole = Interaction(
        recipe=BOTH, levers=levers, together=estimate(0.09), sum=estimate(0.062), interaction=estimate(0.028),
        size=Estimate.exact(1.2e4, "B"), factor=30.0,
    )  # fmt: skip
    view = interaction_view(whole)
    assert [row["kind"] for row in view["rows"]] == ["lever", "lever", "all", "sum"]
    assert [row["certain"] for row in view["rows"]] == [True, False, True, True]
    for row in view["rows"]:
        assert row["from"] == view["zero"] <= row["to"]
        assert row["low"] < row["to"] < row["high"]
    assert view["said"].lower().startswith(f"{whole.verdict}: 2.80 (1.80")
    assert view["tone"] == "loss"
    unsure = interaction_view(whole.model_copy(update={"interaction": estimate(0.005)}))
    assert unsure["tone"] == "faint"


def test_what_cannot_be_looked_at_says_why(session):
    s = session()
    part = Teaching(s)
    assert all(section["why"] for section in part.view["sections"])
    s.recipe = STUDENT
    assert [bool(section["why"]) for section in part.draw()["sections"]] == [False, True]
    s.recipe = BOTH
    assert not any(section["why"] for section in part.draw()["sections"])
    assert levers(BOTH.replace(finetuning=Finetuning())) == ("student", "quantization", "fine-tuning")


def test_its_buttons(session, send, task):
    s = session(recipe=STUDENT, findings={"confusion": Finding(STUDENT, MATRIX, done=True)})
    s.bench.task = task
    part = Teaching(s)
    send(part, {"do": "look", "kind": "confusion"})
    send(part, {"do": "stop", "kind": "confusion"})
    assert s.calls == [("look", "confusion"), ("stop_looking", "confusion")]
    send(part, {"do": "temperature", "temperature": 4})
    assert s.distillation.temperature == 4
    send(part, {"do": "pair", "row": 2, "column": 0})
    assert (s.example, part.view["differing"]["pair"]) == (20, "coat → bag")
    send(part, {"do": "pair"})
    assert part.view["differing"]["pair"] == ""
    send(part, {"do": "turn", "at": ROW})
    assert part.view["differing"]["at"] == ROW
    send(part, {"do": "hear", "index": 3})
    assert s.example == 3
    for wrong in ({"do": "hear"}, {"do": "turn", "at": -1}, {"do": "pair", "row": "a"}, {"do": "temperature"}):
        s.problem = ""
        send(part, wrong)
        assert s.problem
    json.dumps(part.view)


def test_a_place_that_is_no_class_is_refused(session, send, task):
    s = session(recipe=STUDENT, findings={"confusion": Finding(STUDENT, MATRIX, done=True)})
    s.bench.task = task
    part = Teaching(s)
    send(part, {"do": "pair", "row": 7, "column": 0})
    assert "7" in s.problem
    assert part.view["differing"]["pair"] == ""
