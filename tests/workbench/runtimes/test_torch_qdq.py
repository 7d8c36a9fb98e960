"""QDQ operators in a torch module: what is written is what is simulated, and inductor's own counts say what it took."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from workbench import Quantization
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment
from workbench.runtimes import inductor, prepare, torch_qdq
from workbench.runtimes.torch_qdq import Qdq, no_integers
from workbench.twins import twin_with

HERE = Deployment(runtime="inductor", batch=4)
compiled = pytest.mark.skipif(
    bool(inductor.Inductor().unavailable() or no_integers(HERE)), reason="no compiler, or no VNNI"
)


class Mixed(nn.Module):
    """Products that have a kernel, some that have none, a shared input, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose1d(8, 8, 2, stride=2)
        self.plane = nn.Conv2d(1, 4, 3, padding=1, stride=2)
        self.grouped = nn.Conv2d(4, 4, 3, groups=4, bias=False)
        self.query, self.key = nn.Linear(32, 16), nn.Linear(32, 16, bias=False)
        self.twice = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 16) to (n, 2, 16)."""
        x = self.up(torch.relu(self.line(x)))  # (n, 8, 32)
        x = torch.relu(self.plane(x[:, None]))  # (n, 4, 4, 16)
        x = self.grouped(nn.functional.pad(x, (1, 1, 0, 0)))  # (n, 4, 2, 16)
        x = x.permute(0, 2, 1, 3).flatten(2).reshape(len(x), 2, 2, 32).mean(2)
        x = self.query(x) * torch.sigmoid(self.key(x))
        return self.twice(torch.relu(self.twice(x)))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Network:
    torch.manual_seed(0)
    return Network(Mixed().eval(), Inputs(torch.randn(64, 3, 16)), 1, tmp_path_factory.mktemp("mixed"))


def written(network: Network, quantization: Quantization, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """What the operators compute one by one, and what is simulated."""
    asked = specs(quantization, network.layers)
    layers = network.quantized(asked)
    replaced = {name: value for layer in layers.values() for name, value in layer.parameters().items()}
    with torch.no_grad():
        module = copy.deepcopy(twin_with(network.module, replaced))
        Qdq(network.module, module, layers, inputs)
        return inputs.call(module), network.simulation.run(inputs, asked)


@pytest.mark.parametrize(
    "quantization",
    [
        Quantization(weight_bits=8, activation_bits=8),
        Quantization(weight_bits=4, activation_bits=4),
        Quantization(weight_bits=1, activation_bits=8),
        Quantization(activation_bits=6),
        Quantization(weight_bits=3, activation_bits=5, scheme="affine"),
        Quantization(weight_bits=8, activation_bits=8, scheme="affine"),
        Quantization(weight_bits=2, activation_bits=8, scheme="midrise", granularity="tensor"),
        Quantization(weight_bits=4, activation_bits=8, scheme="mx"),
        Quantization(weight_bits=4, activation_bits=8, method="naive"),
        Quantization(weight_bits=8, activation_bits=8, layers={"query": {"activation_bits": None}}),
    ],
    ids=repr,
)
def test_the_operators_compute_what_is_simulated(mixed: Network, quantization: Quantization) -> None:
    one, other = written(mixed, quantization, Inputs(torch.randn(32, 3, 16, generator=torch.manual_seed(1))))
    torch.testing.assert_close(one.median(), other.median(), atol=1e-5, rtol=1e-4)
    # a tie may go the other way here and there
    assert (one - other).abs().median() <= 1e-5 * other.abs().max()


@compiled
def test_products_run_in_integer_kernels_and_what_has_none_is_told(mixed: Network) -> None:
    asked = specs(Quantization(weight_bits=8, activation_bits=8), mixed.layers)
    run = prepare(HERE, mixed, mixed.quantized(asked))
    assert run.integer == len(mixed.layers) - 1
    assert "6 of 7" in (run.note or "")  # not the transposed one
    inputs = Inputs(torch.randn(4, 3, 16, generator=torch.manual_seed(2)))
    one, other = run.run(inputs), mixed.simulation.run(inputs, asked)
    assert (one - other).abs().median() <= 1e-5 * other.abs().max()
    again = prepare(HERE, mixed, mixed.quantized(asked))  # from the compiler's cache, if it has one
    assert again.integer == run.integer


def test_what_cannot_be_counted_is_not(mixed: Network) -> None:
    layers = mixed.quantized(specs(Quantization(weight_bits=8, activation_bits=8), mixed.layers))
    qdq = Qdq(mixed.module, module := copy.deepcopy(mixed.module), layers, mixed.example)
    with torch.no_grad():
        mixed.example.call(module)
    assert [qdq.integer(replaced) for replaced in (7, 6, 3, 0)] == [6, 5, 2, 0]


class Reading(nn.Module):
    """Reads the weight of a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.called = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 3)."""
        return self.called(nn.functional.linear(x, self.read.weight, self.read.bias))


@compiled
def test_an_input_that_no_module_sees_is_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = Network(Reading().eval(), Inputs(torch.randn(8, 6)), 1, tmp_path)
    run = prepare(HERE, made, made.quantized(specs(Quantization(weight_bits=8, activation_bits=8), made.layers)))
    assert run.integer == 1
    assert "1 of 2" in (run.note or "")
    assert "input of read is not rounded" in (run.note or "")


@pytest.mark.parametrize(
    ("deployment", "word"), [(HERE.replace(precision="bf16"), "bf16"), (HERE.replace(device="cuda"), "cuda")]
)
def test_what_has_no_integer_kernels_says_why(deployment: Deployment, word: str) -> None:
    assert word in (no_integers(deployment) or "")


@pytest.mark.skipif(bool(inductor.Inductor().unavailable()), reason="no compiler")
def test_a_processor_without_vnni_runs_in_floating_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_qdq.torch.cpu, "_is_vnni_supported", lambda: False)
    torch.manual_seed(0)
    made = Network(nn.Linear(6, 3).eval(), Inputs(torch.randn(8, 6)), 1, tmp_path)
    asked = specs(Quantization(weight_bits=8, activation_bits=8), made.layers)
    run = prepare(HERE, made, made.quantized(asked))
    assert run.integer == 0
    assert "VNNI" in (run.note or "") and "fp32" in (run.note or "")
    inputs = Inputs(torch.randn(4, 6))
    torch.testing.assert_close(run.run(inputs), made.call(inputs), atol=0.05, rtol=0.05)
