from __future__ import annotations

from typing import get_args

import pytest

from widgets.deployment_panel import DeploymentPanel, deployment_view
from widgets.distillation_panel import DistillationPanel, distillation_view, label_steps
from widgets.quantization_panel import QuantizationPanel, quantization_view
from workbench.recipe import Deployment, Distillation, Quantization, Recipe


def test_bits_go_from_two_to_floating_point():
    view = quantization_view(Quantization(weight_bits=4), 512, "images")
    assert view["weight_bits"]["values"] == [2, 3, 4, 5, 6, 7, 8, None]
    assert view["weight_bits"]["value"] == 4 and view["activation_bits"]["value"] is None
    assert view["weight_bits"]["texts"][-1] == "fp32" and view["weight_bits"]["spoken"][2] == "4 bits"
    assert view["why"] == "Calibrated on 512 other images."


@pytest.mark.parametrize("field", ["method", "scheme", "granularity", "range"])
def test_every_choice_of_the_recipe_is_on_offer(field):
    options = quantization_view(Quantization(), None)[field]["options"]
    assert [option["value"] for option in options] == list(get_args(Quantization.model_fields[field].annotation))


def test_the_naive_quantizer_greys_what_it_ignores_and_says_why():
    view = quantization_view(Quantization(method="naive"), 512)
    assert [view[field]["disabled"] for field in ("method", "scheme", "granularity", "range")] == [
        False,
        True,
        True,
        True,
    ]
    assert "naive" in view["why"]


@pytest.mark.parametrize(("count", "text"), [(0, "all layers"), (1, "1 layer set apart"), (2, "2 layers set apart")])
def test_layers_set_apart_are_counted(count, text):
    layers = {f"layer{k}": {"weight_bits": 8} for k in range(count)}
    assert quantization_view(Quantization(layers=layers), None)["remark"] == text


@pytest.mark.parametrize("bits", [*range(2, 9), None])
def test_the_slider_sets_bits(session, send, bits):
    s = session(recipe=Recipe(quantization=Quantization(weight_bits=5)))
    part = QuantizationPanel(s)
    send(part, {"do": "update", "weight_bits": bits})
    assert s.recipe.quantization.weight_bits == bits and s.problem == ""
    assert part.draw()["weight_bits"]["value"] == bits


def test_what_this_machine_lacks_is_greyed_with_its_reason(session):
    view = DeploymentPanel(session()).view
    assert [(o["value"], o["disabled"]) for o in view["runtime"]["options"]] == [
        ("eager", False),
        ("onnxruntime", False),
        ("openvino", True),
    ]
    assert view["reasons"] == ["openvino: not installed; pip install openvino.", "cuda: not on this machine."]


def test_values_off_the_usual_steps_are_shown_all_the_same():
    view = deployment_view(Deployment(batch=48, threads=12, runtime="tensorrt"), (), (), 2)
    assert view["batch"]["value"] in view["batch"]["values"] and view["batch"]["values"] == sorted(
        view["batch"]["values"]
    )
    assert view["threads"]["values"] == [1, 2, 12]
    assert view["runtime"]["options"] == [{"value": "tensorrt", "text": "tensorrt", "disabled": True}]


def test_deployment_is_updated(session, send):
    s = session()
    send(DeploymentPanel(s), {"do": "update", "batch": 32})
    assert s.recipe.deployment.batch == 32


def test_label_steps_are_round_and_end_on_all_images():
    assert label_steps(10_000) == [0, 100, 200, 500, 1_000, 2_000, 5_000, 10_000]
    assert label_steps(700) == [0, 100, 200, 500, 700]
    assert label_steps(0) == [0, 0] or label_steps(0) == [0]


def test_without_training_data_the_panel_is_greyed_and_says_why():
    view = distillation_view(Distillation(), (), training_images=0)
    assert not view["can_start"] and "training images, and this task has none" in view["reasons"][0]
    assert all(view[field]["disabled"] for field in ("width", "teacher", "temperature", "weight", "labels", "epochs"))


def test_distillation_shows_settings_off_the_steps(session):
    s = session(distillation=Distillation(width=0.6, temperature=2.5, weight=0.55, labels=777, epochs=5))
    view = DistillationPanel(s).view
    for field in ("temperature", "weight", "labels"):
        assert view[field]["value"] in view[field]["values"]
    for field in ("width", "epochs"):
        assert view[field]["value"] in [option["value"] for option in view[field]["options"]]
    assert view["can_start"] and not view["can_remove"] and view["remark"] == "off"


def test_the_buttons_of_distillation(session, send):
    s = session(recipe=Recipe(distillation=Distillation()))
    part = DistillationPanel(s)
    assert part.view["can_remove"] and part.view["remark"] == "half width student"
    for action in ("distil", "stop", "remove"):
        send(part, {"do": action})
    assert s.calls == [("distil",), ("stop_distilling",), ("without_distillation",)]
    send(part, {"do": "update", "temperature": 4, "labels": 100})
    assert (s.distillation.temperature, s.distillation.labels) == (4, 100)
    s.training = True
    view = part.draw()
    assert view["training"] and not view["can_remove"] and view["temperature"]["disabled"]
