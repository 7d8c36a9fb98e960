"""What the translation of an ONNX graph works on: nodes, and three kinds of values.

* a `Tensor`: known at import. Operators on nothing but these are computed there and then.
* a `Proxy`: an activation. Operators on these are recorded in the `torch.fx` graph.
* `Sizes`: an array of integers, some of them recorded (``x.size(0)``). ONNX computes shapes with
  tensors, torch with integers; keeping them apart keeps the batch free and the module exportable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn
from torch.fx import Proxy

Sizes = NDArray[np.object_]
Value = Any  # Tensor | Proxy | Sizes | None (an input that is left out)

# half precision is computed in single: the workbench's reference is fp32
DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float32,
    TensorProto.BFLOAT16: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}


class Untranslatable(Exception):  # noqa: N818 - not an error: the graph is then run as it is
    """A node has no torch form here; the text is a sentence that says why."""


class Builder(Protocol):
    """What the translation of one operator may ask of the graph that is built."""

    def lift(self, value: Value) -> Any:
        """Any value as a recorded one: a tensor becomes a parameter or a buffer of the module."""
        ...

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Proxy:
        """Record a call that makes a tensor out of sizes alone."""
        ...

    def layer(
        self, node: Node, make: Callable[[], nn.Module], weights: Mapping[str, Tensor], inputs: Sequence[Value]
    ) -> Any:
        """Record a call of a module with these weights, made once however often it is called."""
        ...

    def fuse(self, bias_size: int) -> Tensor | None:
        """The constant vector that is added to the current node's output and to nothing else; its Add is then done."""
        ...

    def transposed(self, weight: Tensor) -> Tensor | None:
        """The transpose; None where the weight is already a parameter in its own layout, and must stay one."""
        ...


@dataclass(frozen=True)
class Node:
    """One ONNX node, read for translation.

    Attributes:
        op: Operator type.
        attributes: As Python values: numbers, strings, tuples, tensors.
        opset: Version of the default domain.
        shapes: Per input, the inferred sizes (a number, a symbol or None each), or None.
        dtypes: Per input, the inferred dtype or None.
        outputs: Number of outputs, trailing unused ones not counted.
        batch: The number that the graph's inputs declare as their first size; None where it is symbolic.
    """

    op: str
    name: str
    attributes: Mapping[str, Any]
    opset: int
    inputs: tuple[str, ...]
    outputs: int
    shapes: tuple[tuple[int | str | None, ...] | None, ...]
    dtypes: tuple[torch.dtype | None, ...]
    batch: int | None
    build: Builder

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def rank(self, place: int = 0) -> int:
        """The number of dimensions of an input.

        Raises:
            Untranslatable: It does not follow from the graph.
        """
        shape = self.shapes[place] if place < len(self.shapes) else None
        if shape is None:
            raise Untranslatable(f"The rank of the input of {self.op} does not follow from the graph.")
        return len(shape)

    def integers(self, place: int = 0) -> bool:
        """Whether an input is known to hold integers."""
        dtype = self.dtypes[place]
        return dtype is not None and not dtype.is_floating_point

    def axes(self, given: Value, name: str = "axes") -> tuple[int, ...] | None:
        """Axes from an input (newer opsets) or an attribute (older ones)."""
        found = numbers(given) if given is not None else self.get(name)
        if found is None:
            return None
        return tuple(int(axis) for axis in found)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node, text decoded and tensors as `Tensor`; graphs are left out."""
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            continue
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif isinstance(value, TensorProto):
            value = tensor(value)
        elif not isinstance(value, int | float):
            value = tuple(item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in value)
        found[attribute.name] = value
    return found


def tensor(proto: TensorProto) -> Tensor:
    """A constant as a tensor of its own memory; half precision as float32.

    Raises:
        Untranslatable: torch has no such data type.
    """
    if proto.data_type not in DTYPES:
        raise Untranslatable(f"The constant {proto.name!r} has a data type that torch does not compute with.")
    array = onnx.numpy_helper.to_array(proto)
    if proto.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array, order="C"))


def numbers(value: Value) -> list[Any]:
    """The integers of a constant or of sizes, flat; recorded ones among them stay as they are.

    Raises:
        Untranslatable: They depend on the data.
    """
    if isinstance(value, Tensor):
        if value.numel() > 10_000:
            raise Untranslatable("A shape or a list of axes has more than 10,000 entries.")
        return value.flatten().tolist()
    if isinstance(value, np.ndarray):
        return list(value.flat)
    raise Untranslatable("A shape, an index or an axis depends on the data.")


def number(value: Value) -> Any:
    """One number, of a constant or of sizes.

    Raises:
        Untranslatable: It depends on the data, or it is not one.
    """
    found = numbers(value)
    if len(found) != 1:
        raise Untranslatable("A single number was expected in the graph, and there are several.")
    return found[0]


def sizes(items: Sequence[Any], scalar: bool = False) -> Sizes:
    """An array of sizes; elementwise, for numpy would try to read a recorded one as a sequence."""
    array = np.empty(len(items), dtype=object)
    for place, item in enumerate(items):
        array[place] = item
    return array.reshape(()) if scalar else array
