"""How large the shipped file of a mix is, from arithmetic: each layer is packed once, a mix never.

A safetensors file is eight bytes of length, a JSON header padded to a multiple of eight, and the tensors, ordered
by the size of their numbers and then by name (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from torch import Tensor

from workbench.delivery.artifact import FORMAT, pack_layer
from workbench.network import Network
from workbench.planning.sensitivity import Asked
from workbench.quantization.quantizer import LayerSpec

NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e8m0fnu": "F8_E8M0",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "complex64": "C64",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
"""What safetensors calls torch's types, in the order of its `Dtype`: the last come first in a file."""
ORDER = {name: place for place, name in enumerate(NAMES.values())}


class Shape(NamedTuple):
    """A tensor without its values."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


class Packed(NamedTuple):
    """A layer in the file, without the values."""

    tensors: Mapping[str, Shape]
    about: Mapping[str, Any]
    activation: bool


class Sizes:
    """Bytes of any mix of one network."""

    def __init__(self, network: Network) -> None:
        """
        Args:
            network: Whose layers are packed when they are first asked for.
        """
        self._network = network
        self._state = {name: _shape(tensor) for name, tensor in network.state.items()}
        form = asdict(network.form)
        self._form = {"form": json.dumps(form, separators=(",", ":"))} if any(form.values()) else {}
        self._packed: dict[tuple[str, LayerSpec], Packed] = {}

    def total(self, asked: Asked, recipe_json: str) -> int:
        """Bytes of the file, exactly.

        Args:
            asked: What is asked of each layer.
            recipe_json: The recipe's text, which is in the file.
        """
        packed = {name: self._of(name, spec) for name, spec in asked.items() if any(spec)}
        tensors = dict(self._state)
        for layer in packed.values():
            tensors |= layer.tensors
        activations = sum(layer.activation for layer in packed.values())
        if activations:
            tensors["activations"] = Shape("F32", (activations, 2), 8 * activations)
        about = json.dumps({name: layer.about for name, layer in packed.items()}, separators=(",", ":"))
        return file_bytes(tensors, {"format": FORMAT, "recipe": recipe_json, "layers": about, **self._form})

    def layer(self, name: str, spec: LayerSpec) -> int:
        """Bytes of one layer's tensors in the file."""
        layer = self._network.layers[name]
        own = {key: self._state[key] for key in (layer.weight_name, layer.bias_name) if key in self._state}
        tensors = own | (dict(self._of(name, spec).tensors) if any(spec) else {})
        return sum(tensor.bytes for tensor in tensors.values())

    def _of(self, name: str, spec: LayerSpec) -> Packed:
        """The weights are packed once for each bit-width, not for each pair with an activation's."""
        if (name, spec) not in self._packed:
            layer = self._network.quantizer.layer(name, spec)
            if spec.weight is None or spec.activation is None:
                packed = pack_layer(layer)
                tensors, about = {key: _shape(tensor) for key, tensor in packed.tensors.items()}, packed.about
            else:
                alone = self._of(name, spec._replace(activation=None))
                rest = pack_layer(replace(layer, weight=None, weight_grid=None))
                tensors = {**alone.tensors, **{key: _shape(tensor) for key, tensor in rest.tensors.items()}}
                about = {**alone.about, **rest.about}
            self._packed[name, spec] = Packed(tensors, about, layer.activation_grid is not None)
        return self._packed[name, spec]


def file_bytes(tensors: Mapping[str, Shape], metadata: Mapping[str, str]) -> int:
    """Length of a safetensors file.

    Args:
        tensors: By name.
        metadata: What the header says beside them.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-ORDER[item[1].dtype], item[0].encode()))
    offset, entries = 0, [f'"__metadata__":{{{",".join(_pairs(metadata))}}}'] if metadata else []
    for name, tensor in ordered:
        end = offset + tensor.bytes
        shape = ",".join(map(str, tensor.shape))
        entries.append(f'{_text(name)}:{{"dtype":"{tensor.dtype}","shape":[{shape}],"data_offsets":[{offset},{end}]}}')
        offset = end
    header = len(",".join(entries).encode()) + 2
    return 8 + math.ceil(header / 8) * 8 + offset


def _pairs(metadata: Mapping[str, str]) -> Iterable[str]:
    return (f"{_text(name)}:{_text(value)}" for name, value in metadata.items())


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shape(tensor: Tensor) -> Shape:
    dtype = NAMES[str(tensor.dtype).removeprefix("torch.")]
    return Shape(dtype, tuple(tensor.shape), tensor.numel() * tensor.element_size())
