"""What is onnxruntime's own: large matrices of 4-bit weights stay packed, and multiply as they are simulated."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workbench import Quantization
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment
from workbench.runtimes import onnx_runtime, prepare
from workbench.runtimes.base import Prepared

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
