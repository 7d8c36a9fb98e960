"""Which layer a kernel is, by the names that runtimes were seen to give."""

from __future__ import annotations

import pytest

from workbench import Bench
from workbench.speed.origins import Origins


@pytest.fixture
def origins(bench: Bench) -> Origins:
    return Origins(bench._network.graph)


@pytest.mark.parametrize(
    ("name", "kind", "layers"),
    [
        ("node_conv2d_1", "Conv", ("conv2",)),
        ("node_conv2d_1_token_5", "QLinearConv", ("conv2",)),
        ("node_conv2d_token_1", "QLinearConv", ("conv1",)),  # the first one's token, not the second one
        ("relu_1_nchwc", "Conv", ("conv2",)),  # called by the output of what was fused into it
        ("fused node_linear", "FusedGemm", ("fc1",)),
        ("node_conv2d_2/WithoutBiases", "Convolution", ("conv3",)),
        ("linear_1", "FullyConnected", ("fc2",)),
        ("node_linear/WithoutBiases/DequantizationMultiply", "FullyConnectedQuantizedLegacy", ("fc1",)),
        ("input_0.input0.q", "QuantizeLinear", ("conv1",)),
        ("max_pool2d.input1.q", "FakeQuantize", ("conv2",)),
        ("conv2d.input1.q", "FakeQuantize", ("conv2",)),  # rounded before what only moves values
        ("node_max_pool2d_token_11", "NhwcMaxPool", ()),
        ("Transpose_token_8", "Transpose", ()),
        ("nonsense", "Reorder", ()),
    ],
)
def test_names_of_kernels(origins: Origins, name: str, kind: str, layers: tuple[str, ...]) -> None:
    (found,) = origins.found([(name, kind)], {})
    assert found.layers == layers


def test_what_a_kernel_reads_says_more_than_its_name(origins: Origins) -> None:
    (found,) = origins.found([("x", "Conv")], {"x": ("anything", "node_conv2d_2.weight.q", "model.conv1.bias")})
    assert found.layers == ("conv3",)
    (found,) = origins.found([("y", "Conv")], {"y": ("reorder_token_0", "model.conv1.bias")})
    assert found.layers == ("conv1",)


def test_operators_without_a_kernel_are_in_the_one_before(origins: Origins) -> None:
    kernels = [
        ("node_conv2d", "Conv"),
        ("node_max_pool2d", "MaxPool"),
        ("node_conv2d_1", "Conv"),
        ("node_relu_1", "Relu"),
    ]
    found = origins.found(kernels, {})
    assert [each.kinds[:2] for each in found] == [("Conv", "Relu"), ("MaxPool",), ("Conv",), ("Relu", "MaxPool")]
    assert [each.name for each in found] == ["conv1", "pool1", "conv2", "relu2"]
