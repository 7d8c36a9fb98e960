"""The model as an ONNX graph: exported once (seconds), quantized for a recipe in milliseconds."""

from __future__ import annotations

import ast
import contextlib
import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from workbench.errors import WorkbenchError
from workbench.files import write_atomically
from workbench.grid import Grid, QuantizedLayer
from workbench.inputs import Inputs
from workbench.layers import SUM, Layer
from workbench.outputs import Output, selected
from workbench.quantization.sums import OPERANDS
from workbench.runtimes.writing import GATES, Place, Writer
from workbench.tracing import quiet, tracing

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NAMING = "4"
"""Part of a kept graph's name; to be raised when another graph would be made."""


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
        self._sums = dict(self._found_sums())

    def __reduce__(self) -> tuple[Any, ...]:
        """What it was made from is enough for another process."""
        return type(self), (self.proto, self._layers, self.inputs)

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
        tensors = tuple(tensor.contiguous() for tensor in example.tensors)
        shapes = [{0: free, 1: free} if ragged and tensor.dim() > 1 else {0: free} for tensor in tensors]
        try:
            with quiet(), tracing(), torch.random.fork_rng(devices=[]):
                program = torch.onnx.export(
                    Flat(_contiguous(model), example, output),
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
        return frozenset(place.layer for place in self._places.values()) | recurrent | self.operands

    @property
    def operands(self) -> frozenset[str]:
        """Those layers that are operands of sums, and so no products."""
        return frozenset(name for names in self._sums.values() for name in names)

    @property
    def holders(self) -> dict[str, tuple[str, ...]]:
        """Layers of the model by the names of the nodes that hold their weights."""
        return {**{node: (place.layer,) for node, place in self._places.items()}, **self._recurrent}

    def quantized(self, layers: Mapping[str, QuantizedLayer], writer: Writer | None = None) -> bytes:
        """The graph with the layers' whole numbers in it, as QDQ nodes that integer kernels replace.

        Args:
            layers: Quantized layers by name; those that are missing here, or in `present`, stay in fp32.
            writer: How a runtime likes them written; by default as plain ONNX.
        """
        made = onnx.ModelProto()
        made.CopyFrom(self.proto)
        writer = writer or Writer()
        writer.look(made.graph, self._rounded(made.graph.node, layers))
        for node in made.graph.node:
            writer.pass_on(node)
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
            elif node.name in self._sums:
                writer.add(node, self._added(node, layers), lambda value: self._reach(value, layers))
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
        made.opset_import.extend(
            onnx.helper.make_opsetid(domain, version) for domain, version in writer.domains.items()
        )
        return bytes(made.SerializeToString())

    def _rounded(
        self, nodes: Iterable[onnx.NodeProto], layers: Mapping[str, QuantizedLayer]
    ) -> Iterator[tuple[str, Grid]]:
        """Values that arrive at layers that round them, with the grids."""
        for node in nodes:
            place = self._places.get(node.name)
            layer = layers.get(place.layer) if place is not None else None
            if place is not None and layer is not None and layer.activation_grid is not None:
                yield node.input[1 - place.input], layer.activation_grid
            for value, grid in zip(node.input, self._added(node, layers), strict=False):
                if grid is not None:
                    yield value, grid

    def _added(self, node: onnx.NodeProto, layers: Mapping[str, QuantizedLayer]) -> list[Grid | None]:
        """The grids of a sum's operands."""
        return [layers[n].activation_grid if n in layers else None for n in self._sums.get(node.name, ())]

    def _reach(self, value: str, layers: Mapping[str, QuantizedLayer]) -> float | None:
        """The largest magnitude of what a layer gives whose weights and input lie on grids; None of anything else."""
        node = next((node for node in self.proto.graph.node if value in node.output), None)
        layer = layers.get(self._places[node.name].layer) if node is not None and node.name in self._places else None
        if layer is None or layer.weight is None or layer.weight_grid is None or layer.activation_grid is None:
            return None
        arriving = layer.activation_grid
        ends = (torch.tensor([arriving.quant_min, arriving.quant_max]) - arriving.zero_point) * arriving.scale
        weights = layer.weight_grid.dequantize(layer.weight).abs().flatten(1).sum(1)
        bias = layer.bias_values() if layer.bias is not None else self._layers[layer.name].bias
        return float((weights * ends.abs().max()).max() + (0.0 if bias is None else bias.abs().max()))

    def _holds_bias(self, name: str, layer: str) -> bool:
        """Whether the exporter left a layer and its bias as they are in the model."""
        own = self._layers[layer].bias if layer in self.present else None
        return own is not None and np.array_equal(self._arrays[name], own.detach().cpu().numpy())

    def _found(self) -> Iterator[tuple[str, Place]]:
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
                        yield node.name, Place(name, index, transposed)
                        break

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

    def _found_sums(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Additions whose operands are layers, by the scope that the exporter noted, and these."""
        sites = {layer.sites[0].rpartition(".")[0] for layer in self._layers.values() if layer.kind == SUM}
        for node in self.proto.graph.node:
            if node.op_type == "Add":
                own = {scope.removeprefix(_state("")) for scope in _scopes(node)}
                for site in sites & own:
                    yield node.name, tuple(f"{site}.{operand}" for operand in OPERANDS)


class Flat(nn.Module):
    """A model that takes its arguments one after the other and returns the tensor that is measured."""

    def __init__(self, model: nn.Module, example: Inputs, output: Output) -> None:
        super().__init__()
        self.model = model
        self._positional = len(example.positional)
        self._named = tuple(example.named)
        self._output = output

    def forward(self, *tensors: Tensor) -> Tensor:
        """The tensor that is measured."""
        named = dict(zip(self._named, tensors[self._positional :], strict=True))
        return selected(self.model(*tensors[: self._positional], **named), self._output)


def _contiguous(model: nn.Module) -> nn.Module:
    """The model with its weights laid out as ONNX has them: others reach the graph as strided views of values."""
    if all(parameter.is_contiguous() for parameter in model.parameters()):
        return model
    return copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


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
    return max((len(scope) for scope in _scopes(node) if f"{_state(name)}.".startswith(f"{scope}.")), default=0)


def _scopes(node: onnx.NodeProto) -> list[str]:
    """Modules that a node was exported from, the outermost first, as the exporter noted them."""
    noted = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
    return [str(scope) for scope in ast.literal_eval(noted)]
