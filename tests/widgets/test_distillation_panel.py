from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import pytest

from widgets.choices import label_steps
from widgets.distillation_panel import FIELDS, DistillationPanel, distillation_view
from widgets.distillation_words import AUGMENTATIONS, FEATURES, FORMS, INITIALS, LOSSES, SHARE_OF
from widgets.distilling import Sketch
from widgets.lessons import Lap
from workbench.distillation import losses
from workbench.recipe import Distillation, Features, Recipe
from workbench.report import Estimate
from workbench.student_info import StudentInfo

INFO = StudentInfo(
    parameters=23_626,
    bytes=94_504,
    macs=747_000,
    model_parameters=93_322,
    model_bytes=373_288,
    model_macs=2_794_240,
    teacher_parameters=10_000,
    share=Estimate.exact(0.267, "", "predicted"),
    changed=("conv1",),
    kept=(),
    notes=("The student is larger than its teacher: 23,626 parameters against 10,000.",),
    channels={"conv1": (16, 32), "fc1": (32, 64)},
    layers={"conv1": (16, 26, 26), "relu": (16, 26, 26), "fc1": (32,)},
    teacher_layers={"block1": (48, 26, 26), "block2": (96, 13, 13), "fc": (128,)},
)


def test_label_steps_are_round_and_end_on_all_images():
    assert label_steps(10_000) == [0, 100, 200, 500, 1_000, 2_000, 5_000, 10_000]
    assert label_steps(700) == [0, 100, 200, 500, 700]
    assert set(label_steps(0)) == {0}


def test_without_training_data_the_panel_is_greyed_and_says_why():
    view = distillation_view(Distillation(), (), training_images=0)
    assert not view["can_start"] and "training images, and this task has none" in view["reasons"][0]
    fields = ("student", "share", "teacher", "temperature", "weight", "labels", "unlabelled", "epochs", "seeds")
    assert all(view[field]["disabled"] for field in fields)


def test_settings_off_the_steps_are_shown(session):
    odd = Distillation(width=0.6, temperature=2.5, weight=0.55, labels=777, epochs=5, views=7, patience=4, soup=4)
    view = DistillationPanel(session(distillation=odd)).view
    for field in ("temperature", "weight", "labels", "unlabelled"):
        assert view[field]["value"] in view[field]["values"]
    for field in ("share", "epochs", "views", "patience", "soup"):
        assert view[field]["value"] in [option["value"] for option in view[field]["options"]]
    assert view["unlabelled"]["value"] == 10_000 - 777
    assert view["can_start"] and not view["can_remove"] and view["remark"] == "off"
    assert view["more"] == "2 changed"


def test_every_choice_of_the_engine_is_offered_in_words_of_its_own():
    assert LOSSES.keys() == losses.LOSSES.keys()
    assert FEATURES.keys() == {"", *losses.FEATURE_LOSSES}
    for words, field in ((FORMS, "form"), (AUGMENTATIONS, "augmentation"), (INITIALS, "initial")):
        assert words.keys() == set(get_args(Distillation.model_fields[field].annotation))
    for words in (LOSSES, FEATURES, FORMS, AUGMENTATIONS):
        assert len({each.label for each in words.values()}) == len({each.line for each in words.values()}) == len(words)
        assert all(each.line.endswith(".") for each in words.values())


def test_the_loss_says_what_it_does_and_whether_a_temperature_counts(session, send):
    s = session()
    part = DistillationPanel(s)
    assert part.view["loss"]["line"] == LOSSES[Distillation().loss].line
    assert part.view["features"]["value"] == ""
    assert not part.draw()["temperature"]["disabled"]
    send(part, {"do": "update", "loss": "mse", "features": "attention"})
    view = part.draw()
    assert (view["loss"]["value"], view["features"]["value"]) == ("mse", "attention")
    assert s.distillation.features == Features(loss="attention")
    assert view["features"]["line"] == FEATURES["attention"].line
    assert view["temperature"]["disabled"]
    send(part, {"do": "update", "features": ""})
    assert s.distillation.features is None


def test_a_loss_of_an_earlier_version_is_shown_by_its_name(session):
    view = DistillationPanel(session(distillation=Distillation(loss="decoupled"))).draw()["loss"]
    assert view["options"][-1]["text"] == view["value"] == "decoupled"


@pytest.mark.parametrize("form", FORMS)
def test_each_form_has_the_share_that_belongs_to_it(session, send, form):
    s = session()
    part = DistillationPanel(s)
    send(part, {"do": "update", "student": form})
    assert (s.distillation.form, s.distillation.student) == (form, None)
    share = part.draw()["share"]
    assert share["field"] == SHARE_OF.get(form, ("",))[0]
    if share["field"]:
        send(part, {"do": "update", share["field"]: 0.75})
        assert part.draw()["share"]["value"] == 0.75


def test_a_student_of_the_bench_s_own_has_no_share_and_a_form_takes_it_back(session, send):
    s = session()
    part = DistillationPanel(s)
    assert "tiny" in [option["value"] for option in part.view["student"]["options"]]
    send(part, {"do": "update", "student": "tiny"})
    assert s.distillation.student == "tiny"
    assert part.draw()["share"]["field"] == ""
    send(part, {"do": "update", "student": "depth"})
    assert (s.distillation.student, s.distillation.form) == (None, "depth")


def test_labelled_and_unlabelled_images_are_apart_and_never_more_than_there_are(session, send):
    s = session()
    part = DistillationPanel(s)
    send(part, {"do": "update", "labels": 2_000})
    assert (s.distillation.labels, s.distillation.images) == (2_000, 11_500)
    send(part, {"do": "update", "unlabelled": 500})
    assert (s.distillation.labels, s.distillation.images) == (2_000, 2_500)
    send(part, {"do": "update", "labels": 20_000})
    assert (s.distillation.labels, s.distillation.images) == (20_000, 20_000)
    assert part.draw()["unlabelled"]["value"] == 0


def test_what_is_refused_is_said_at_its_control_until_something_is_accepted(session, send):
    s = session()
    part = DistillationPanel(s)
    send(part, {"do": "update", "temperature": 0})
    assert part.view["refused"]["field"] == "temperature"
    assert "numbers above 0" in part.view["refused"]["text"]
    assert (s.distillation, s.problem) == (Distillation(), "")
    send(part, {"do": "update", "seeds": 4})
    assert part.view["refused"]["field"] == "seeds"
    send(part, {"do": "update", "temperature": 3})
    assert part.view["refused"] == {"field": "", "text": ""}
    send(part, {"do": "update", "images": 3})
    assert "'images'" in s.problem


def test_the_student_is_told_before_it_is_trained(session):
    s = session(sketch=Sketch(INFO))
    sketch = DistillationPanel(s).view["sketch"]
    assert sketch["text"].startswith("23,626 parameters · 94.5")
    assert sketch["share"] == "25\u202f% of the model’s; 747k MACs, 27\u202f% of its work"
    assert "larger than its teacher" in sketch["notes"][0]


def test_its_latency_is_told_as_predicted_with_its_range_and_place(session):
    latency = Estimate(value=9e-6, low=3e-6, high=2e-5, unit="s", source="predicted")
    s = session(sketch=Sketch(INFO, latency=latency, place="on Raspberry Pi 4"))
    told = DistillationPanel(s).view["sketch"]["latency"]
    assert told["origin"] == told["word"] == "predicted"
    assert told["text"] == "9.00\u202fµs (3.00 … 20.0) a call on Raspberry Pi 4"
    s.sketch = Sketch(INFO, place="here")
    assert DistillationPanel(s).draw()["sketch"]["latency"] is None


def test_proposed_pairs_of_layers_are_shown_and_can_be_changed(session, send):
    s = session(sketch=Sketch(INFO))
    part = DistillationPanel(s)
    assert part.view["pairs"]["hidden"] and part.view["features_weight"]["hidden"]
    send(part, {"do": "update", "features": "hints"})
    s.sketch = Sketch(INFO, pairs={"relu": "block1"})
    [row] = part.draw()["pairs"]["rows"]
    assert (row["student"]["value"], row["teacher"]["value"]) == ("relu", "block1")
    assert [option["text"] for option in row["teacher"]["options"]] == [
        "block1 · 48×26×26",
        "block2 · 96×13×13",
        "fc · 128",
    ]
    assert not part.draw()["pairs"]["own"]
    send(part, {"do": "pair", "instead": "relu", "student": "conv1", "teacher": "block2"})
    assert s.calls[-1] == ("pair_layers", {"conv1": "block2"})
    send(part, {"do": "pair", "instead": "", **part.draw()["pairs"]["next"]})
    assert s.calls[-1] == ("pair_layers", {"relu": "block1", "fc1": "fc"})
    send(part, {"do": "unpair", "student": "relu"})
    assert s.calls[-1] == ("pair_layers", {})
    send(part, {"do": "propose"})
    assert s.calls[-1] == ("pair_layers", {})


def test_pairs_and_weight_stay_when_something_else_changes(session, send):
    pairs = {"conv1": "block1", "gone": "block2"}
    s = session(distillation=Distillation(features=Features(weight=3.0, pairs=pairs)), sketch=Sketch(INFO))
    part = DistillationPanel(s)
    for message in ({"features": "attention"}, {"temperature": 4}, {"student": "separable"}):
        send(part, {"do": "update", **message})
    assert s.distillation.features == Features(loss="attention", weight=3.0, pairs=pairs)
    send(part, {"do": "update", "features_weight": 10})
    assert s.distillation.features == Features(loss="attention", weight=10.0, pairs=pairs)
    view = part.draw()
    assert view["features_weight"]["value"] == 10 and view["pairs"]["own"]
    first, gone = view["pairs"]["rows"]
    assert gone["student"]["options"][0]["text"] == "gone"  # of another form: shown, to be changed
    assert [option["value"] for option in first["student"]["options"] if option["disabled"]] == []
    assert [option["value"] for option in gone["student"]["options"] if option["disabled"]] == ["conv1"]
    send(part, {"do": "update", "features_weight": -1})
    assert part.view["refused"]["field"] == "features_weight"
    assert s.distillation.features.weight == 10


def test_a_layer_has_a_width_of_its_own(session, send):
    s = session(distillation=Distillation(layers={"fc1": 0.25, "conv*": 0.4}), sketch=Sketch(INFO))
    part = DistillationPanel(s)
    widths = part.view["widths"]
    assert [each["text"] for each in widths["layers"]] == ["conv1 · 16 of 32", "fc1 · 32 of 64", "conv*"]
    assert [each["share"] for each in widths["layers"]] == [None, 0.25, 0.4]
    assert (widths["line"], part.view["more"]) == ("conv* ×0.4, fc1 ¼", "1 changed")
    assert {option["value"] for option in widths["shares"]} >= {None, 0.4, 0.5}
    send(part, {"do": "widen", "layer": "conv1", "share": 0.75})
    assert s.calls[-1] == ("choose_width", "conv1", 0.75)
    send(part, {"do": "update", "student": "depth"})
    assert part.draw()["widths"]["hidden"]


def test_a_student_that_cannot_be_made_is_not_trained(session):
    s = session(sketch=Sketch(None, "No block can be left out."))
    view = DistillationPanel(s).view
    assert (view["sketch"]["wrong"], view["can_start"]) == ("No block can be left out.", False)


def test_other_teachers_join_and_leave_and_none_teaches_twice(session, send):
    s = session()
    part = DistillationPanel(s)
    assert [each["value"] for each in part.view["others"]] == ["self"]
    send(part, {"do": "teach", "name": "self"})
    assert s.distillation.others == ("self",)
    send(part, {"do": "update", "teacher": "self"})
    assert (s.distillation.teacher, s.distillation.others) == ("self", ())
    send(part, {"do": "teach", "name": "teacher-cnn"})
    send(part, {"do": "teach", "name": "teacher-cnn"})
    assert s.distillation.others == ()


def test_the_buttons(session, send):
    s = session(recipe=Recipe(distillation=Distillation()))
    part = DistillationPanel(s)
    assert part.view["can_remove"] and part.view["remark"] == "student ×0.5"
    for action in ("distil", "pause", "resume", "stop", "remove"):
        send(part, {"do": action})
    calls = ["distil", "pause_training", "resume_training", "stop_training", "without_distillation"]
    assert s.calls == [(call,) for call in calls]


def test_a_training_is_told_and_the_next_one_can_be_prepared(session):
    s = session(recipe=Recipe(distillation=Distillation()), training=True, lesson="finetuning")
    part = DistillationPanel(s)
    assert (part.view["training"], part.view["can_start"], part.view["note"]) == (False, False, "after the fine-tuning")
    s.lesson = "distillation"
    view = part.draw()
    assert view["training"] and not view["can_remove"] and not view["temperature"]["disabled"]
    assert view["note"] == "The teacher looks at the images first…"
    s.lap = Lap(2, 3, 1)
    s.curve = (
        SimpleNamespace(step=40, steps=80, seconds=4.0, seconds_left=4.0, samples_per_second=900.0, cancelled=False),
    )
    assert part.draw()["note"] == "seed 2 of 3 · step 40 of 80 · 900 images a second · 12\u202fs left"
    s.paused = True
    view = part.draw()
    assert (view["remark"], view["note"]) == ("paused", "seed 2 of 3 · step 40 of 80 · paused")


def test_augmented_versions_are_asked_for_only_where_there_are_any(session, send):
    s = session()
    part = DistillationPanel(s)
    assert part.view["views"]["hidden"]
    send(part, {"do": "update", "augmentation": "crop"})
    send(part, {"do": "update", "patience": 5})
    view = part.draw()
    assert (view["views"]["hidden"], view["more"], s.distillation.patience) == (False, "2 changed", 5)
    send(part, {"do": "update", "patience": 0})
    assert s.distillation.patience is None


def test_the_browser_changes_only_what_the_panel_shows(session, send):
    s = session()
    part = DistillationPanel(s)
    for message in ({"do": "update", "layers": {}}, {"do": "update"}, {"do": "teach", "name": 3}):
        s.problem = ""
        send(part, message)
        assert s.problem
    assert s.distillation == Distillation()
    shown = set(FIELDS) - {"unlabelled", "seeds", "features_weight"}
    assert shown <= set(Distillation.model_fields)
