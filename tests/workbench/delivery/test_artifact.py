"""What is packed comes back bit for bit; what is damaged is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import Quantization, WorkbenchError
from workbench.delivery import artifact
from workbench.grid import Grid
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import specs

INPUTS = Inputs(torch.rand(30, 2, 6, 6, generator=torch.Generator().manual_seed(0)))

NOWHERE = Path("nowhere")  # nothing here is exported


def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(2, 5, 3),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.ConvTranspose2d(5, 4, 2, groups=1),
        nn.Flatten(),
        nn.Linear(100, 7, bias=False),
    )
    for name, value in (("running_mean", torch.randn(5)), ("running_var", torch.rand(5) + 0.5)):
        getattr(made[1], name).copy_(value)
    return made


NETWORK = Network(model(), INPUTS, 1, NOWHERE)
SCHEMES = ["symmetric", "affine", "midrise", "power_of_two", "codebook", "float", "float_wide", "mx"]
bits = st.none() | st.integers(2, 8)
quantizations = st.builds(
    Quantization,
    weight_bits=bits,
    activation_bits=bits,
    scheme=st.sampled_from(SCHEMES),
    granularity=st.sampled_from(["tensor", "channel", "group"]),
    group_size=st.sampled_from([3, 8, 200]),
    range=st.sampled_from(["minmax", "mse", "hessian"]),
    method=st.sampled_from(["nearest", "naive", "gptq"]),
    correction=st.sampled_from(["none", "bias"]),
)


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=50), st.sampled_from([0, -4, -128]))
def test_bits_come_back_and_take_no_more_room_than_they_need(n: int, values: list[int], lowest: int) -> None:
    lowest = max(lowest, -(2 ** (n - 1)))
    q = torch.tensor([value % 2**n + lowest for value in values])
    packed = artifact.pack_bits(q, n, lowest)
    assert len(packed) == -(-len(values) * n // 8)
    assert torch.equal(artifact.unpack_bits(packed, n, lowest, (len(values),), torch.int16), q.to(torch.int16))


def test_the_bit_order_is_the_documented_one() -> None:
    packed = artifact.pack_bits(torch.tensor([1, 2, 3, 4]), 3, 0)
    stream = sum(value << (3 * index) for index, value in enumerate([1, 2, 3, 4]))
    assert packed.numpy().tobytes() == stream.to_bytes(2, "little")


@settings(deadline=None)
@given(quantizations)
def test_a_model_from_the_file_computes_what_was_simulated(quantization: Quantization) -> None:
    asked = specs(quantization, NETWORK.layers)
    read = artifact.read(NETWORK.artifact(quantization, "{}"))
    assert read.recipe == "{}"
    shipped = model()
    shipped.load_state_dict(read.state, strict=True)
    if quantization.activation_bits is None:
        expected = NETWORK.simulation.run(INPUTS, asked)
        with torch.inference_mode():
            made = INPUTS.call(shipped.eval())
        assert torch.allclose(made, expected, rtol=1e-4, atol=1e-5)  # a BatchNorm that does nothing rounds once more
    for name, layer in NETWORK.quantized(asked).items():
        again = read.layers[name]
        for one, other in ((layer.weight_grid, again.weight_grid), (layer.activation_grid, again.activation_grid)):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert (one.kind, one.bits, one.axis, one.group) == (other.kind, other.bits, other.axis, other.group)
                assert one.code_span == other.code_span
                for mine, read_ in zip(one.stored().tensors.values(), other.stored().tensors.values(), strict=True):
                    assert torch.equal(mine, read_)
        if layer.weight is not None:
            assert torch.equal(layer.weight_grid.dequantize(layer.weight), again.weight_grid.dequantize(again.weight))
        assert layer.weight is None or torch.equal(layer.weight, again.weight)
        if layer.bias is not None and layer.bias.is_floating_point():
            assert torch.equal(layer.bias, read.state[layer.bias_name])
        elif layer.bias is not None:
            assert torch.equal(layer.bias, again.bias)


def test_lower_bits_make_a_smaller_file() -> None:
    sizes = [len(NETWORK.artifact(Quantization(weight_bits=n, activation_bits=8), "{}")) for n in range(2, 9)]
    assert sizes == sorted(sizes)
    assert sizes[-1] - sizes[0] >= (2 * 5 * 9 + 5 * 4 * 4 + 700) * 6 // 8 - 20


def test_layer_bytes_add_up_to_the_file_without_its_header() -> None:
    quantization = Quantization(weight_bits=5, activation_bits=8)
    data = NETWORK.artifact(quantization, "{}")
    body = len(data) - 8 - int.from_bytes(data[:8], "little")
    assert not any(name.startswith("1.") for name in NETWORK.state)  # the BatchNorm is folded
    activations = 3 * 2 * 4
    assert sum(row.bytes for row in NETWORK.rows(quantization)) + activations == body


def damaged(seed: int, data: bytes) -> bytes:
    draw = random.Random(seed)
    raw = bytearray(data)
    kind = draw.randrange(4)
    if kind == 0:
        return bytes(raw[: draw.randrange(len(raw))])
    if kind == 1:
        for _ in range(draw.randrange(1, 20)):
            raw[draw.randrange(min(len(raw), 1200))] = draw.randrange(256)
    elif kind == 2:
        raw[:8] = draw.randrange(2**64).to_bytes(8, "little")
    else:
        raw = bytearray(draw.randbytes(draw.randrange(400)))
    return bytes(raw)


@pytest.mark.parametrize("scheme", ["affine", "codebook", "float", "mx"])
def test_damaged_files_are_read_or_refused_in_words(scheme: str) -> None:
    data = NETWORK.artifact(Quantization(weight_bits=3, activation_bits=8, scheme=scheme, granularity="group"), "{}")
    refused = 0
    for seed in range(60):
        try:
            artifact.read(damaged(seed, data))
        except WorkbenchError as error:
            refused += 1
            assert "damaged" in str(error)
    assert refused > 20


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"grid":"float"', b'"grid":"flute"'),
        (b'"format":[2,1]', b'"format":[9,1]'),
        (b'"group":32', b'"group":-2'),
        (b'"group":32', b'"group":3'),
        (b'"weight":[4,0,', b'"weight":[4,7,'),
    ],
)
def test_a_grid_that_does_not_fit_its_weight_is_refused(before: bytes, after: bytes) -> None:
    data = NETWORK.artifact(Quantization(weight_bits=4, scheme="float", granularity="group"), "{}")
    before, after = (each.replace(b'"', rb"\"") for each in (before, after))
    assert before in data
    with pytest.raises(WorkbenchError, match="damaged"):
        artifact.read(data.replace(before, after))


def test_a_file_from_before_there_were_other_grids_is_read() -> None:
    """The header as it was written then, byte for byte."""
    about = json.dumps({"5": {"weight": [2, -2, 1, 0, [7, 100]], "input": [8, 0, 255]}}, separators=(",", ":"))
    tensors = {
        "5.weight": artifact.pack_bits(torch.randint(-2, 2, (7, 100)), 2, -2),
        "5.weight.scale": torch.rand(7) + 0.1,
        "activations": torch.tensor([[0.5, 3.0]]),
    }
    data = safetensors.torch.save(tensors, {"format": "acceleration-workbench/2", "recipe": "{}", "layers": about})
    layer = artifact.read(data).layers["5"]
    assert isinstance(layer.weight_grid, Grid)
    assert torch.equal(layer.weight_grid.scale, tensors["5.weight.scale"])
    assert torch.equal(artifact.pack_bits(layer.weight, 2, -2), tensors["5.weight"])


def test_a_shape_that_needs_terabytes_is_refused_before_it_is_made() -> None:
    data = NETWORK.artifact(Quantization(weight_bits=2), "{}")
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(rb"[5,2,3,3]", rb"[5,9999999999,3,3]")
    with pytest.raises(WorkbenchError, match="damaged"):
        artifact.read(len(header).to_bytes(8, "little") + header + data[8 + length :])


def test_foreign_files_are_refused() -> None:
    with pytest.raises(WorkbenchError, match="no artifact"):
        artifact.read(np.random.default_rng(0).bytes(1000))
