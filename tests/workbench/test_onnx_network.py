from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

import workbench as wb
from workbench.delivery import artifact
from workbench.errors import WorkbenchError
from workbench.loading.onnx_session import OnnxModule

INPUTS = torch.randn(60, 3, 10, 10, generator=torch.Generator().manual_seed(0))
W8A8 = wb.Quantization(weight_bits=8, activation_bits=8)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 64, 3)
        self.deep = nn.Conv2d(64, 64, 3, groups=64)
        self.fc = nn.Linear(64, 5)

    def forward(self, x):
        return self.fc(self.deep(self.conv(x).relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graph")
    bench = wb.Bench(Net(), wb.Task.fidelity(INPUTS), store=wb.Store(folder))
    return onnx.load(bench.export(wb.Recipe(), folder / "net.onnx"))


@pytest.fixture
def bench(graph, store):
    return wb.Bench(OnnxModule(graph, "It is a test."), wb.Task.fidelity(INPUTS), name="graph", store=store)


def test_a_graph_gives_the_numbers_of_the_module_that_it_came_from(bench, store):
    twin = wb.Bench(Net(), wb.Task.fidelity(INPUTS), store=store)
    for quantization in (W8A8, wb.Quantization(weight_bits=3), wb.Quantization(weight_bits=4, activation_bits=4)):
        *_, ours = bench.stream(wb.Recipe(quantization=quantization))
        *_, theirs = twin.stream(wb.Recipe(quantization=quantization))
        assert ours.accuracy.value == pytest.approx(theirs.accuracy.value, abs=0.021)
        for score, other in zip(ours.scores, theirs.scores, strict=True):
            assert score.value.value == pytest.approx(other.value.value, rel=0.02)


def test_it_is_measured_and_said_to_be_a_graph(bench):
    report = bench.measure(wb.Recipe(quantization=W8A8))

    assert report.latency.value > 0
    assert any("ONNX graph" in note for note in report.notes)
    assert {row.weight_bits for row in report.layers} == {8}
    assert report.size.value < bench.baseline.size.value / 2


def test_one_layer_can_be_set_apart(bench):
    name = bench.layers[0].name
    apart = wb.Quantization(weight_bits=8, activation_bits=8, layers={name: {"weight_bits": 2}})
    *_, report = bench.stream(wb.Recipe(quantization=apart))

    assert [row.weight_bits for row in report.layers] == [2, 8, 8]
    *_, common = bench.stream(wb.Recipe(quantization=W8A8))
    assert report.scores[-1].value.value < common.scores[-1].value.value  # SQNR of the output


def test_the_preflight_says_what_it_runs_on(bench):
    found = bench.preflight()

    works = {(check.runtime, check.precision): check.works for check in found.runtimes}
    assert works[("onnxruntime", "int8")]
    assert not works[("eager", "fp32")]
    assert any("It is a test." in note for note in found.notes)


def test_its_weights_are_shipped_packed(bench, graph, tmp_path):
    read = artifact.read(
        bench.export(wb.Recipe(quantization=wb.Quantization(weight_bits=4)), tmp_path / "a.safetensors").read_bytes()
    )

    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    assert len(read.layers) == 3
    for layer in read.layers.values():
        given = torch.from_numpy(held[layer.weight_name].copy())
        assert (read.state[layer.weight_name] - given).abs().max() < given.abs().max() / 3


def test_an_output_that_is_not_there_is_named(graph, store):
    with pytest.raises(WorkbenchError, match="no such output"):
        wb.Bench(OnnxModule(graph, ""), wb.Task.fidelity(INPUTS, output="other"), store=store)
