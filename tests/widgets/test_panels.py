from __future__ import annotations

from typing import get_args

import pytest

from widgets.deployment_panel import DeploymentPanel, deployment_view
from widgets.methods import WORDS
from widgets.quantization_panel import FIELDS, QuantizationPanel, quantization_view
from workbench.choosing import Choice
from workbench.errors import WorkbenchError
from workbench.recipe import Deployment, Quantization, Recipe


def test_bits_go_from_the_fewest_to_floating_point():
    view = quantization_view(Quantization(weight_bits=4), 512, "images")
    assert view["weight_bits"]["values"] == [1, *range(2, 9), None]
    assert view["activation_bits"]["values"] == [2, 3, 4, 5, 6, 7, 8, None]
    assert view["weight_bits"]["value"] == 4 and view["activation_bits"]["value"] is None
    assert view["weight_bits"]["texts"][-1] == "fp32" and view["weight_bits"]["spoken"][0] == "1 bit"
    assert view["weight_bits"]["spoken"][3] == "4 bits"
    assert view["why"] == ["Calibrated on 512 other images."]


@pytest.mark.parametrize("field", ["method", "correction", "scheme", "granularity", "range"])
def test_every_choice_of_the_recipe_is_on_offer_and_explained(field):
    known = list(get_args(Quantization.model_fields[field].annotation))
    assert set(WORDS[field]) == set(known)
    for value in known:
        view = quantization_view(Quantization(**{field: value}), None)[field]
        assert [option["value"] for option in view["options"]] == known
        assert view["value"] == value
        assert view["line"] == WORDS[field][value].line


def test_every_field_of_a_quantization_has_its_control():
    shown = quantization_view(Quantization(), None)
    assert set(Quantization.model_fields) - {"layers"} <= set(shown)
    assert set(FIELDS) == set(Quantization.model_fields) - {"layers"}


def test_the_naive_quantizer_greys_what_it_ignores_and_says_why():
    view = quantization_view(Quantization(method="naive"), 512)
    usable = [field for field in FIELDS[2:] if not view[field]["disabled"]]
    assert usable == ["method"]
    assert "Neither a scale nor a sign" in view["method"]["line"]
    assert view["why"] == []


def test_what_the_bench_refuses_is_greyed_with_its_reason(session):
    s = session(recipe=Recipe(quantization=Quantization(weight_bits=4)))

    def check(recipe):
        if recipe.quantization.informed:
            raise WorkbenchError("A graph shows nothing of what its layers are given.")

    s.bench.check = check
    view = QuantizationPanel(s).view
    greyed = {
        field: [o["value"] for o in view[field]["options"] if o["disabled"]]
        for field in ("method", "correction", "range")
    }
    assert greyed == {
        "method": ["gptq", "quantease", "adaround", "brecq"],
        "correction": ["bias", "batchnorm"],
        "range": ["hessian", "auto"],
    }
    assert view["method"]["options"][-1]["title"].startswith("A graph shows nothing")
    assert view["why"] == [
        "Calibrated on 512 other images.",
        "A graph shows nothing of what its layers are given.",
    ]


def test_a_group_size_is_asked_for_only_where_there_are_groups(session, send):
    s = session()
    part = QuantizationPanel(s)
    assert part.draw()["group_size"]["hidden"]
    assert part.draw()["more"] == ""
    send(part, {"do": "update", "granularity": "group", "group_size": 48})
    view = part.draw()
    assert not view["group_size"]["hidden"]
    assert view["group_size"]["value"] == 48
    assert 48 in view["group_size"]["values"]
    assert view["more"] == "2 changed"


@pytest.mark.parametrize(
    "message",
    [
        {"method": "magic"},
        {"correction": None},
        {"equalize": "yes please"},
        {"group_size": 0},
        {"layers": {}},
        {"runtime": "eager"},
        {},
    ],
)
def test_what_is_not_on_offer_changes_nothing(session, send, message):
    s = session()
    before = s.recipe
    send(QuantizationPanel(s), {"do": "update", **message})
    assert s.recipe == before
    assert s.problem


def test_the_method_is_chosen_by_the_session(session, send):
    s = session(recipe=Recipe(quantization=Quantization(weight_bits=4)))
    part = QuantizationPanel(s)
    view = part.draw()["choose"]
    assert [(b["value"], b["text"]) for b in view["budgets"]] == [
        (2, "2\u202fs"),
        (20, "20\u202fs"),
        (120, "2\u202fmin"),
    ]
    assert [b["spoken"] for b in view["budgets"]] == ["2 seconds", "20 seconds", "2 minutes"]
    assert not view["disabled"]
    send(part, {"do": "choose", "seconds": 20})
    send(part, {"do": "stop"})  # nothing is being chosen, and what is measured goes on
    assert s.calls == [("choose_method", 20)]
    best = s.recipe.replace(quantization=s.recipe.quantization.replace(method="gptq", correction="bias"))
    s.choosing, s.choice = True, Choice(best, 0.1, 3, 10)
    view = part.draw()["choose"]
    assert view["choosing"]
    assert view["text"] == "3 of 10 tried; best so far: GPTQ, biases"
    send(part, {"do": "stop"})
    assert s.calls[-1] == ("cancel",)


def test_there_is_no_method_to_choose_for_fp32(session):
    view = QuantizationPanel(session()).view["choose"]
    assert view["disabled"]
    assert view["text"] == "Set bits first."


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
    assert view["threads"]["values"] == [1, 2, 4, 12]
    assert [(o["value"], o["disabled"]) for o in view["runtime"]["options"]] == [("tensorrt", True)]


def test_threads_beyond_the_processors_can_be_had_and_are_warned_of():
    few, many = (deployment_view(Deployment(threads=n), (), (), 1)["warning"] for n in (1, 500))
    assert few == "" and "500 threads share" in many


def test_what_would_be_refused_beside_the_rest_is_greyed_with_its_reason(session):
    s = session()

    def check(recipe):
        if recipe.deployment.precision == "bf16":
            raise WorkbenchError("deployment.precision: onnxruntime has no kernels for bf16; choose fp32.")
        if recipe.deployment.runtime == "eager":
            raise WorkbenchError("deployment.runtime: eager runs torch modules, and this model is an ONNX graph.")

    s.bench.check = check
    view = DeploymentPanel(s).view
    assert [(o["value"], o["disabled"]) for o in view["precision"]["options"]] == [("fp32", False), ("bf16", True)]
    assert [o["value"] for o in view["runtime"]["options"] if o["disabled"]] == ["eager", "openvino"]
    assert view["runtime"]["options"][0]["title"].startswith("eager runs torch modules")
    assert "onnxruntime has no kernels for bf16; choose fp32." in view["reasons"]


def test_what_really_runs_is_said_once_it_is_known(session, report):
    told = "eager: the rounded weights run in fp32."
    s = session(report=report(running=told, notes=("Calibrated on noise.",)))
    assert DeploymentPanel(s).view["notes"] == []  # of an earlier recipe
    s.recipe = s.report.recipe
    assert DeploymentPanel(s).view["notes"] == [told]


def test_why_nothing_runs_is_said_though_nothing_was_timed(session, report):
    told = "onnxruntime crashed on this model (SIGABRT). Choose another runtime."
    s = session(report=report(untimed=told, latency=None, speedup=None))
    s.recipe = s.report.recipe
    assert DeploymentPanel(s).view["notes"] == [told]


def test_every_runtime_says_what_it_does():
    from widgets.deployment_panel import LINES
    from workbench import runtimes

    assert {runtime.name for runtime in runtimes.RUNTIMES} <= set(LINES)


def test_deployment_is_updated(session, send):
    s = session()
    send(DeploymentPanel(s), {"do": "update", "batch": 32})
    assert s.recipe.deployment.batch == 32
