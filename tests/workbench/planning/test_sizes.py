"""The arithmetic of a file's length against the file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import Quantization, Recipe, Task
from workbench.network import Network
from workbench.planning.sizes import NAMES, Sizes, _shape, file_bytes
from workbench.quantization.quantizer import specs

sys.path.insert(0, str(Path(__file__).parent))
from small import Pooled, classifier

bits = st.none() | st.integers(2, 8)


class Named(nn.Module):
    """Batch normalisation that is folded, an attention that is split, and a name that JSON has to escape."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.add_module('größe "a"', nn.Linear(36, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).flatten(2)
        x = getattr(self, 'größe "a"')(x)
        return self.attention(x, x, x)[0].flatten(1)


def network(kind: str, folder: Path) -> Network:
    torch.manual_seed(1)
    if kind == "tied":
        task, model = Task.fidelity(torch.randint(1, 20, (30, 5))), Pooled()
    else:
        task, model = Task.fidelity(torch.randn(30, 1, 8, 8)), Named().eval() if kind == "named" else classifier()
    return Network(model, task.calibration, len(task), folder, None)


NETWORKS: dict[str, tuple[Network, Sizes]] = {}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    kind=st.sampled_from(["plain", "tied", "named"]),
    scheme=st.sampled_from(["symmetric", "affine", "midrise", "power_of_two", "codebook", "float", "float_wide", "mx"]),
    granularity=st.sampled_from(["tensor", "channel", "group"]),
    correction=st.sampled_from(["none", "bias"]),
    common=st.tuples(bits, bits),
)
def test_it_is_the_length_of_the_file(
    tmp_path: Path,
    data: st.DataObject,
    kind: str,
    scheme: str,
    granularity: str,
    correction: str,
    common: tuple[int | None, int | None],
) -> None:
    if kind not in NETWORKS:
        made = network(kind, tmp_path)
        NETWORKS[kind] = made, Sizes(made)
    made, sizes = NETWORKS[kind]
    fields = st.fixed_dictionaries({}, optional={"weight_bits": bits, "activation_bits": bits})
    layers = data.draw(st.dictionaries(st.sampled_from(list(made.layers)), fields))
    quantization = Quantization(
        weight_bits=common[0],
        activation_bits=common[1],
        scheme=scheme,  # type: ignore[arg-type]
        granularity=granularity,  # type: ignore[arg-type]
        range="minmax",
        correction=correction,  # type: ignore[arg-type]
        layers=layers,
    )
    text = Recipe(quantization=quantization).to_json()
    asked = specs(quantization, made.layers)
    assert sizes.total(asked, text) == len(made.artifact(quantization, text))
    assert [sizes.layer(name, asked[name]) for name in made.layers] == [r.bytes for r in made.rows(quantization)]


def test_every_type_of_number_is_in_its_place() -> None:
    tensors = {}
    for place, name in enumerate(NAMES):
        try:
            tensors[f"t{place:02}"] = torch.zeros(3 + place, 2).to(getattr(torch, name))
            safetensors.torch.save({"t": tensors[f"t{place:02}"]})
        except (AttributeError, KeyError, RuntimeError, TypeError, safetensors.SafetensorError):
            tensors.pop(f"t{place:02}", None)  # an older library does not have it
    assert len(tensors) > 8
    metadata = {"format": "x", "text": 'a "quoted"\n\\ word\t\x01é'}
    shapes = {name: _shape(tensor) for name, tensor in tensors.items()}
    assert file_bytes(shapes, metadata) == len(safetensors.torch.save(tensors, metadata))


@pytest.mark.parametrize("count", range(1, 12))
def test_the_header_is_padded(count: int) -> None:
    tensors = {f"name{index}" * count: torch.zeros(index, dtype=torch.uint8) for index in range(1, count + 1)}
    shapes = {name: _shape(tensor) for name, tensor in tensors.items()}
    assert file_bytes(shapes, {"a": "b" * count}) == len(safetensors.torch.save(tensors, {"a": "b" * count}))
