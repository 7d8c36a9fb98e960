"""The model as an ONNX graph: exported once (seconds), quantized for a recipe in milliseconds."""

from __future__ import annotations

import ast
import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from workbench.errors import WorkbenchError
from workbench.files import write_atomically
from workbench.grid import Grid, QuantizedLayer
from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.outputs import Output, selected
from workbench.tracing import quiet, tracing

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NAMING = "2"
"""Part of a kept graph's name; to be raised when inputs or states would be named otherwise."""
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""ONNX's order of the gates, as places in torch's."""


class _Place(NamedTuple):
    """Where a node holds a layer's weight."""

    layer: str
    input: int
    transposed: bool


class ExportedGraph:
    """An fp32 graph that knows which of its nodes is which layer of the model."""

    def __init__(self, proto: onnx.ModelProto, layers: Mapping[str, Layer], inputs: Sequence[str]) -> None:
        """
        Args:
            proto: As `from_module` exported it, or a graph of other origin.
            layers: Of the module that was exported, or of the graph.
            inputs: Names of the model's arguments, in their order.
        """
        self.proto = proto
        present = {each.name for each in proto.graph.input}
        self.inputs = tuple(name if name in present else "" for name in inputs)
        """Names of the model's arguments in their order; empty where the output does not depend on one."""
        self._arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        self._layers = layers
        self._places = dict(self._found())
        self._recurrent = dict(self._found_recurrent())

    @classmethod
    def from_module(
        cls,
        model: nn.Module,
        layers: Mapping[str, Layer],
        example: Inputs,
        output: Output = None,
        *,
        ragged: bool = False,
    ) -> ExportedGraph:
        """Export a model, the first dimension of its inputs being free.

        Args:
            model: In evaluation mode.
            layers: Its quantizable layers.
            example: A batch of two: one would be taken for a constant.
            output: Which part of what the model returns is the graph's output.
            ragged: Whether the second dimension is free as well: sequences of different lengths.

        Raises:
            WorkbenchError: torch cannot export the model; its reason is told.
        """
        free = torch.export.Dim.DYNAMIC
        tensors = example.tensors
        shapes = [{0: free, 1: free} if ragged and tensor.dim() > 1 else {0: free} for tensor in tensors]
        try:
            with quiet(), tracing(), torch.random.fork_rng(devices=[]):
                program = torch.onnx.export(
                    _Flat(model, example, output),
                    tensors,
                    dynamo=True,
                    dynamic_shapes={"tensors": tuple(shapes)},
                    input_names=_inputs(tensors),
                    verbose=False,
                )
        except Exception as error:  # the exporter has many kinds
            raise WorkbenchError(
                f"The model cannot be exported to ONNX: {export_reason(error)} Choose the runtime 'eager'."
            ) from error
        if program is None:
            raise WorkbenchError("torch.onnx.export returned nothing; choose the runtime 'eager'.")
        return cls(program.model_proto, layers, _inputs(tensors))

    @classmethod
    def cached(
        cls,
        path: Path,
        model: nn.Module,
        layers: Mapping[str, Layer],
        example: Inputs,
        output: Output = None,
        *,
        ragged: bool = False,
    ) -> ExportedGraph:
        """As `from_module`, but from a file where there is one: an export takes seconds and much memory.

        Args:
            path: Of the file, a checksum and the graph; written whole or not at all, and again where it
                is damaged.
            model: As in `from_module`.
            layers: As in `from_module`.
            example: As in `from_module`.
            output: As in `from_module`.
            ragged: As in `from_module`.

        Raises:
            WorkbenchError: See `from_module`.
        """
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            checksum, content = data[:32], data[32:]
            if hashlib.sha256(content).digest() == checksum:
                return cls(onnx.load_from_string(content), layers, _inputs(example.tensors))
        made = cls.from_module(model, layers, example, output, ragged=ragged)
        with contextlib.suppress(OSError):  # a full or read-only disk costs time at the next start, no more
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, hashlib.sha256(made.fp32()).digest() + made.fp32())
        return made

    def fp32(self) -> bytes:
        """The graph as it was exported."""
        return bytes(self.proto.SerializeToString())

    @property
    def present(self) -> frozenset[str]:
        """Layers that the graph has nodes for; the others run in fp32 whatever a recipe asks."""
        recurrent = {name for names in self._recurrent.values() for name in names}
        return frozenset(place.layer for place in self._places.values()) | recurrent

    def quantized(self, layers: Mapping[str, QuantizedLayer]) -> bytes:
        """The graph with the layers' whole numbers in it, as QDQ nodes that integer kernels replace.

        Args:
            layers: Quantized layers by name; those that are missing here, or in `present`, stay in fp32.
        """
        made = onnx.ModelProto()
        made.CopyFrom(self.proto)
        writer = _Writer()
        for node in made.graph.node:
            place = self._places.get(node.name)
            if place is not None and place.layer in layers:
                layer = layers[place.layer]
                if node.op_type == "Gather":
                    if layer.weight is not None:
                        writer.look_up(node, layer)
                        continue
                else:
                    writer.quantize(node, layer, place)
            elif node.name in self._recurrent:
                writer.round_recurrent(node, self._arrays, self._recurrent[node.name], layers)
            writer.nodes.append(node)
        used = {name for node in writer.nodes for name in node.input}
        kept = [tensor for tensor in made.graph.initializer if tensor.name in used]
        whole = [layer for layer in layers.values() if layer.bias is not None]
        biases = {name: layer for layer in whole for name in (layer.bias_name, _state(layer.bias_name))}
        for tensor in kept:
            # added by a node of its own: the same values as in an integer kernel
            if tensor.name in biases and self._holds_bias(tensor.name, biases[tensor.name].name):
                tensor.CopyFrom(numpy_helper.from_array(biases[tensor.name].bias_values().numpy(), tensor.name))
        del made.graph.node[:], made.graph.initializer[:]
        made.graph.node.extend(writer.nodes)
        made.graph.initializer.extend([*kept, *writer.tensors])
        return bytes(made.SerializeToString())

    def _holds_bias(self, name: str, layer: str) -> bool:
        """Whether the exporter left a layer and its bias as they are in the model."""
        own = self._layers[layer].bias if layer in self.present else None
        return own is not None and np.array_equal(self._arrays[name], own.detach().cpu().numpy())

    def _found(self) -> Iterator[tuple[str, _Place]]:
        """Finds layers by their weights' values, and among equal ones by the scope that the exporter noted."""
        for node in self.proto.graph.node:
            at = 0 if node.op_type == "Gather" else 1
            if node.op_type not in (*PRODUCTS, "Gather"):
                continue
            for index in (at, 1 - at) if node.op_type == "MatMul" else (at,):
                if len(node.input) > index and node.input[index] in self._arrays:
                    held = self._arrays[node.input[index]]
                    matching = [(n, t) for n, layer in self._layers.items() for t in _matches(held, layer)]
                    if matching:
                        name, transposed = max(
                            matching,
                            key=lambda match: (
                                node.input[index] == self._layers[match[0]].weight_name,
                                _nearness(match[0], node),
                            ),
                        )
                        yield node.name, _Place(name, index, transposed)
                        break

    def _likeness(self, layer: str, node: onnx.NodeProto, index: int) -> tuple[bool, int]:
        return node.input[index] == self._layers[layer].weight_name, _nearness(layer, node)

    def _found_recurrent(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Recurrent nodes, and the layers whose rows their two weights hold."""
        sites = {layer.sites[0]: layer.kind for layer in self._layers.values() if layer.kind in GATES and layer.sites}
        taken: dict[str, int] = {}
        for node in self.proto.graph.node:
            if node.op_type not in GATES:
                continue
            site = max(sites, key=lambda name: _nearness(name, node), default=None)
            if site is None or sites[site] != node.op_type:
                continue
            depth = taken.get(site, 0)
            taken[site] = depth + 1
            directions = self._arrays[node.input[1]].shape[0] if node.input[1] in self._arrays else 1
            names = tuple(
                f"{site}.weight_{part}_l{depth}{suffix}"
                for part in ("ih", "hh")
                for suffix in ("", "_reverse")[:directions]
            )
            if all(name in self._layers for name in names):
                yield node.name, names


class _Flat(nn.Module):
    """A model that takes its arguments one after the other and returns the tensor that is measured."""

    def __init__(self, model: nn.Module, example: Inputs, output: Output) -> None:
        super().__init__()
        self.model = model
        self._positional = len(example.positional)
        self._named = tuple(example.named)
        self._output = output

    def forward(self, *tensors: Tensor) -> Tensor:
        named = dict(zip(self._named, tensors[self._positional :], strict=True))
        return selected(self.model(*tensors[: self._positional], **named), self._output)


def export_reason(error: Exception) -> str:
    """The first sentence of what the exporter says, of the innermost error that says something."""
    told = error
    while told.__cause__ is not None and str(told.__cause__).strip():
        told = told.__cause__  # type: ignore[assignment]
    text = str(told).strip().splitlines()
    return text[0][:300] if text else type(error).__name__


def _inputs(arguments: Sequence[Tensor]) -> list[str]:
    return [f"input_{index}" for index in range(len(arguments))]


def _state(name: str) -> str:
    """Of a tensor in the model's state, its name in the graph."""
    return f"model.{name}"


def _matches(held: NDArray[Any], layer: Layer) -> Iterator[bool]:
    """Whether an array is a layer's weight: nothing, or whether it is transposed."""
    if layer.weight is None:
        return
    if tuple(held.shape) not in (layer.shape, layer.shape[::-1]):
        return
    own = layer.weight.detach().cpu().numpy()
    if held.shape == own.shape and np.array_equal(held, own):
        yield False
    elif own.ndim == 2 and held.shape == own.T.shape and np.array_equal(held, own.T):
        yield True


def _nearness(name: str, node: onnx.NodeProto) -> int:
    """How well a layer's name fits the scopes that the exporter noted at a node."""
    noted = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
    scopes = [str(scope) for scope in ast.literal_eval(noted)]
    return max((len(scope) for scope in scopes if f"{_state(name)}.".startswith(f"{scope}.")), default=0)


class _Writer:
    """Collects the nodes and initializers of a quantized graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def quantize(self, node: onnx.NodeProto, layer: QuantizedLayer, place: _Place) -> None:
        """Put QDQ nodes before a node's inputs."""
        if layer.activation_grid is not None:
            other = 1 - place.input
            node.input[other] = self._activation(node, other, layer.activation_grid)
        grid, q = layer.weight_grid, layer.weight
        if q is not None and isinstance(grid, Grid) and grid.integer:
            axis = grid.axis
            if place.transposed:
                q, axis = q.T, None if axis is None else 1 - axis
            node.input[place.input] = self._dequantized(f"{node.name}.weight", q, grid.scale, grid.zero_point, axis)
        elif q is not None and grid is not None:
            values = grid.dequantize(q)  # no integer kernel could follow
            values = values.T if place.transposed else values
            node.input[place.input] = self._tensor(f"{node.name}.weight", values.contiguous().numpy())
        if layer.bias is not None and len(node.input) > 2 and layer.bias.is_floating_point():
            node.input[2] = self._tensor(f"{node.name}.bias", layer.bias.numpy())
        elif layer.bias is not None and len(node.input) > 2:
            scale = layer.bias_scale
            axis = None if scale.dim() == 0 else 0
            if axis == 0:
                scale = scale.repeat(len(layer.bias) // len(scale))
            zero = torch.zeros_like(scale, dtype=torch.int32)
            node.input[2] = self._dequantized(f"{node.name}.bias", layer.bias, scale, zero, axis)

    def look_up(self, node: onnx.NodeProto, layer: QuantizedLayer) -> None:
        """Look up whole numbers and their scales: to dequantize a whole table at every call would take long."""
        grid = layer.weight_grid
        if layer.weight is None or grid is None:
            raise ValueError(f"{layer.name} has no whole-number weights")
        name, indices = node.name, node.input[1]
        if not isinstance(grid, Grid) or not grid.integer:
            node.input[0] = self._tensor(f"{name}.weight", grid.dequantize(layer.weight).contiguous().numpy())
            self.nodes.append(node)
            return
        table = self._tensor(f"{name}.weight.q", layer.weight.contiguous().numpy())
        self._node("Gather", [table, indices], f"{name}.q")
        scale = self._tensor(f"{name}.weight.scale", grid.scale.numpy())
        zero = self._tensor(f"{name}.weight.zero_point", grid.zero_point.numpy().astype(np.float32))
        if grid.axis is not None:
            last = self._tensor(f"{name}.last", np.array([-1], np.int64))
            scale, zero = (self._row(each, indices, last) for each in (scale, zero))
        self._node("Cast", [f"{name}.q"], f"{name}.float", to=onnx.TensorProto.FLOAT)
        self._node("Sub", [f"{name}.float", zero], f"{name}.centred")
        self.nodes.append(helper.make_node("Mul", [f"{name}.centred", scale], list(node.output), name=name))

    def _row(self, values: str, indices: str, last: str) -> str:
        self._node("Gather", [values, indices], f"{values}.row")
        self._node("Unsqueeze", [f"{values}.row", last], f"{values}.column")
        return f"{values}.column"

    def round_recurrent(
        self,
        node: onnx.NodeProto,
        arrays: Mapping[str, NDArray[Any]],
        names: tuple[str, ...],
        layers: Mapping[str, QuantizedLayer],
    ) -> None:
        """Round the weights of a recurrent node, which has no integer kernel, and its input."""
        order, half = GATES[node.op_type], len(names) // 2
        for index, part in ((1, names[:half]), (2, names[half:])):
            rows = arrays[node.input[index]].copy()  # (directions, gates * hidden, inputs)
            for direction, name in enumerate(part):
                layer = layers.get(name)
                if layer is not None and layer.weight is not None and layer.weight_grid is not None:
                    gates = np.split(layer.weight_grid.dequantize(layer.weight).numpy(), len(order))
                    rows[direction] = np.concatenate([gates[gate] for gate in order])
            node.input[index] = self._tensor(f"{node.name}.{index}", rows)
        first = layers.get(names[0])
        if first is not None and first.activation_grid is not None:
            node.input[0] = self._activation(node, 0, first.activation_grid)

    def _activation(self, node: onnx.NodeProto, index: int, grid: Grid) -> str:
        name = f"{node.name}.input"
        whole = np.int8 if grid.quant_min < 0 else np.uint8
        scale = self._tensor(f"{name}.scale", grid.scale.numpy())
        zero = self._tensor(f"{name}.zero_point", grid.zero_point.numpy().astype(whole))
        self._node("QuantizeLinear", [node.input[index], scale, zero], f"{name}.q")
        quantized = f"{name}.q"
        ends = np.iinfo(whole)
        if (grid.quant_min, grid.quant_max) != (ends.min, ends.max):
            # QuantizeLinear saturates at 8 bits. Clipping the whole numbers, not the floats before them,
            # leaves the layer before free to become an integer kernel
            low = self._tensor(f"{name}.low", np.array(grid.quant_min, whole))
            high = self._tensor(f"{name}.high", np.array(grid.quant_max, whole))
            self._node("Clip", [quantized, low, high], f"{name}.clipped")
            quantized = f"{name}.clipped"
        self._node("DequantizeLinear", [quantized, scale, zero], f"{name}.dq")
        return f"{name}.dq"

    def _dequantized(self, name: str, q: Tensor, scale: Tensor, zero: Tensor, axis: int | None) -> str:
        inputs = [
            self._tensor(f"{name}.q", q.contiguous().numpy()),
            self._tensor(f"{name}.scale", scale.numpy()),
            self._tensor(f"{name}.zero_point", zero.to(q.dtype).numpy()),
        ]
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        self._node("DequantizeLinear", inputs, name, **attributes)
        return name

    def _tensor(self, name: str, array: NDArray[Any]) -> str:
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
