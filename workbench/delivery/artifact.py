"""The file that is shipped: a safetensors file with n-bit weights packed bit by bit.

Layout, for a layer ``fc1`` on grids: ``fc1.weight`` is uint8, the weights' whole numbers from the
grid's lowest, n bits each, least significant bit first, the last byte filled with zeros; of a
mid-rise grid, on which every whole number is odd, every second one has a code. Beside it is what
the grid needs: ``fc1.weight.scale``, float32, bfloat16 for groups, int8 or uint8 for exponents of
two (the latter E8M0, with a bias of 127); where one is not zero, ``fc1.weight.zero_point``; the
``fc1.weight.values`` of a codebook, float16. Floating-point weights are their bit patterns.
``fc1.bias`` is int32 where integer kernels run. ``activations`` holds scale and zero point of every
activation grid, one row each. All other tensors are stored as they are. The JSON in the header
has what is needed to read them, the recipe, and how to undo what was rewritten before quantizing
(BatchNorm folded, joint projections split, tied tensors stored once).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.form import Form
from workbench.grid import Grid, QuantizedLayer
from workbench.grids import GRIDS, AnyGrid, DynamicGrid, Stored
from workbench.grids.even import check_range

FORMAT = "acceleration-workbench/2"
PARTS = ("scale", "zero_point", "values")
"""What a grid can have beside its weight."""


@dataclass(frozen=True, eq=False)
class PackedLayer:
    """One layer as it lies in the file; packed once, assembled often."""

    layer: QuantizedLayer
    tensors: Mapping[str, Tensor]
    """By their names in the file."""
    about: Mapping[str, Any]
    """What the header says of it."""


@dataclass(frozen=True, eq=False)
class Artifact:
    """What a file held."""

    state: dict[str, Tensor]
    """Every tensor of the model in floating point, ready for `load_state_dict`."""
    layers: dict[str, QuantizedLayer]
    recipe: str
    """The recipe's JSON text."""


def pack_bits(q: Tensor, bits: int, lowest: int, stride: int = 1) -> Tensor:
    """Whole numbers as a stream of bits.

    Args:
        q: Whole numbers from lowest to lowest + (2^bits - 1) * stride, any shape.
        bits: 1 to 8.
        lowest: What is stored as 0.
        stride: The distance of those that occur: 2 where all are odd.

    Returns:
        uint8, shape (ceil(q.numel() * bits / 8),).
    """
    shifted = ((q.flatten().to(torch.int16) - lowest) // stride).to(torch.uint8).numpy()
    if bits == 8:
        return torch.from_numpy(shifted.copy())
    spread = np.unpackbits(shifted[:, None], axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(spread, bitorder="little"))


def unpack_bits(
    packed: Tensor, bits: int, lowest: int, shape: tuple[int, ...], dtype: torch.dtype, stride: int = 1
) -> Tensor:
    """The reverse of `pack_bits`."""
    count = math.prod(shape)
    spread = np.unpackbits(packed.numpy(), count=count * bits, bitorder="little").reshape(count, bits)
    values = np.packbits(spread, axis=1, bitorder="little")[:, 0]
    return (torch.from_numpy(values).to(torch.int16) * stride + lowest).to(dtype).reshape(shape)


def pack_layer(layer: QuantizedLayer) -> PackedLayer:
    """Pack a layer's whole numbers."""
    tensors: dict[str, Tensor] = {}
    about: dict[str, Any] = {}
    if layer.weight is not None and layer.weight_grid is not None:
        grid = layer.weight_grid
        name = layer.weight_name
        tensors[name] = pack_bits(layer.weight, grid.bits, *grid.code_span)
        stored = grid.stored()
        tensors |= {f"{name}.{part}": tensor for part, tensor in stored.tensors.items()}
        more = dict(stored.about)
        about["weight"] = [grid.bits, *more.pop("range", ()), grid.axis, list(layer.weight.shape)]
        about |= more if grid.kind == Grid.kind else {"grid": grid.kind, **more}
    if layer.bias is not None:
        tensors[layer.bias_name] = layer.bias
    names = (layer.weight_name, layer.bias_name if layer.bias is not None else "")
    if names[0] and names != _usual(layer.name, layer.bias is not None):
        about["names"] = names
    if (grid_ := layer.activation_grid) is not None:
        about["input"] = [grid_.bits, grid_.quant_min, grid_.quant_max]
    if layer.dynamic is not None:
        about["dynamic"] = layer.dynamic.bits
    return PackedLayer(layer, tensors, about)


def assemble(
    state: Mapping[str, Tensor], packed: Mapping[str, PackedLayer], recipe: str, form: Form | None = None
) -> bytes:
    """The file.

    Args:
        state: Every tensor of the fp32 model.
        packed: Packed layers by name; they take the place of their tensors in `state`.
        recipe: JSON text.
        form: How `state` differs from that of the model, if it does.
    """
    tensors = dict(state)
    activations = []
    for layer in packed.values():
        tensors |= layer.tensors
        if (grid := layer.layer.activation_grid) is not None:
            activations.append([float(grid.scale), float(grid.zero_point)])
    if activations:
        tensors["activations"] = torch.tensor(activations, dtype=torch.float32)
    about = {name: layer.about for name, layer in packed.items()}
    header = {"format": FORMAT, "recipe": recipe, "layers": json.dumps(about, separators=(",", ":"))}
    if form is not None and any(asdict(form).values()):
        header["form"] = json.dumps(asdict(form), separators=(",", ":"))
    return safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()}, header)


def layer_bytes(state: Mapping[str, Tensor], packed: PackedLayer | None) -> int:
    """Bytes of one layer's tensors in the file.

    Args:
        state: The layer's fp32 tensors by their names in the file.
        packed: The layer on its grids; None in fp32.
    """
    tensors = dict(state) | (dict(packed.tensors) if packed else {})
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def read(data: bytes) -> Artifact:
    """Read what `assemble` made; nothing in it is executed.

    Raises:
        WorkbenchError: Truncated, altered or foreign data.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])["__metadata__"]
        if header["format"] != FORMAT:
            raise ValueError(f"its format is {header['format']!r}, not {FORMAT!r}")
        about = json.loads(header["layers"])
        tensors = safetensors.torch.load(data)
        rows = iter(tensors.pop("activations", torch.zeros(0, 2)))
        layers = {name: _layer(name, parts, tensors, rows) for name, parts in about.items()}
        beside = {f"{layer.weight_name}.{part}" for layer in layers.values() for part in PARTS}
        state = {name: tensor for name, tensor in tensors.items() if name not in beside}
        for layer in layers.values():
            state |= layer.parameters()
        form = Form(**json.loads(header.get("form", "{}")))
        return Artifact(form.restored(state), layers, header["recipe"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, StopIteration) as error:
        raise _refused(error) from error
    except (SafetensorError, RuntimeError, OverflowError, RecursionError, MemoryError) as error:
        raise _refused(error) from error


def _usual(layer: str, bias: bool) -> tuple[str, str]:
    """Names of most layers' weight and whole-number bias."""
    return f"{layer}.weight", f"{layer}.bias" if bias else ""


def _refused(error: BaseException) -> WorkbenchError:
    return WorkbenchError(f"This is no artifact of the workbench, or it is damaged ({error!r:.200}). Export it again.")


def _layer(name: str, about: dict[str, Any], tensors: dict[str, Tensor], rows: Any) -> QuantizedLayer:
    weight = weight_grid = activation_grid = None
    usual = _usual(name, f"{name}.bias" in tensors and {"weight", "input"} <= about.keys())
    weight_name, bias_name = map(str, about.get("names", usual))
    if "weight" in about:
        weight, weight_grid = _weight(weight_name, about, tensors)
    if "input" in about:
        bits, low, high = about["input"]
        check_range(bits, low, high)
        scale, zero = next(rows)
        activation_grid = Grid(scale.clone(), zero.to(torch.int32), low, high, bits)
    bias = tensors[bias_name] if bias_name and weight_grid is not None else None
    integer = weight_grid is not None and weight_grid.integer and activation_grid is not None
    if bias is not None and not bias.is_floating_point() and not integer:
        raise ValueError(f"{bias_name} is in whole numbers, and what is added to it is not")
    if about.get("dynamic", DynamicGrid.bits) != DynamicGrid.bits or ("dynamic" in about and "input" in about):
        raise ValueError(f"the input of {name} is on a grid that there is not")
    dynamic = DynamicGrid() if "dynamic" in about else None
    return QuantizedLayer(name, weight, weight_grid, activation_grid, bias, weight_name, bias_name, dynamic)


def _weight(name: str, about: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[Tensor, AnyGrid]:
    bits, *span, axis, shape = about["weight"]
    kind, packed = about.get("grid", Grid.kind), tensors[name]
    if kind not in GRIDS:
        raise ValueError(f"{name} lies on a grid of kind {kind!r:.40}")
    if not isinstance(bits, int) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"{name} has {bits!r:.40} bits and the shape {shape!r:.40}")
    if packed.dtype != torch.uint8 or packed.dim() != 1 or -(-math.prod(shape) * bits // 8) != len(packed):
        raise ValueError(f"{name} has {len(packed)} bytes, which is not {bits} bits for {shape}")
    parts = {part: tensors[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in tensors}
    stored = Stored(parts, {**about, "range": span})
    grid = GRIDS[kind].restored(bits, axis, tuple(shape), stored)
    lowest, stride = grid.code_span
    q = unpack_bits(packed, bits, lowest, tuple(shape), grid.dtype, stride)
    grid.check_codes(q)
    return q, grid
