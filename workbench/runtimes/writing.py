"""Nodes and initializers that put a recipe's numbers into an exported graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor

from workbench.grid import Grid, QuantizedLayer
from workbench.grids.base import spread
from workbench.runtimes import dynamic

GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""ONNX's order of the gates, as places in torch's."""


class Place(NamedTuple):
    """Where a node holds a layer's weight."""

    layer: str
    input: int
    transposed: bool


def points(grid: Grid) -> tuple[float, float, int, int]:
    """What an activation's grid consists of: two that are equal here round alike."""
    return float(grid.scale), float(grid.zero_point), grid.quant_min, grid.quant_max


def container(grid: Grid) -> type[np.int8 | np.uint8]:
    """The 8-bit type that holds an activation's whole numbers."""
    return np.int8 if grid.quant_min < 0 else np.uint8


class Writer:
    """Collects the nodes and initializers of a quantized graph: plain ONNX, as onnxruntime likes it."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.domains: dict[str, int] = {}
        """Versions of operator sets beyond ONNX's own."""
        self.taken: set[str] = set()
        """Values whose range is taken at each call, and what was made of these."""
        self._activations: dict[tuple[Any, ...], str] = {}

    def look(self, graph: onnx.GraphProto, rounded: Iterable[tuple[str, Grid]]) -> None:
        """See the whole graph before a node is written.

        Args:
            graph: In fp32.
            rounded: Values that arrive at layers that round them, with the grids.
        """

    def pass_on(self, node: onnx.NodeProto) -> None:
        """A node that is not a layer, or will be written as one next."""

    def multiplies_whole(self, node: onnx.NodeProto, layer: QuantizedLayer) -> bool:  # noqa: ARG002 - for runtimes that know
        """Whether an integer kernel may take a layer's node, as far as is known; else its weights are unpacked when
        the graph is loaded. In plain ONNX they are dequantized in any case, as everybody knows that form."""
        return True

    def quantize(self, node: onnx.NodeProto, layer: QuantizedLayer, place: Place) -> None:
        """Put QDQ nodes before a node's inputs."""
        if layer.dynamic is not None:
            if dynamic.integer_product(self, node, layer, place):
                return
            node.input[1 - place.input] = dynamic.rounded(self, node.input[1 - place.input])
        if layer.activation_grid is not None:
            other = 1 - place.input
            node.input[other] = self.activation(node.input[other], layer.activation_grid)
        grid, q = layer.weight_grid, layer.weight
        if q is not None and isinstance(grid, Grid) and grid.integer:
            axis = grid.axis
            if place.transposed:
                q, axis = q.T, None if axis is None else 1 - axis
            put = self._dequantized if self.multiplies_whole(node, layer) else self._unpacked
            node.input[place.input] = put(f"{node.name}.weight", q, grid.scale, grid.zero_point, axis)
        elif q is not None and grid is not None:
            values = grid.dequantize(q)  # no integer kernel could follow
            values = values.T if place.transposed else values
            node.input[place.input] = self._tensor(f"{node.name}.weight", values.contiguous().numpy())
        floating = layer.bias is not None and (layer.bias.is_floating_point() or not self.multiplies_whole(node, layer))
        if layer.bias is not None and len(node.input) > 2 and floating:
            node.input[2] = self._tensor(f"{node.name}.bias", layer.bias_values().numpy())
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
            node.input[0] = self.activation(node.input[0], first.activation_grid)
        elif first is not None and first.dynamic is not None:
            node.input[0] = dynamic.rounded(self, node.input[0])

    def activation(self, value: str, grid: Grid) -> str:
        """A value moved to its grid; layers that share it and the grid share the nodes.

        Returns:
            The name of the rounded value.
        """
        key = (value, *points(grid))
        if key not in self._activations:
            self._activations[key] = self.rounded(f"{value}.input{len(self._activations)}", value, grid)
        return self._activations[key]

    def add(
        self,
        node: onnx.NodeProto,
        grids: Sequence[Grid | None],
        reach: Callable[[str], float | None],  # noqa: ARG002 - for runtimes that have to know
    ) -> None:
        """Put the operands of a sum on their grids.

        Args:
            node: The addition.
            grids: Of its inputs; None leaves one as it is.
            reach: Tells, of a value that a quantized layer makes, which magnitude it cannot exceed.
        """
        for index, grid in enumerate(grids):
            if grid is not None:
                node.input[index] = self.activation(node.input[index], grid)

    def rounded(self, name: str, value: str, grid: Grid) -> str:
        """Write the nodes that round a value.

        Args:
            name: For the nodes; nothing else has it.
            value: What is rounded.
            grid: Of the activation, so one scale.

        Returns:
            The name of the rounded value.
        """
        quantized, scale, zero = self._whole(name, value, grid)
        whole = container(grid)
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

    def _whole(self, name: str, value: str, grid: Grid) -> tuple[str, str, str]:
        """A value as whole numbers, saturated at 8 bits, and the names of its scale and zero point."""
        scale = self._tensor(f"{name}.scale", grid.scale.numpy())
        zero = self._tensor(f"{name}.zero_point", grid.zero_point.numpy().astype(container(grid)))
        self._node("QuantizeLinear", [value, scale, zero], f"{name}.q")
        return f"{name}.q", scale, zero

    def _dequantized(self, name: str, q: Tensor, scale: Tensor, zero: Tensor, axis: int | None) -> str:
        inputs = [
            self._tensor(f"{name}.q", q.contiguous().numpy()),
            self._tensor(f"{name}.scale", scale.numpy()),
            self._tensor(f"{name}.zero_point", zero.to(q.dtype).numpy()),
        ]
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        self._node("DequantizeLinear", inputs, name, **attributes)
        return name

    def _unpacked(self, name: str, q: Tensor, scale: Tensor, zero: Tensor, axis: int | None) -> str:
        """As `_dequantized`, by operators that runtimes fold to a constant when they load the graph."""
        whole = self._tensor(f"{name}.q", q.contiguous().numpy())
        self._node("Cast", [whole], f"{name}.float", to=onnx.TensorProto.FLOAT)
        centre = self._tensor(f"{name}.zero_point", spread(zero.float(), q.shape, axis, 0).numpy())
        self._node("Sub", [f"{name}.float", centre], f"{name}.centred")
        step = self._tensor(f"{name}.scale", spread(scale.float(), q.shape, axis, 0).numpy())
        self._node("Mul", [f"{name}.centred", step], name)
        return name

    def _tensor(self, name: str, array: NDArray[Any]) -> str:
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
