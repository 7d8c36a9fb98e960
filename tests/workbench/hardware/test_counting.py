"""MACs, bytes and living activations against formulas by hand."""

from __future__ import annotations

import itertools
import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.hardware.counting import counted
from workbench.hardware.counts import Counts, OperatorClass
from workbench.inputs import Inputs


class Calls(nn.Module):
    """A module that computes a function of its inputs, with parameters that it was given."""

    def __init__(self, function, **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, tensor in parameters.items():
            self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, *args):
        return self.function(self, *args)


def count(model: nn.Module, *args: Tensor, **names) -> Counts:
    return counted(model.eval(), Inputs(*args), **names)


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 2, 4]))
    return {
        "dims": dims,
        "groups": groups,
        "inputs": groups * draw(st.integers(1, 3)),
        "outputs": groups * draw(st.integers(1, 3)),
        "kernel": draw(st.integers(1, 3)),
        "stride": draw(st.integers(1, 3)),
        "dilation": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, 2)),
        "size": draw(st.integers(5, 8)),
        "bias": draw(st.booleans()),
        "transposed": draw(st.booleans()),
    }


@settings(deadline=None, max_examples=60)
@given(convolutions())
def test_convolutions_are_counted_as_by_hand(c) -> None:
    kinds = (
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if c["transposed"]
        else (
            nn.Conv1d,
            nn.Conv2d,
            nn.Conv3d,
        )
    )
    layer = kinds[c["dims"] - 1](
        c["inputs"],
        c["outputs"],
        c["kernel"],
        stride=c["stride"],
        dilation=c["dilation"],
        padding=c["padding"] if not c["transposed"] else 0,
        groups=c["groups"],
        bias=c["bias"],
    )
    x = torch.zeros(1, c["inputs"], *[c["size"]] * c["dims"])
    row, *others = count(layer, x).rows
    window = c["kernel"] ** c["dims"]
    if c["transposed"]:  # every input position is multiplied by the whole window
        expected = c["size"] ** c["dims"] * c["inputs"] * c["outputs"] // c["groups"] * window
    else:
        reach = c["dilation"] * (c["kernel"] - 1) + 1
        side = (c["size"] + 2 * c["padding"] - reach) // c["stride"] + 1
        expected = side ** c["dims"] * c["outputs"] * c["inputs"] // c["groups"] * window
    assert not others
    assert row.macs == expected
    assert row.flops == 2 * expected
    assert dict(row.weights)["weight"] == layer.weight.numel()
    assert (row.inputs, row.outputs) == (x.numel(), layer(x).numel())
    depthwise = c["groups"] > 1 and c["inputs"] == c["groups"]
    assert row.kind is (OperatorClass.DEPTHWISE if depthwise else OperatorClass.CONVOLUTION)


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias: bool) -> None:
    counts = count(nn.Linear(7, 5, bias=bias), torch.zeros(1, 3, 7))
    (row,) = counts.rows
    assert row.macs == 3 * 7 * 5
    assert row.channels == (7, 5)
    assert dict(row.weights) == {"weight": 35, **({"bias": 5} if bias else {})}


def test_a_functional_linear_is_named_by_its_weight() -> None:
    model = nn.Sequential(Calls(lambda m, x: F.linear(x, m.projection), projection=torch.zeros(5, 7)))
    (row,) = count(model, torch.zeros(1, 7)).rows
    assert (row.macs, row.weights) == (35, (("0.projection", 35),))
    (named,) = count(model, torch.zeros(1, 7), names={"0.projection": "the layer"}).rows
    assert named.name == "the layer"


HEADS, QUERIES, KEYS, DEPTH, VALUES = 3, 5, 7, 4, 6
ATTENTION = HEADS * QUERIES * KEYS * (DEPTH + VALUES)


def test_fused_attention_on_the_cpu_is_counted() -> None:
    shapes = (1, HEADS, QUERIES, DEPTH), (1, HEADS, KEYS, DEPTH), (1, HEADS, KEYS, DEPTH)
    model = Calls(lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v))
    counts = count(model, *(torch.zeros(shape) for shape in shapes))
    assert counts.macs == HEADS * QUERIES * KEYS * 2 * DEPTH
    assert [row.name for row in counts.rows] == ["scaled_dot_product_attention"]
    assert not counts.uncounted


def test_attention_by_products_is_counted_alike() -> None:
    shapes = (1, HEADS, QUERIES, DEPTH), (1, HEADS, KEYS, DEPTH), (1, HEADS, KEYS, VALUES)
    model = Calls(lambda _, q, k, v: torch.softmax(q @ k.transpose(-1, -2), -1) @ v)
    assert count(model, *(torch.zeros(shape) for shape in shapes)).macs == ATTENTION


@pytest.mark.parametrize("fast", [True, False])
def test_an_encoder_layer_is_counted_on_either_path(fast: bool) -> None:
    steps, width, wide = 5, 8, 20
    layer = nn.TransformerEncoderLayer(width, 2, wide, batch_first=True)
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        counts = count(layer, torch.zeros(1, steps, width))
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    projections, products, feedforward = 4 * steps * width**2, 2 * steps**2 * width, 2 * steps * width * wide
    assert counts.macs == projections + products + feedforward
    assert not counts.uncounted


def test_the_fused_encoder_kernel_has_a_formula() -> None:
    steps, width, wide = 5, 8, 20
    layer = nn.TransformerEncoderLayer(width, 2, wide, batch_first=True).eval()
    attention = layer.self_attn

    def fused(_: nn.Module, x: Tensor) -> Tensor:
        return torch._transformer_encoder_layer_fwd(
            x,
            width,
            2,
            attention.in_proj_weight,
            attention.in_proj_bias,
            attention.out_proj.weight,
            attention.out_proj.bias,
            False,
            False,
            layer.norm1.eps,
            layer.norm1.weight,
            layer.norm1.bias,
            layer.norm2.weight,
            layer.norm2.bias,
            layer.linear1.weight,
            layer.linear1.bias,
            layer.linear2.weight,
            layer.linear2.bias,
        )

    counts = count(Calls(fused), torch.zeros(1, steps, width))
    assert counts.macs == 4 * steps * width**2 + 2 * steps**2 * width + 2 * steps * width * wide


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_layers(kind: type[nn.Module], gates: int, directions: int) -> None:
    steps, inputs, hidden = 6, 5, 4
    model = kind(inputs, hidden, num_layers=2, bidirectional=directions == 2, batch_first=True)
    counts = count(nn.Sequential(model), torch.zeros(1, steps, inputs))
    first = gates * hidden * (inputs + hidden)
    second = gates * hidden * (directions * hidden + hidden)
    assert counts.macs == steps * directions * (first + second)
    products = [row for row in counts.rows if row.macs]
    assert {row.kind for row in products} == {OperatorClass.RECURRENT}
    assert {row.name for row in products} == {"0"}
    assert not counts.uncounted


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (lambda _, a, b: torch.baddbmm(torch.zeros(1, 3, 5), a, b), ((1, 3, 4), (1, 4, 5)), 60),
        (lambda _, a, b: torch.addbmm(torch.zeros(3, 5), a, b), ((1, 3, 4), (1, 4, 5)), 60),
        (lambda _, a, b: torch.mv(a[0], b[0]), ((1, 3, 4), (1, 4)), 12),
        (lambda _, a, b: torch.addmv(torch.zeros(3), a[0], b[0]), ((1, 3, 4), (1, 4)), 12),
        (lambda _, a, b: torch.dot(a[0], b[0]), ((1, 4), (1, 4)), 4),
        (lambda _, a, b: torch.einsum("bij,bkj->bik", a, b), ((1, 3, 4), (1, 5, 4)), 60),
    ],
    ids=["baddbmm", "addbmm", "mv", "addmv", "dot", "einsum"],
)
def test_products_without_a_module(function, shapes, macs: int) -> None:
    counts = count(Calls(function), *(torch.zeros(shape) for shape in shapes))
    assert counts.macs == macs
    assert not counts.uncounted


def test_bilinear() -> None:
    counts = count(nn.Bilinear(3, 4, 5), torch.zeros(1, 3), torch.zeros(1, 4))
    assert counts.macs == 5 * 3 * 4 + 5 * 3


@pytest.mark.filterwarnings("ignore")
def test_a_dynamically_quantized_linear_is_counted() -> None:
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(7, 5)), {nn.Linear}, dtype=torch.qint8)
    assert count(model, torch.zeros(1, 3, 7)).macs == 3 * 7 * 5


def test_a_model_that_asks_for_inference_mode_is_counted() -> None:
    layer = nn.Linear(7, 5)

    def inside(_: nn.Module, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return F.scaled_dot_product_attention(layer(x), layer(x), layer(x))

    assert count(Calls(inside), torch.zeros(1, 3, 7)).macs == 3 * (3 * 7 * 5) + 3 * 3 * 10


def test_a_recurrent_weight_is_read_at_every_step() -> None:
    model = nn.LSTM(5, 4, batch_first=True)
    (row,) = [row for row in count(nn.Sequential(model), torch.zeros(1, 6, 5)).rows if row.macs]
    assert dict(row.weights)["0.weight_ih_l0"] == model.weight_ih_l0.numel()
    assert dict(row.weights)["0.weight_hh_l0"] == 6 * model.weight_hh_l0.numel()


def test_operators_without_a_formula_are_listed() -> None:
    model = Calls(lambda _, x: torch.cdist(x, x) + torch.cdist(x, x))
    counts = count(model, torch.zeros(1, 3, 4))
    assert counts.uncounted == {"_cdist_forward": 2}
    assert counts.macs == 0


def test_what_is_done_on_the_way_and_views_have_no_row() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU6(), nn.Flatten(), nn.Linear(8, 3))
    assert [row.operator for row in count(model, torch.zeros(1, 1, 4, 4)).rows] == ["convolution", "addmm"]


def test_an_activation_function_that_follows_no_product_is_traffic() -> None:
    (row,) = count(nn.ReLU(), torch.zeros(1, 10)).rows
    assert (row.kind, row.macs, row.inputs, row.outputs) == (OperatorClass.MEMORY, 0, 10, 10)


def test_a_table_is_read_by_the_rows_that_come_out() -> None:
    (row,) = count(nn.Embedding(1000, 4), torch.zeros(1, 6, dtype=torch.long)).rows
    assert dict(row.weights) == {"weight": 24}


def test_calls_at_one_place_are_one_row() -> None:
    layer = nn.Linear(4, 4)
    (row,) = count(nn.Sequential(layer, layer, layer), torch.zeros(1, 4)).rows
    assert (row.calls, row.macs, dict(row.weights)["0.weight"]) == (3, 48, 48)


def test_the_state_has_tied_tensors_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert count(model, torch.zeros(1, 4)).parameters == 16 + 4 + 4


def test_the_peak_of_a_chain_is_its_widest_pair() -> None:
    widths = [3, 50, 20, 40, 2]
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))
    assert count(model, torch.zeros(1, 3)).peak_activation == 70


def test_a_skipped_block_keeps_its_input_alive() -> None:
    first, block = nn.Linear(3, 50), nn.Sequential(nn.Linear(50, 20), nn.Linear(20, 50))

    def forward(_: nn.Module, x: Tensor) -> Tensor:
        x = first(x)
        return x + block(x)

    assert count(Calls(forward), torch.zeros(1, 3)).peak_activation == 50 + 50 + 50


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count(model, torch.zeros(1, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_hooks_come_off_where_the_model_fails() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError):
        count(model, torch.zeros(1, 5))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_another_thread_that_runs_the_model_is_not_counted() -> None:
    inner = nn.Linear(4, 4)

    def forward(_: nn.Module, x: Tensor) -> Tensor:
        other = threading.Thread(target=inner, args=(torch.zeros(1, 4),))
        other.start()
        other.join()
        return inner(x)

    outer = Calls(forward)
    outer.inner = inner
    (row,) = count(outer, torch.zeros(1, 4)).rows
    assert (row.name, row.calls) == ("inner", 1)


def test_inputs_and_outputs_of_the_whole() -> None:
    counts = count(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten()), torch.zeros(1, 2, 5, 6))
    assert (counts.inputs, counts.outputs) == (math.prod((2, 5, 6)), 3 * 3 * 4)
