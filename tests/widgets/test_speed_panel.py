"""The pictures of the five looks at a recipe's speed, and what a person can ask of them."""

from __future__ import annotations

import json

import pytest

from widgets.clocking import LOOKS, Finding
from widgets.heat_map import sweep_view
from widgets.looks import TITLES, section_view
from widgets.speed_panel import SHOWN, SpeedPanel
from widgets.speed_rows import agreement_view, layers_view, timing_view
from widgets.waterfall import STEPS, factor_of, waterfall_view
from workbench.exporting.agreement import Agreement
from workbench.recipe import Deployment, Quantization, Recipe
from workbench.report import Estimate, MetricInfo
from workbench.speed import Cell, LayerTime, LayerTimes, Step, Sweep, TimingDetails, Waterfall, Winner

W4 = Recipe(quantization=Quantization(weight_bits=4, activation_bits=8), deployment=Deployment(threads=2))


def estimate(low, value, high, unit="s"):
    return Estimate(low=low, value=value, high=high, unit=unit, source="measured")


def exact(value):
    return Estimate.exact(value, "s")


SOFTWARE = "software optimisation"
ONE = Estimate.exact(1.0, "×")
WATERFALL = Waterfall(
    recipe=W4,
    steps=(
        Step(name="eager", lever=SOFTWARE, seconds=estimate(3e-4, 3.1e-4, 3.2e-4), factor=ONE, total=ONE),
        Step(
            name="channels-last", lever=SOFTWARE, seconds=estimate(3e-4, 3.1e-4, 3.2e-4),
            factor=estimate(0.98, 1.0, 1.02, "×"), total=estimate(0.98, 1.0, 1.02, "×"),
            note="Not distinguishable from the step before.",
        ),
        Step(name="inductor", lever=SOFTWARE, reason="inductor: not here."),
        Step(
            name="onnxruntime fp32", lever=SOFTWARE, seconds=estimate(4e-5, 5e-5, 6e-5),
            factor=estimate(6.0, 6.2, 6.4, "×"), total=estimate(5.9, 6.2, 6.5, "×"),
        ),
        Step(
            name="W4 A8", lever="low precision", seconds=estimate(5e-5, 6e-5, 7e-5),
            factor=estimate(0.8, 0.83, 0.9, "×"), total=estimate(4.9, 5.2, 5.5, "×"), note="Slower here.",
        ),
    ),
    disturbances=("Other work took 1.0 of 2 processors meanwhile.",),
)  # fmt: skip


def cell(runtime, batch, threads, seconds):
    rate = batch / seconds
    return Cell(
        runtime=runtime, batch=batch, threads=threads, latency=estimate(0.9 * seconds, seconds, 1.1 * seconds),
        throughput=estimate(rate / 1.1, rate, rate / 0.9, "1/s"),
    )  # fmt: skip


SWEEP = Sweep(
    recipe=W4,
    cells=(
        cell("onnxruntime", 1, 1, 4e-5),
        cell("openvino", 1, 1, 5e-5),
        Cell(runtime="inductor", batch=1, threads=1, reason="inductor: not installed; pip install it."),
        cell("onnxruntime", 8, 1, 2.1e-4),
        cell("openvino", 8, 1, 2.0e-4),
        Cell(runtime="inductor", batch=8, threads=1, reason="inductor: not installed; pip install it."),
    ),
    winners=(
        Winner(batch=1, threads=1, runtime="onnxruntime", second="openvino", ratio=estimate(1.2, 1.25, 1.3, "×")),
        Winner(batch=8, threads=1, runtime="openvino", second="onnxruntime", ratio=estimate(0.98, 1.05, 1.1, "×")),
    ),
    total=18,
    stage="batch 32, threads 1",
)
LAYERS = LayerTimes(
    recipe=W4,
    latency=estimate(4.9e-5, 5e-5, 5.2e-5),
    rows=(
        LayerTime(
            name="conv1", layers=("conv1",), kind="Conv + Relu", kernel="QLinearConv",
            seconds=estimate(2.3e-5, 2.4e-5, 2.5e-5), share=0.48, weight_bits=4, activation_bits=8,
        ),
        LayerTime(name="pool1", layers=(), kind="MaxPool", kernel="Pool", seconds=exact(3e-6), share=0.06),
        LayerTime(name="fc", layers=("fc",), kind="Gemm", kernel="Gemm", seconds=exact(1e-6), share=0.02),
    ),
    overhead=estimate(2e-5, 2.2e-5, 2.4e-5),
    notes=("The profiler made a call 1.7 times longer.",),
)  # fmt: skip
TIMING = TimingDetails(
    recipe=W4,
    latency=estimate(4.9e-5, 5e-5, 5.2e-5),
    throughput=estimate(19_000, 20_000, 21_000, "1/s"),
    noise=estimate(0.98, 1.0, 1.03, "×"),
    p50=estimate(4.9e-5, 5e-5, 5.1e-5),
    p95=estimate(6e-5, 7e-5, 8e-5),
    calls=4645,
    load=estimate(0.02, 0.024, 0.03),
    peak_memory=Estimate(value=1.3e6, low=1.3e6, high=1.3e6, unit="B", source="predicted"),
)
AGREEMENT = Agreement(
    recipe=W4,
    runtime="onnxruntime",
    metric=MetricInfo(name="agreement", counted=True),
    rate=estimate(0.9990, 0.9993, 0.9996, ""),
    examples=10_000,
    total=10_000,
    disagreements=7,
    differing=(12, 99, 1204),
    largest=0.1,
    span=10.0,
    layer="fc1",
    distance=0.01,
    reason="It adds up in another order.",
    done=True,
)
RESULTS = {"waterfall": WATERFALL, "sweep": SWEEP, "layers": LAYERS, "timing": TIMING, "agreement": AGREEMENT}


def test_every_look_has_a_title_and_a_result_that_the_browser_can_read():
    assert set(TITLES) == set(LOOKS)
    assert set(SHOWN) == set(RESULTS)
    for kind, result in RESULTS.items():
        view = section_view(kind, Finding(W4, result, done=True), W4, ())
        assert view["state"] == "final" and view["body"] and view["working"] == "" and view["reason"] == ""
        json.dumps(view, allow_nan=False)
        assert view["remark"].startswith("W4 A8 · onnxruntime · batch 1 · 2 threads")


def test_before_it_is_asked_there_is_a_button_and_no_number():
    view = section_view("waterfall", None, W4, ())
    assert (view["state"], view["ask"], view["body"]) == ("empty", "Take apart", None)


def test_while_it_waits_its_place_is_kept():
    waiting = section_view("sweep", None, W4, ("waterfall", "sweep"))
    assert waiting["working"] == "Waits…" and waiting["body"]["rows"]
    first = section_view("waterfall", None, W4, ("waterfall",), clocking=False)
    assert "until the machine is quiet" in first["working"]
    assert [row["kind"] for row in first["body"]["rows"]] == ["coming"] * STEPS


def test_what_is_of_another_recipe_is_greyed_and_can_be_had_anew():
    view = section_view("timing", Finding(W4, TIMING, done=True), Recipe(), ())
    assert (view["state"], view["ask"], view["go"]) == ("stale", "Time in detail", True)
    again = section_view("timing", Finding(W4, TIMING, done=True), W4, ())
    assert (again["ask"], again["go"]) == ("Again", False)


def test_growing_stopped_failed_and_disturbed_are_told_apart():
    growing = section_view("sweep", Finding(W4, SWEEP, done=False), W4, ("sweep",))
    assert (growing["state"], growing["working"]) == ("growing", "batch 32, threads 1…")
    assert growing["share"] == round(6 / 18, 3)
    stopped = section_view("sweep", Finding(W4, SWEEP, done=False), W4, ())
    assert stopped["remark"].endswith("· stopped") and stopped["working"] == ""
    failed = section_view("layers", Finding(W4, None, done=True, reason="inductor has no profiler."), W4, ())
    assert failed["reason"] == "inductor has no profiler." and failed["state"] == "empty"
    assert section_view("layers", Finding(W4, None, done=True, reason="x"), Recipe(), ())["reason"] == ""
    doubtful = section_view("waterfall", Finding(W4, WATERFALL, done=True), W4, ())
    assert "disturbed" in doubtful["remark"] and doubtful["warnings"] == list(WATERFALL.disturbances)


def test_each_step_begins_where_the_one_before_ended():
    view = waterfall_view(WATERFALL)
    assert [row["kind"] for row in view["rows"]] == ["first", "same", "skipped", "faster", "slower", "coming"]
    eager, same, skipped, graph, low = view["rows"][:5]
    assert eager["from"] == eager["to"] == view["one"]
    assert same["from"] <= view["one"] <= same["to"] + 1e-9
    assert graph["from"] == pytest.approx(view["one"], abs=0.01) and graph["to"] > graph["from"]
    assert low["to"] == graph["to"] and low["from"] < low["to"]  # slower: back to the left
    assert (skipped["note"], skipped["time"]) == ("inductor: not here.", "")
    assert (
        graph["factor"] == "6.2× (6.0 … 6.4×)" and "6.2× (6.0 … 6.4×) the speed of the step before" in graph["spoken"]
    )


def test_levers_are_told_apart_and_together():
    view = waterfall_view(WATERFALL)
    assert [each["name"] for each in view["levers"]] == ["software optimisation", "low precision"]
    assert view["total"] == factor_of(WATERFALL.total)
    assert waterfall_view(Waterfall(recipe=W4, stage="eager"))["total"] == ""


def test_a_cell_names_who_wins_and_is_hatched_where_that_cannot_be_told():
    view = sweep_view(SWEEP, (1, 2))
    assert [row["threads"] for row in view["rows"]] == [1, 2]
    first, second, third = view["rows"][0]["cells"]
    assert (first["text"], first["sure"], first["detail"]) == ("onnxruntime", True, "40.0\u202fµs")
    assert (second["text"], second["sure"]) == ("openvino or onnxruntime", False)
    assert "not distinguishable" in second["verdict"] and "takes 1.25× (1.20 … 1.30×) as long" in first["verdict"]
    assert third["state"] == "coming" and {each["state"] for each in view["rows"][1]["cells"]} == {"coming"}
    assert [bar["name"] for bar in first["bars"]] == ["onnxruntime", "openvino", "inductor"]
    assert first["bars"][0]["share"] == 1.0 and first["bars"][1]["share"] == pytest.approx(0.8)
    assert first["bars"][2]["text"] == "does not run"
    assert view["failed"] == ["inductor: not installed; pip install it."]
    assert [each["name"] for each in view["runtimes"]] == ["onnxruntime", "openvino"]


def test_where_nothing_runs_the_cell_says_so():
    alone = Sweep(recipe=W4, cells=(Cell(runtime="openvino", batch=1, threads=1, reason="No."),), total=6)
    assert sweep_view(alone, (1,))["rows"][0]["cells"][0]["text"] == "none runs"
    solo = Winner(batch=1, threads=1, runtime="eager")
    view = sweep_view(Sweep(recipe=W4, cells=(cell("eager", 1, 1, 1e-3),), winners=(solo,), total=6), (1,))
    assert view["rows"][0]["cells"][0]["verdict"] == "eager, as no other runs"


def test_kernels_and_what_lies_between_them_have_a_row_each():
    view = layers_view(LAYERS)
    assert [row["name"] for row in view["rows"]] == ["conv1", "pool1", "fc", "between kernels"]
    assert [row["bits"] for row in view["rows"]] == ["W4 A8", "", "fp32", ""]
    assert view["rows"][0] | {"time": "24.0\u202fµs", "share": "48\u202f%", "at": 1.0} == view["rows"][0]
    assert view["rows"][-1]["share"] == "44\u202f%"
    assert view["text"] == "50.0\u202fµs (49.0 … 52.0\u202fµs) a call, of which"


def test_what_this_machine_cannot_tell_is_not_shown():
    names = [row["name"] for row in timing_view(TIMING)["rows"]]
    assert names == ["Latency", "Throughput", "Noise", "Single calls", "Load", "Memory"]
    rows = {row["name"]: row for row in timing_view(TIMING)["rows"]}
    assert rows["Single calls"]["value"] == "p50 50.0\u202fµs · p95 70.0\u202fµs"
    assert rows["Memory"]["what"].endswith("predicted") and "no difference" in rows["Noise"]["what"]
    more = TIMING.model_copy(
        update={"energy": estimate(1e-4, 2e-4, 3e-4, "J"), "noise": estimate(1.02, 1.05, 1.08, "×")}
    )
    rows = {row["name"]: row for row in timing_view(more)["rows"]}
    assert rows["Energy"]["value"] == "200\u202fµJ" and "not quiet" in rows["Noise"]["what"]


def test_disagreement_names_examples_and_the_layer_where_it_starts():
    rows = {row["name"]: row for row in agreement_view(AGREEMENT)["rows"]}
    assert rows["Agreement"]["value"] == "99.93\u202f% (99.90 … 99.96)"
    assert rows["Differing"]["value"] == "7" and "12, 99, 1,204" in rows["Differing"]["what"]
    assert rows["Starts at"]["value"] == "fc1" and "1\u202f% of the largest output" in rows["Starts at"]["what"]
    alike = AGREEMENT.model_copy(update={"disagreements": 0, "differing": (), "layer": None})
    rows = {row["name"]: row for row in agreement_view(alike)["rows"]}
    assert rows["Differing"]["value"] == "none" and "Starts at" not in rows


def test_what_a_person_asks_reaches_the_session(session, send):
    s = session(recipe=W4, findings={"sweep": Finding(W4, SWEEP, done=True)})
    part = SpeedPanel(s)
    send(part, {"do": "look", "kind": "waterfall"})
    send(part, {"do": "stop", "kind": "waterfall"})
    assert s.calls == [("look", "waterfall"), ("stop_looking", "waterfall")]
    send(part, {"do": "use", "runtime": "openvino", "batch": 8, "threads": 1})
    deployment = s.recipe.deployment
    assert (deployment.runtime, deployment.batch, deployment.threads) == ("openvino", 8, 1) and s.problem == ""


@pytest.mark.parametrize("message", [{"runtime": "inductor", "batch": 1, "threads": 1}, {"runtime": "eager"}, {}])
def test_what_was_not_swept_cannot_be_used(session, send, message):
    s = session(recipe=W4, findings={"sweep": Finding(W4, SWEEP, done=True)})
    send(SpeedPanel(s), {"do": "use", **message})
    assert s.recipe == W4 and "was not swept" in s.problem


def test_the_panel_is_drawn_anew_as_findings_come(session):
    s = session(recipe=W4)
    part = SpeedPanel(s)
    assert [section["state"] for section in part.draw()["sections"]] == ["empty"] * len(SHOWN)
    s.looking, s.clocking = ("timing",), True
    s.findings = {"timing": Finding(W4, TIMING, done=False)}
    states = {section["kind"]: section["state"] for section in part.draw()["sections"]}
    assert states["timing"] == "growing"
