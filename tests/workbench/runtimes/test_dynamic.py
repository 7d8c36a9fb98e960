"""Ranges that are taken at each call: as ONNX's operator and onnxruntime's own `quantize_dynamic` take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

import workbench as wb
from workbench import Distillation, Finetuning, Quantization, Recipe, RecipeError, WorkbenchError, runtimes
from workbench.grid import DynamicGrid, Grid, QuantizedLayer
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment

ort = pytest.importorskip("onnxruntime")
DYNAMIC = Quantization(weight_bits=8, activation_bits=8, activation_range="dynamic")


class Small(nn.Module):
    """Linear layers with and without bias, one of them over tokens, and two that share their input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Linear(24, 16), nn.Linear(24, 16, bias=False)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 24) to (n, 5)."""
        return self.last((torch.relu(self.first(x)) * self.gate(x)).mean(1))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Network:
    torch.manual_seed(0)
    return Network(Small().eval(), Inputs(torch.randn(64, 3, 24)), 1, tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(64, 7, generator=torch.manual_seed(0)),
        torch.rand(5, 3) + 2,
        -torch.rand(5, 3) - 2,
        torch.zeros(4),
        torch.arange(-40, 216) * 0.5,  # every value in the middle between two points, or on one
    ],
    ids=["both signs", "above", "below", "zeros", "ties"],
)
def test_the_grid_is_the_operators(x: Tensor) -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    kinds = (("q", onnx.TensorProto.UINT8), ("s", onnx.TensorProto.FLOAT), ("z", onnx.TensorProto.UINT8))
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)
    made = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds]
    graph = helper.make_graph([node], "g", [given], made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    q, scale, zero = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x.numpy()})
    found = DynamicGrid().parameters(x)
    assert [float(each) for each in found] == [float(scale), float(zero)]
    assert np.array_equal(DynamicGrid().quantize(x).numpy(), q)
    wanted = (q.astype(np.float32) - np.float32(zero)) * scale
    assert np.array_equal(DynamicGrid().fake_quantize(x).numpy(), wanted)


def test_it_computes_what_quantize_dynamic_computes(small: Network, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    (tmp_path / "fp32.onnx").write_bytes(small.graph.fp32())
    quantize_dynamic(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert (kinds.count("MatMulInteger"), kinds.count("DynamicQuantizeLinear")) == (3, 2)
    held = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    theirs = [(held[node.input[1]].T, held[node.input[3]]) for node in graph.node if node.op_type == "MatMulInteger"]
    scales = [value for name, value in held.items() if name.endswith("_scale") and value.numel() > 1]
    layers = {}
    for name, layer in small.layers.items():
        weight = layer.weight.detach()
        whole = next(q for q, _ in theirs if q.shape == weight.shape and (q.sign() * weight >= 0).all())
        # they leave -128 out, so a step is 127/127.5 of ours
        scale = weight.abs().amax(1) / 127
        assert any(torch.allclose(each, scale, rtol=1e-6) for each in scales if each.shape == scale.shape)
        grid = Grid(scale, torch.zeros(len(scale), dtype=torch.int32), -127, 127, 8, 0)
        assert torch.equal(grid.quantize(weight), whole)
        names = layer.weight_name, layer.bias_name
        layers[name] = QuantizedLayer(name, whole.contiguous(), grid, None, None, *names, DynamicGrid())
    inputs = Inputs(torch.randn(32, 3, 24, generator=torch.manual_seed(3)))
    ours = runtimes.prepare(Deployment(runtime="onnxruntime"), small, layers)
    session = ort.InferenceSession(str(tmp_path / "int8.onnx"))
    (wanted,) = session.run(None, {session.get_inputs()[0].name: inputs.tensors[0].numpy()})
    assert ours.integer == 3
    np.testing.assert_allclose(ours.run(inputs).numpy(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "quantization",
    [
        DYNAMIC,
        DYNAMIC.replace(weight_bits=4, scheme="affine"),
        DYNAMIC.replace(weight_bits=8, scheme="affine"),
        DYNAMIC.replace(weight_bits=None),
        DYNAMIC.replace(granularity="tensor", correction="bias", method="gptq"),
        DYNAMIC.replace(weight_bits=4, scheme="mx"),
        DYNAMIC.replace(layers={"first": {"activation_bits": None}}),
    ],
    ids=repr,
)
def test_what_runs_is_what_is_simulated(small: Network, quantization: Quantization) -> None:
    asked = specs(quantization, small.layers)
    inputs = Inputs(torch.randn(32, 3, 24, generator=torch.manual_seed(3)))
    run = runtimes.prepare(Deployment(runtime="onnxruntime"), small, small.quantized(asked))
    wanted = small.simulation.run(inputs, asked)
    assert (run.run(inputs) - wanted).abs().median() <= 1e-5 * wanted.abs().max()
    assert "at each call" in (run.note or "")


class Others(nn.Module):
    """Products in planes and lines, with groups and steps, and what has no operator for whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.state = nn.LSTM(3, 8, batch_first=True)
        self.line = nn.Conv1d(8, 8, 3, padding=1, bias=False)
        self.up = nn.ConvTranspose1d(8, 4, 2, stride=2)
        self.plane = nn.Conv2d(4, 8, 3, groups=2, stride=2, padding=1, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 16, 3) to (n, features)."""
        x = self.up(torch.relu(self.line(self.state(x)[0].transpose(1, 2))))
        return self.plane(x.unflatten(2, (4, 8))).flatten(1)


@pytest.mark.parametrize("bits", [8, 4])
def test_other_layers_agree_too(tmp_path: Path, bits: int) -> None:
    torch.manual_seed(0)
    made = Network(Others().eval(), Inputs(torch.randn(16, 16, 3)), 1, tmp_path)
    asked, inputs = specs(DYNAMIC.replace(weight_bits=bits), made.layers), Inputs(torch.randn(8, 16, 3))
    run = runtimes.prepare(Deployment(runtime="onnxruntime"), made, made.quantized(asked))
    assert run.integer == 2
    wanted = made.simulation.run(inputs, asked)
    assert (run.run(inputs) - wanted).abs().median() <= 1e-5 * wanted.abs().max()


def test_convolutions_and_the_classes_of_seed_cnn_agree(bench: wb.Bench) -> None:
    network, inputs = bench._network, wb.zoo.task().inputs[:2000]
    asked = specs(DYNAMIC, network.layers)
    run = runtimes.prepare(Deployment(runtime="onnxruntime"), network, network.quantized(asked))
    assert run.integer == len(network.layers)
    parts = [inputs[at : at + 250] for at in range(0, 2000, 250)]
    one = torch.cat([network.simulation.run(part, asked) for part in parts])
    other = torch.cat([run.run(part) for part in parts])
    assert (one.argmax(1) == other.argmax(1)).float().mean() >= 0.999
    assert (one - other).abs().median() < 1e-4


def test_a_range_is_the_calls_own(small: Network) -> None:
    """So an example's numbers depend on those beside it, simulated and run."""
    asked = specs(DYNAMIC, small.layers)
    run = runtimes.prepare(Deployment(runtime="onnxruntime"), small, small.quantized(asked))
    x = torch.randn(2, 3, 24, generator=torch.manual_seed(4))
    x[1] *= 50
    for call in (run.run, lambda inputs: small.simulation.run(inputs, asked)):
        alone, beside = call(Inputs(x[:1])), call(Inputs(x))[:1]
        assert (alone - beside).abs().max() > 1e-3


def test_nothing_is_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Network(Small().eval(), Inputs(torch.randn(8, 3, 24)), 1, tmp_path)
    monkeypatch.setattr(made, "_observe", lambda *_: pytest.fail("looked at calibration data"))
    assert all(layer.dynamic for layer in made.quantized(specs(DYNAMIC, made.layers)).values())


@pytest.mark.parametrize("runtime", ["openvino", "inductor"])
def test_a_runtime_without_it_says_so(bench: wb.Bench, runtime: str) -> None:
    if runtimes.get(runtime).unavailable():
        pytest.skip(f"no {runtime}")
    deployment = Deployment(runtime=runtime)
    with pytest.raises(RecipeError, match=f"{runtime} has no kernels here that take the range"):
        bench.check(Recipe(quantization=DYNAMIC, deployment=deployment))
    network = bench._network
    with pytest.raises(WorkbenchError, match="choose onnxruntime"):
        runtimes.prepare(deployment, network, network.quantized(specs(DYNAMIC, network.layers)))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"activation_bits": 4}, "8 bits, and conv1 has 4"),
        ({"layers": {"fc1": {"activation_bits": 6}}}, "fc1 has 6"),
        ({"method": "brecq"}, "brecq"),
        ({"correction": "batchnorm"}, "batchnorm"),
    ],
)
def test_what_it_does_not_go_with_is_told(bench: wb.Bench, changes: dict[str, object], word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        bench.check(Recipe(quantization=DYNAMIC.replace(**changes)))


def test_training_is_refused(bench: wb.Bench) -> None:
    for part in ({"finetuning": Finetuning()}, {"distillation": Distillation()}):
        with pytest.raises(RecipeError, match="for the model as it is"):
            bench.check(Recipe(quantization=DYNAMIC, **part))


def test_a_report_says_what_its_accuracy_is_of(bench: wb.Bench) -> None:
    recipe = Recipe(quantization=DYNAMIC, deployment=Deployment(runtime="onnxruntime"))
    report = bench.measure(recipe)
    assert report.drop.value < 0.01
    assert any("Accuracy is that of calls of up to" in note for note in report.notes)
    assert "of its batch share them" in report.running
    agreement = bench.agreement(recipe)
    assert agreement.rate.value >= 0.999
    with pytest.raises(RecipeError, match="not predicted"):
        bench.predict(recipe)
    with pytest.raises(RecipeError, match="activation_range"):
        bench.plan(max_bytes=40_000, template=recipe)


def test_a_recipe_without_it_keeps_its_key() -> None:
    assert "activation_range" not in Recipe(quantization=Quantization(weight_bits=8)).to_json()
    assert Recipe.from_json(Recipe(quantization=DYNAMIC).to_json()).quantization == DYNAMIC


def test_the_artifact_keeps_it(bench: wb.Bench) -> None:
    from workbench.delivery.artifact import read

    layers = read(bench._network.artifact(DYNAMIC, "{}")).layers
    assert len(layers) == len(bench.layers)
    assert all(layer.dynamic and layer.activation_grid is None for layer in layers.values())


def test_an_exported_graph_runs_it_and_other_formats_refuse(bench: wb.Bench, tmp_path: Path) -> None:
    recipe = Recipe(quantization=DYNAMIC, deployment=Deployment(runtime="onnxruntime"))
    bench.export(recipe, tmp_path / "model.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert kinds.count("ConvInteger") == 3 and kinds.count("MatMulInteger") == 2
    for name in ("model.pt2", "model.xml"):
        with pytest.raises(WorkbenchError, match="at each call"):
            bench.export(recipe, tmp_path / name)
