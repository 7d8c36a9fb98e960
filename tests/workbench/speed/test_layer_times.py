"""Kernels and overhead add up to the latency, whatever the profiler added; and which layer a kernel is."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import Bench, Cancelled, Deployment, Quantization, Recipe, WorkbenchError
from workbench.report import Estimate
from workbench.speed import layer_times
from workbench.speed.layer_times import LayerTimes, settled
from workbench.speed.onnx_profile import CUT, _calls

W8 = Recipe(quantization=Quantization(weight_bits=8, activation_bits=8))
LAYERS = ["conv1", "conv2", "conv3", "fc1", "fc2"]


def seconds(value: float) -> Estimate:
    return Estimate(value=value, low=value * 0.9, high=value * 1.1, unit="s", source="measured")


times = st.floats(1e-7, 1.0).map(seconds)


@given(st.lists(times, min_size=1, max_size=20), times)
def test_kernels_and_overhead_add_up_to_the_latency(kernels: list[Estimate], latency: Estimate) -> None:
    made, overhead, note = settled(kernels, latency)
    assert sum(each.value for each in made) + overhead.value == pytest.approx(latency.value)
    assert overhead.low <= overhead.value <= overhead.high
    for before, after in zip(kernels, made, strict=True):
        assert 0 < after.value <= before.value * (1 + 1e-9)
        assert after.low <= after.value <= after.high
    assert bool(note) == (sum(each.value for each in kernels) > latency.value)


def test_a_profiler_that_adds_the_same_to_each_is_taken_off() -> None:
    true = [10e-6, 30e-6, 50e-6]
    made, overhead, _ = settled([seconds(each + 2e-6) for each in true], seconds(sum(true)))
    assert [each.value for each in made] == pytest.approx(true)
    assert overhead.value == pytest.approx(0, abs=1e-12)


def test_kernels_that_are_shorter_than_the_call_are_left_as_they_are() -> None:
    made, overhead, note = settled([seconds(2e-6), seconds(3e-6)], seconds(9e-6))
    assert [each.value for each in made] == [2e-6, 3e-6]
    assert overhead.value == pytest.approx(4e-6)
    assert not note


def test_a_trace_is_cut_into_calls() -> None:
    def event(name: str, category: str, start: int, length: int, operator: str = "") -> dict[str, object]:
        return {"name": name, "cat": category, "ts": start, "dur": length, "args": {"op_name": operator}}

    found = _calls(
        [
            event("model_run", "Session", 0, 30),
            event("model_loading", "Session", -50, 10),
            event("b_kernel_time", "Node", 12, 7, "Relu"),
            event("a_kernel_time", "Node", 2, 5, "Conv"),
            event("b_kernel_time", "Node", 20, 3, "Relu"),  # in a loop
            event("a_fence_before", "Node", 1, 0),
            event("model_run", "Session", 40, 30),
            event("a_kernel_time", "Node", 42, 6, "Conv"),
        ]
    )
    assert [list(call) for call in found] == [["a", "b"], ["a"]]
    assert found[0]["b"] == ("Relu", pytest.approx(10e-6 + 2 * CUT))
    assert found[1]["a"] == ("Conv", pytest.approx(6e-6 + CUT))


@pytest.mark.parametrize("recipe", [Recipe(), W8], ids=["fp32", "int8"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "eager"])
def test_every_layer_of_the_network_has_its_kernel(bench: Bench, runtime: str, recipe: Recipe) -> None:
    if dict(bench.runtimes()).get(runtime, "absent") is not None:
        pytest.skip(f"{runtime} is not here")
    found = bench.layer_times(recipe.replace(deployment=Deployment(runtime=runtime)))
    products = [row for row in found.rows if "Quantize" not in row.kind and "Reorder" not in row.kernel]
    assert list(dict.fromkeys(row.name for row in products if row.layers)) == LAYERS
    assert list(found.by_layer) == LAYERS
    added = sum(row.seconds.value for row in found.rows) + found.overhead.value
    assert added == pytest.approx(found.latency.value)
    assert sum(row.share for row in found.rows) <= 1 + 1e-9
    bits = {(row.weight_bits, row.activation_bits) for row in found.rows if row.layers}
    assert bits == ({(8, 8)} if recipe is W8 else {(None, None)})


def test_fused_operators_are_named_with_the_layer_and_the_others_by_their_module(bench: Bench) -> None:
    found = bench.layer_times(W8)
    rows = {row.kernel + row.name: row for row in found.rows}
    assert rows["QLinearConvconv2"].kind == "Conv + Relu"
    assert rows["QGemmfc1"].kind == "Gemm + Relu"
    assert rows["QGemmfc2"].kind == "Gemm"
    assert rows["QuantizeLinearconv1"].layers == ("conv1",)  # puts its input on the grid
    assert any(row.name == "pool1" and not row.layers for row in found.rows)


def test_layers_in_floats_beside_integer_kernels_are_found(bench: Bench) -> None:
    quantization = Quantization(weight_bits=8, activation_bits=8, layers={"fc1": {"activation_bits": None}})
    found = bench.layer_times(Recipe(quantization=quantization))
    assert list(found.by_layer) == LAYERS
    kernels = {row.name: row.kernel for row in found.rows if "Quantize" not in row.kind}
    assert (kernels["conv2"], kernels["fc1"], kernels["fc2"]) == ("QLinearConv", "Gemm", "QGemm")


def test_it_is_readable_as_text_and_as_a_page(bench: Bench) -> None:
    found = bench.layer_times(W8)
    for text in (str(found), found._repr_html_()):
        assert "runtime overhead" in text
        assert "8/8" in text
    assert LayerTimes.model_validate_json(found.model_dump_json()) == found


def test_a_runtime_without_a_profiler_says_which_have_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.speed.layer_times.PROFILERS", {"openvino": None})
    with pytest.raises(WorkbenchError, match=r"onnxruntime has no profiler.*openvino"):
        bench.layer_times(W8)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "eager"])
def test_cancel_while_it_is_profiled(bench: Bench, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if dict(bench.runtimes()).get(runtime, "absent") is not None:
        pytest.skip(f"{runtime} is not here")
    cancel = threading.Event()
    timed = layer_times.interleaved

    def then_cancel(*arguments: Any) -> Any:
        found = timed(*arguments)
        cancel.set()
        return found

    monkeypatch.setattr(layer_times, "interleaved", then_cancel)
    with pytest.raises(Cancelled):
        bench.layer_times(W8.replace(deployment=Deployment(runtime=runtime)), cancel)
