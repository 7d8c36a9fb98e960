"""What is simulated is what runs: the integer graph against the simulation, over all that a recipe can ask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import workbench as wb
from workbench import Quantization, WorkbenchError
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment
from workbench.runtimes import prepare
from workbench.runtimes.graph import ExportedGraph

ORT = Deployment(runtime="onnxruntime")


def outputs(network: Network, quantization: Quantization, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the simulation and of onnxruntime."""
    asked = specs(quantization, network.layers)
    prepared = prepare(ORT, network, network.quantized(asked))
    batches = [inputs[start : start + 100] for start in range(0, len(inputs), 100)]
    simulated = torch.cat([network.simulation.run(x, asked) for x in batches])
    return simulated, torch.cat([prepared.run(x) for x in batches])


@pytest.fixture(scope="module")
def seed(bench: wb.Bench) -> Network:
    return bench._network


@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (4, 8)])
def test_top1_agrees_on_all_test_images(seed: Network, weight: int, activation: int) -> None:
    simulated, deployed = outputs(
        seed, Quantization(weight_bits=weight, activation_bits=activation), wb.zoo.task().inputs
    )
    assert (simulated.argmax(1) == deployed.argmax(1)).float().mean() >= 0.995


@pytest.mark.parametrize(
    "quantization",
    [
        Quantization(weight_bits=4, activation_bits=4),
        Quantization(weight_bits=2, activation_bits=8),
        Quantization(weight_bits=2, activation_bits=8, method="quantease", range="hessian", correction="bias"),
        Quantization(weight_bits=2, scheme="midrise", method="gptq", correction="bias"),
        Quantization(weight_bits=3, activation_bits=3, range="minmax"),
        Quantization(weight_bits=4, activation_bits=8, scheme="power_of_two", range="kl"),
        Quantization(weight_bits=2, activation_bits=8, scheme="codebook", range="auto", method="gptq"),
        Quantization(weight_bits=4, activation_bits=8, scheme="float"),
        Quantization(weight_bits=4, activation_bits=8, scheme="mx", correction="bias"),
        Quantization(weight_bits=4, activation_bits=8, scheme="affine", granularity="group", group_size=16),
        Quantization(weight_bits=8),
        Quantization(activation_bits=5),
        Quantization(weight_bits=4, activation_bits=8, scheme="affine"),
        Quantization(weight_bits=6, activation_bits=6, granularity="tensor", range="percentile"),
        Quantization(weight_bits=8, activation_bits=8, method="naive"),
        Quantization(
            weight_bits=8, activation_bits=8, layers={"conv1": {"weight_bits": None}, "fc*": {"weight_bits": 3}}
        ),
        Quantization(
            weight_bits=8, activation_bits=8, layers={"conv3": {"weight_bits": None, "activation_bits": None}}
        ),
        Quantization(),
    ],
    ids=lambda quantization: repr(quantization),
)
def test_every_kind_of_recipe_agrees(seed: Network, quantization: Quantization) -> None:
    simulated, deployed = outputs(seed, quantization, wb.zoo.task().inputs[:1000])
    assert (simulated.argmax(1) == deployed.argmax(1)).float().mean() >= 0.995


def test_integer_kernels_run_and_lower_bits_say_so(seed: Network) -> None:
    def note(**bits: int) -> str | None:
        return prepare(ORT, seed, seed.quantized(specs(Quantization(**bits), seed.layers))).note

    assert note(weight_bits=8, activation_bits=8) is None
    assert note(weight_bits=4, activation_bits=8) == "4-bit weights run in 8-bit kernels on this machine."
    assert "2- to 4-bit weights and activations" not in (note(weight_bits=4, activation_bits=8) or "")
    assert "4-bit weights and activations run in 8-bit kernels" in (note(weight_bits=4, activation_bits=4) or "")
    assert "fp32 kernels" in (note(weight_bits=4) or "")


def test_quantized_graphs_are_valid_and_leave_the_exported_one_alone(seed: Network) -> None:
    before = seed.graph.fp32()
    content = seed.graph.quantized(seed.quantized(specs(Quantization(weight_bits=3, activation_bits=5), seed.layers)))
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    assert len(content) < len(before) / 3
    assert seed.graph.fp32() == before


class Branches(nn.Module):
    """Equal biases, a shared input, a transposed convolution, groups, a functional call between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 8, 3, groups=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 6)
        self.tail = nn.Linear(6, 6, bias=False)
        for layer in (self.left, self.right, self.grouped, self.up, self.head):
            nn.init.zeros_(layer.bias)  # the exporter merges equal initializers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.left(x)) + F.relu(self.right(x))
        x = F.relu(self.up(F.relu(self.grouped(x))))
        return self.tail(torch.tanh(self.head(x.mean((2, 3)))))


@pytest.mark.parametrize("bits", [(8, 8), (4, 6)])
def test_other_forms_of_network_agree(bits: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = Inputs(torch.randn(300, 3, 10, 10))
    network = Network(Branches(), inputs[:100], 3, tmp_path)
    simulated, deployed = outputs(network, Quantization(weight_bits=bits[0], activation_bits=bits[1]), inputs)
    assert (simulated - deployed).abs().max() <= 0.05 * simulated.abs().max()
    assert (simulated.argmax(1) == deployed.argmax(1)).float().mean() >= 0.98


def test_a_layer_that_is_not_in_the_graph_stays_in_fp32(seed: Network) -> None:
    assert seed.graph.present == set(seed.layers)
    asked = specs(Quantization(weight_bits=4, activation_bits=8), seed.layers)
    layer = replace(seed.quantized(asked)["fc1"], name="fc9")
    assert onnx.load_from_string(seed.graph.quantized({"fc9": layer})).graph.node == seed.graph.proto.graph.node


class NotExportable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.flatten()[0].item() > 0) if x.sum() > 0 else x


def test_a_model_that_cannot_be_exported_is_told_so_in_words(tmp_path: Path) -> None:
    network = Network(NotExportable(), Inputs(torch.randn(4, 5)), 1, tmp_path)
    with pytest.raises(WorkbenchError, match=r"cannot be exported to ONNX.*'eager'"):
        _ = network.graph


def test_a_graph_is_exported_once_and_again_where_the_file_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(torch.randn(8, 3, 10, 10))
    network = Network(Branches(), inputs, 1, tmp_path)
    network.graph.fp32()
    (path,) = tmp_path.iterdir()
    model = Branches()
    layers, example = network.layers, inputs[:2]
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("exported again"))
        graph = ExportedGraph.cached(path, model, layers, example)
        assert graph.fp32() == before[32:]
    path.write_bytes(before[:-3] + b"xyz")
    assert ExportedGraph.cached(path, model, layers, example).proto.graph.node
    assert path.read_bytes()[-3:] != b"xyz"
    blocked = tmp_path / "file" / "graph.onnx"
    blocked.parent.write_text("a file where a folder should be")
    assert ExportedGraph.cached(blocked, model, layers, example).proto.graph.node
