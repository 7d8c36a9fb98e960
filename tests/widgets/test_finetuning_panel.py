from __future__ import annotations

from types import SimpleNamespace

import pytest

from widgets.finetuning_panel import FIELDS, OTHER_BITS, FinetuningPanel, image_steps
from workbench import statistics
from workbench.errors import WorkbenchError
from workbench.recipe import Distillation, Finetuning, Quantization, Recipe

W2 = Recipe(quantization=Quantization(weight_bits=2, activation_bits=8))


def test_every_setting_has_its_control(session):
    assert set(FIELDS) == set(Finetuning.model_fields)
    view = FinetuningPanel(session(recipe=W2)).view
    assert set(FIELDS) <= set(view)


@pytest.mark.parametrize(
    ("images", "steps"), [(0, []), (300, [300]), (20_000, [500, 1_000, 2_000, 5_000, 10_000, 20_000])]
)
def test_image_steps_are_round_and_end_on_all(images, steps):
    assert image_steps(images) == steps


def test_settings_off_the_steps_are_shown(session):
    wish = Finetuning(images=1_234, epochs=7, learning_rate=3e-4, distillation=0.33, nested=(2, 5), seed=11)
    view = FinetuningPanel(session(recipe=W2, finetuning=wish)).view
    for field in ("images", "distillation"):
        assert view[field]["value"] in view[field]["values"]
    for field in ("epochs", "learning_rate"):
        assert view[field]["value"] in [option["value"] for option in view[field]["options"]]
    assert [each["value"] for each in view["nested"] if each["chosen"]] == [2, 5]
    assert view["seed"]["value"] == 11
    assert view["more"] == "4 changed"


def test_its_buttons(session, send):
    s = session(recipe=W2.replace(finetuning=Finetuning()))
    part = FinetuningPanel(s)
    assert part.view["can_remove"]
    assert (part.view["remark"], part.view["note"]) == ("in the recipe", OTHER_BITS)
    for action in ("start", "pause", "resume", "stop", "remove"):
        send(part, {"do": action})
    calls = ["finetune", "pause_training", "resume_training", "stop_training", "without_finetuning"]
    assert s.calls == [(call,) for call in calls]


def test_a_pause_is_said_where_it_holds(session):
    s = session(recipe=W2, training=True, lesson="finetuning", paused=True)
    assert (FinetuningPanel(s).view["remark"], FinetuningPanel(s).view["note"]) == ("paused", "paused")
    s.lesson = "distillation"
    assert FinetuningPanel(s).view["remark"] == "off"


def test_bit_widths_go_in_and_out(session, send):
    s = session(recipe=W2)
    part = FinetuningPanel(s)
    for bits in (8, 2, 4, 8):
        send(part, {"do": "nest", "bits": bits})
    assert s.finetuning.nested == (2, 4)
    send(part, {"do": "update", "nested": [3, 2]})
    assert s.finetuning.nested == (2, 3)
    assert s.problem == ""


@pytest.mark.parametrize(
    "message",
    [
        {"do": "nest", "bits": 9},
        {"do": "nest", "bits": "2"},
        {"do": "nest"},
        {"do": "nest", "bits": [2]},
        {"do": "update", "seed": "x"},
        {"do": "update", "epochs": 0},
        {"do": "update", "teacher": 3},
        {"do": "update", "nested": [None]},
        {"do": "update"},
    ],
)
def test_nonsense_changes_nothing_and_is_told(session, send, message):
    s = session(recipe=W2)
    send(FinetuningPanel(s), message)
    assert s.finetuning == Finetuning()
    assert s.problem


def test_without_bits_there_is_nothing_to_train_on(session):
    view = FinetuningPanel(session()).view
    assert not view["can_start"]
    assert view["note"] == "Set bits first."


def test_without_training_data_it_says_what_is_missing(session):
    s = session(recipe=W2)
    s.bench.training_images = 0
    view = FinetuningPanel(s).view
    assert not view["can_start"]
    assert "this task has none" in view["reasons"][0]
    assert all(view[field]["disabled"] for field in ("images", "epochs", "learning_rate", "distillation", "seed"))


def test_what_the_bench_refuses_is_the_reason(session):
    s = session(recipe=W2)

    def check(recipe):
        if recipe.finetuning:
            raise WorkbenchError("An ONNX graph cannot be trained.")

    s.bench.check = check
    view = FinetuningPanel(s).view
    assert view["reasons"] == ["An ONNX graph cannot be trained."]
    assert not view["can_start"]


def test_settings_that_do_not_fit_the_recipe_can_be_mended(session):
    s = session(recipe=W2, finetuning=Finetuning(nested=(4,)))

    def check(recipe):
        if recipe.finetuning and recipe.finetuning.nested == (4,):
            raise WorkbenchError("The recipe has weights of 2 bits, which are not among them.")

    s.bench.check = check
    view = FinetuningPanel(s).view
    assert view["reasons"] == ["The recipe has weights of 2 bits, which are not among them."]
    assert not view["can_start"]
    assert not any(each["disabled"] for each in view["nested"])


def test_while_it_trains_it_says_how_far_it_is(session):
    s = session(recipe=W2)
    part = FinetuningPanel(s)
    s.training, s.lesson = True, "finetuning"
    assert part.draw()["note"] == "Beginning…"
    accuracy = statistics.proportion(1_700, 2_000, "measured")
    point = SimpleNamespace(
        step=50, steps=100, epoch=3, epochs=4, seconds=10.0, samples_per_second=2_000.0, accuracy=accuracy,
        loss=0.5, cancelled=False, note="", resumed=True,
    )  # fmt: skip
    s.curve = (point,)
    view = part.draw()
    assert view["training"]
    assert view["seed"]["disabled"]
    for said in ("held-out 85.00", "3 of 4 epochs", "2,000 images a second", "10\u202fs left", "resumed from epoch 3"):
        assert said in view["note"]


def test_it_waits_for_a_distillation(session):
    s = session(recipe=W2.replace(distillation=Distillation()))
    s.training, s.lesson = True, "distillation"
    view = FinetuningPanel(s).draw()
    assert (view["training"], view["can_start"], view["note"]) == (False, False, "after the distillation")


def test_another_teacher_is_chosen_and_taken_back(session, send):
    s = session(recipe=W2)
    part = FinetuningPanel(s)
    assert [option["value"] for option in part.view["teacher"]["options"]] == ["", "teacher-cnn", "self"]
    send(part, {"do": "update", "teacher": "teacher-cnn"})
    assert s.finetuning.teacher == "teacher-cnn"
    assert part.draw()["more"] == "1 changed"
    send(part, {"do": "update", "teacher": ""})
    assert s.finetuning.teacher is None
