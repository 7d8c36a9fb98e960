"""What is onnxruntime's own: large matrices of 4-bit weights stay packed, and multiply as they are simulated."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from workbench import Quantization, Recipe, WorkbenchError
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment
from workbench.runtimes import onnx_runtime, prepare
from workbench.runtimes.base import Prepared
from workbench.speed.layer_times import layer_times
from workbench.speed.subject import Subject

FOUR = {"weight_bits": 4, "granularity": "group", "group_size": 32}


@pytest.fixture(autouse=True)
def small_matrices_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime, "PACKED_WEIGHTS", 2000)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """With and without a bias, an odd number of groups, and a layer that is too small."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 40, bias=False), nn.Tanh(), nn.Linear(40, 5))
    return Network(model.eval(), Inputs(torch.randn(40, 96)), 1, tmp_path_factory.mktemp("graphs"))


def agreeing(network: Network, quantization: Quantization) -> Prepared:
    asked = specs(quantization, network.layers)
    inputs = Inputs(torch.randn(50, 96))
    made = prepare(Deployment(), network, network.quantized(asked))
    torch.testing.assert_close(made.run(inputs), network.simulation.run(inputs, asked), atol=1e-5, rtol=1e-4)
    return made


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("changes", [{}, {"correction": "bias"}, {"weight_bits": 3}, {"group_size": 16}], ids=str)
def test_packed_weights_multiply_as_simulated(network: Network, scheme: str, changes: dict[str, object]) -> None:
    made = agreeing(network, Quantization(**{**FOUR, "scheme": scheme, **changes}))
    assert "2 of 3 quantized layers keep their weights in 4 bits (MatMulNBits)" in (made.note or "")
    assert made.integer == 0


@pytest.mark.parametrize(
    "changes",
    [{"weight_bits": 5}, {"group_size": 24}, {"granularity": "channel"}, {"scheme": "float"}, {"activation_bits": 8}],
    ids=str,
)
def test_what_the_kernel_does_not_compute_is_unpacked(network: Network, changes: dict[str, object]) -> None:
    asked = specs(Quantization(**{**FOUR, **changes}), network.layers)
    assert "MatMulNBits" not in (prepare(Deployment(), network, network.quantized(asked)).note or "")


def test_groups_that_do_not_fill_a_row_are_unpacked(network: Network) -> None:
    assert "1 of 3" in (agreeing(network, Quantization(**{**FOUR, "group_size": 64})).note or "")


def test_the_note_is_whole_where_some_stay_packed_and_the_rest_is_not_said_to_be_unpacked(network: Network) -> None:
    mixed = Quantization(**{**FOUR, "layers": {"4": {"activation_bits": 8}}})
    note = agreeing(network, mixed).note or ""
    assert "2 of 3 quantized layers keep their weights in 4 bits (MatMulNBits) and multiply in fp32 kernels." in note
    assert "As for the others: 4-bit weights in groups of 32 run in fp32 kernels here, with rounding" in note
    assert "unpacked" not in note


def test_the_profile_is_of_what_is_timed(network: Network) -> None:
    recipe = Recipe(quantization=Quantization(**FOUR))
    layers = network.quantized(specs(recipe.quantization, network.layers))
    found = layer_times(Subject(recipe, network, layers, lambda size: Inputs(torch.randn(size, 96))), {})
    assert [row.layers for row in found.rows if row.kernel == "MatMulNBits"] == [("0",), ("2",)]


def test_weights_alone_are_unpacked_once_beside_integer_kernels(network: Network, tmp_path: Path) -> None:
    recipe = Quantization(weight_bits=8, activation_bits=8, layers={"2": {"activation_bits": None}})
    made = agreeing(network, recipe)
    assert made.integer
    layers = network.quantized(specs(recipe, network.layers))
    options = onnx_runtime.options_for(layers, Deployment())
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    content, _ = onnx_runtime.written(network.graph, layers)
    onnx_runtime.opened(content, options, Deployment())
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    assert not [node.name for node in nodes if node.name.startswith("node_linear_1.weight")]
    assert not {"Cast", "Sub", "Mul"} & {node.op_type for node in nodes}
    whole = [tensor for tensor in onnx.load_from_string(content).graph.initializer if tensor.data_type == 3]
    assert len(whole) >= 3  # the file stays small


def test_a_convolution_whose_output_stays_in_floats_has_its_weights_unpacked_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(72, 4)).eval()
    images = torch.randn(30, 3, 12, 12)
    made = Network(model, Inputs(images), 1, tmp_path)
    asked = specs(Quantization(weight_bits=8, activation_bits=8, layers={"6": {"activation_bits": None}}), made.layers)
    whole = made.quantized(asked)
    options = onnx_runtime.options_for(whole, Deployment())
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnx_runtime.opened(onnx_runtime.written(made.graph, whole)[0], options, Deployment())
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("DequantizeLinear") == 1  # of the second one's input
    assert kinds.count("QLinearConv") == 1
    run = prepare(Deployment(), made, whole).run(Inputs(images))
    torch.testing.assert_close(run, made.simulation.run(Inputs(images), asked), atol=1e-3, rtol=1e-3)


def test_a_device_that_did_not_load_is_refused_and_not_replaced_by_the_processor(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session:
        def __init__(self, content: bytes, options: object, providers: list[str], **_: object) -> None:
            self.asked = providers

        def get_providers(self) -> list[str]:
            return [name for name in self.asked if name not in broken]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    broken: set[str] = set()
    there = Deployment(device="cuda")
    assert onnx_runtime.opened(b"", None, there).asked == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    broken.add("CUDAExecutionProvider")
    with pytest.raises(WorkbenchError, match=r"cannot use cuda here: its CUDAExecutionProvider did not load.*'cpu'"):
        onnx_runtime.opened(b"", None, there)
    assert onnx_runtime.opened(b"", None, Deployment()).asked == ["CPUExecutionProvider"]
