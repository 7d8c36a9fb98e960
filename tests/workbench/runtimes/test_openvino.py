"""What is OpenVINO's own: no telemetry, rounding before what only moves values, shapes that are compiled for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from workbench import Quantization, WorkbenchError
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment
from workbench.runtimes import openvino, prepare

pytestmark = pytest.mark.skipif(bool(openvino.OpenVino().unavailable()), reason="openvino is not here")
OV = Deployment(runtime="openvino")


def test_it_is_imported_without_what_would_phone_home() -> None:
    code = (
        "import sys\n"
        "from workbench.runtimes.openvino import library\n"
        "assert library().__version__\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])\n"
        "import openvino.tools.ovc.telemetry_utils as used\n"
        "print(used.tm.__name__)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said == ["[]", "openvino.tools.ovc.telemetry_stub"]


def test_devices_are_those_that_the_library_reports() -> None:
    assert openvino.OpenVino().devices()[0] == "cpu"
    for device in openvino.OpenVino().devices():
        Deployment(device=device)


def network(model: nn.Module, folder: Path, *shape: int) -> Network:
    torch.manual_seed(0)
    return Network(model.eval(), Inputs(torch.randn(40, *shape)), 1, folder)


def rounding(made: Network, quantization: Quantization) -> list[str]:
    """Kinds of nodes in the order in which they are run, the weights' left out."""
    layers = made.quantized(specs(quantization, made.layers))
    graph = onnx.load_from_string(made.graph.quantized(layers, openvino._Writer())).graph
    held = {tensor.name for tensor in graph.initializer}
    return [node.op_type for node in graph.node if node.input[0] not in held]


def test_rounding_comes_before_what_only_moves_values(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5))
    made = network(model, tmp_path, 2, 8, 8)
    kinds = rounding(made, Quantization(weight_bits=8, activation_bits=8))
    assert kinds.index("Relu") < kinds.index("QuantizeLinear", 1) < kinds.index("MaxPool")
    assert kinds.count("QuantizeLinear") == 2
    asked = specs(Quantization(weight_bits=8, activation_bits=8), made.layers)
    inputs = Inputs(torch.randn(40, 2, 8, 8))
    run = prepare(OV, made, made.quantized(asked))
    torch.testing.assert_close(run.run(inputs), made.simulation.run(inputs, asked), atol=1e-3, rtol=1e-3)
    assert run.integer == 2


class Fork(nn.Module):
    """What the second layer takes is needed as it is, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved = self.first(x).reshape(-1, 2, 6)
        return self.second(moved) + moved


def test_a_value_that_somebody_needs_as_it_is_is_not_rounded_for_him(tmp_path: Path) -> None:
    made = network(Fork(), tmp_path, 2, 6)
    asked = specs(Quantization(weight_bits=8, activation_bits=2), made.layers)
    inputs = Inputs(torch.randn(40, 2, 6))
    run = prepare(OV, made, made.quantized(asked))
    torch.testing.assert_close(run.run(inputs), made.simulation.run(inputs, asked), atol=1e-3, rtol=1e-3)


def test_many_shapes_end_in_one_graph_for_all(tmp_path: Path) -> None:
    made = network(nn.Sequential(nn.Linear(6, 3)), tmp_path, 6)
    run = prepare(OV, made, {})
    for size in range(1, 9):
        inputs = Inputs(torch.randn(size, 6))
        torch.testing.assert_close(run.run(inputs), made.call(inputs), atol=1e-5, rtol=1e-5)
    assert len(run._ready) == openvino.FIXED_SHAPES  # type: ignore[attr-defined]


def test_a_bound_batch_stays_when_another_is_run(tmp_path: Path) -> None:
    made = network(nn.Sequential(nn.Linear(6, 3)), tmp_path, 6)
    run = prepare(OV, made, {})
    first, other = (Inputs(torch.full((2, 6), value)) for value in (1.0, 5.0))
    call = run.bound(first)
    run.run(other)
    call()
    request, _ = call.args  # type: ignore[attr-defined]
    found = torch.from_numpy(request.get_output_tensor(0).data)
    torch.testing.assert_close(found, made.call(first), atol=1e-5, rtol=1e-5)


def test_a_graph_that_it_cannot_read_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(nn.Sequential(nn.Linear(6, 3)), tmp_path, 6)
    proto = onnx.ModelProto()
    proto.CopyFrom(made.graph.proto)
    proto.graph.node[0].op_type = "Nonsense"
    monkeypatch.setattr(made.graph, "proto", proto)
    with pytest.raises(WorkbenchError, match=r"openvino cannot .* the model: .*Nonsense"):
        prepare(OV, made, {})
