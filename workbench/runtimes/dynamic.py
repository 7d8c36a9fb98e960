"""ONNX nodes that take the range of a layer's input anew at every call, and multiply whole numbers after that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper

from workbench.grid import Grid, QuantizedLayer

if TYPE_CHECKING:
    from workbench.runtimes.writing import Place, Writer

RUNNING = ("onnxruntime", "eager")
"""Runtimes that take such layers; eager leaves inputs as they are, whatever is asked, and says so."""
PRODUCTS = {"MatMul": "MatMulInteger", "Gemm": "MatMulInteger", "Conv": "ConvInteger"}
PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0}
"""What a Gemm has to say to be a plain product."""


def refusal(runtime: str) -> str | None:
    """Why a runtime cannot run layers whose ranges are taken at each call, in words; None where it can."""
    if runtime in RUNNING:
        return None
    return (
        f"{runtime} has no kernels here that take the range of activations at each call; choose onnxruntime, or "
        "ranges that are calibrated."
    )


def in_words(note: str | None, layers: Mapping[str, QuantizedLayer]) -> str | None:
    """A note on what runs, with what a reader has to know of ranges that are taken at each call."""
    if not any(layer.dynamic for layer in layers.values()):
        return note
    said = "Ranges of activations are taken anew at each call; the examples of its batch share them."
    return f"{note} {said}" if note else said


def integer_product(writer: Writer, node: onnx.NodeProto, layer: QuantizedLayer, place: Place) -> bool:
    """Write a product of whole numbers in the place of a node, which becomes the last of several.

    Args:
        writer: Gets the others.
        node: A product with a layer's weight.
        layer: With a range that is taken at each call.
        place: Where the node holds the weight.

    Returns:
        Whether there is an operator for it; if not, nothing was written.
    """
    told: dict[str, Any] = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    whole = layer.centred
    grid = layer.weight_grid
    across = place.transposed if node.op_type == "MatMul" else place.transposed != bool(told.get("transB", 0))
    plain = all(told.get(name, value) == value for name, value in PLAIN.items())
    if whole is None or not isinstance(grid, Grid) or node.op_type not in PRODUCTS or not plain or place.input != 1:
        return False
    name, conv = node.name, node.op_type == "Conv"
    if not conv and not across and grid.axis is not None:
        return False  # its scales run along the sums
    scales = grid.scale.numpy().astype(np.float32)
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and layer.bias is not None:
        bias = writer._tensor(f"{name}.bias", layer.bias_values().numpy())
    quantized, scale, zero = arriving(writer, node.input[0])
    if conv:  # onnxruntime multiplies planes by numbers without sign only
        weight: NDArray[Any] = (whole.to(torch.int16) + 128).to(torch.uint8).numpy()
        scales, off = scales.reshape((-1, *[1] * (weight.ndim - 2))), np.array(128, np.uint8)
        attributes = told
    else:
        weight, off, attributes = (whole.T if across else whole).numpy(), np.array(0, np.int8), {}
    weights = writer._tensor(f"{name}.weight.q", weight)
    factor = writer._tensor(f"{name}.weight.scale", scales)
    zeros = writer._tensor(f"{name}.weight.zero_point", off)
    writer._node(PRODUCTS[node.op_type], [quantized, weights, zero, zeros], f"{name}.sums", **attributes)
    writer._node("Cast", [f"{name}.sums"], f"{name}.float", to=onnx.TensorProto.FLOAT)
    writer._node("Mul", [scale, factor], f"{name}.scale")
    last = ["Mul", f"{name}.float", f"{name}.scale"]
    if bias:
        writer._node("Mul", last[1:], f"{name}.product")
        if conv:
            shape = writer._tensor(f"{name}.bias.shape", np.array([-1, *[1] * (weight.ndim - 2)], np.int64))
            writer._node("Reshape", [bias, shape], f"{name}.bias.planes")
            bias = f"{name}.bias.planes"
        last = ["Add", f"{name}.product", bias]
    node.CopyFrom(helper.make_node(last[0], last[1:], list(node.output), name=name))
    return True


def arriving(writer: Writer, value: str) -> tuple[str, str, str]:
    """A value as whole numbers, and its scale and zero point; written once, whoever reads it."""
    names = tuple(f"{value}.dynamic.{part}" for part in ("q", "scale", "zero_point"))
    if value not in writer.taken:
        writer.taken.add(value)
        made = helper.make_node("DynamicQuantizeLinear", [value], list(names), name=f"{value}.dynamic")
        writer.nodes.append(made)
    return names[0], names[1], names[2]


def rounded(writer: Writer, value: str) -> str:
    """A value moved to its own grid, in floating point."""
    name = f"{value}.dynamic.dq"
    if name not in writer.taken:
        writer.taken.add(name)
        writer._node("DequantizeLinear", list(arriving(writer, value)), name)
    return name
