"""An ONNX graph as a `torch.fx.GraphModule`: weighted operators as modules, the rest as calls.

Every operator is a torch function of its inputs; whether it is computed at import (all inputs are
constants) or recorded (`torch.fx.Proxy`) follows from what it is given. Nothing is traced globally,
so other threads may run models meanwhile.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor, fx, nn
from torch.fx import Proxy

from workbench.loading import onnx_operators, onnx_recurrent, onnx_shapes, onnx_spatial
from workbench.loading.onnx_bounds import BoundedSizes
from workbench.loading.onnx_layers import FUNCTIONAL, LAYERS
from workbench.loading.onnx_shapes import SIZE_OPERATORS, TAKES_SIZES, sizes_as_tensor
from workbench.loading.onnx_values import DTYPES, Node, Untranslatable, Value, attributes, sizes, tensor
from workbench.loading.onnx_weights import Weights

OPERATORS: dict[str, Callable[..., Any]] = {
    **onnx_operators.OPERATORS,
    **onnx_shapes.OPERATORS,
    **onnx_spatial.OPERATORS,
    **onnx_recurrent.OPERATORS,
    **FUNCTIONAL,
}
LARGEST_VALUE = 2**28  # bytes of one value; a small hostile file can declare any size
LARGEST_TOTAL = 2**29  # bytes of everything that is computed at import

Types = Mapping[str, tuple[int, Sequence[int | str | None] | None]]


def convert(proto: onnx.ModelProto, types: Types) -> fx.GraphModule:
    """Translate a graph whose operators all have a torch form.

    Args:
        proto: As `read_onnx` returns it, checked.
        types: Per value, its ONNX element type and inferred sizes.

    Returns:
        A module in evaluation mode, one argument per graph input, which returns a tensor, or a tuple
        of tensors where the graph has several outputs.

    Raises:
        Untranslatable: An operator has no torch form here.
    """
    largest = max(LARGEST_VALUE, 2 * max((_bytes(entry) for entry in proto.graph.initializer), default=0))
    with torch.no_grad(), BoundedSizes(largest):
        return _Conversion(proto, types).run()


def _bytes(entry: TensorProto) -> int:
    return entry.ByteSize() * (2 if entry.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) else 1)


class _Tracer(fx.proxy.GraphAppendingTracer):
    """Puts constants that an operator meets into the module."""

    def __init__(self, graph: fx.Graph, keep: Callable[[Tensor], fx.Node]) -> None:
        super().__init__(graph)
        self._keep = keep

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            return self._keep(a)
        if isinstance(a, np.integer):
            return int(a)
        return super().create_arg(a)


class _Conversion:
    """The state of one translation. It is the `Builder` that operators see."""

    def __init__(self, proto: onnx.ModelProto, types: Types) -> None:
        self._graph_proto = proto.graph
        self._opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
        self._types = types
        self._weights = Weights(proto.graph)
        self._graph = fx.Graph()
        self._tracer = _Tracer(self._graph, self._kept)
        self._values: dict[str, Value] = {}
        self._fused: str | None = None  # output of the Add that the layer being made takes in
        self._computed = 0
        self._protos = {entry.name: entry for entry in self._graph_proto.initializer}
        self._uses = Counter(name for node in self._graph_proto.node for name in node.input)
        self._uses.update(value.name for value in self._graph_proto.output)
        self._consumers = {name: node for node in self._graph_proto.node for name in node.input}
        self._current = onnx.NodeProto()

    def run(self) -> fx.GraphModule:
        inputs = [value for value in self._graph_proto.input if value.name not in self._protos]
        if not inputs:
            raise Untranslatable("The graph has no inputs.")
        for value in inputs:
            if not value.type.HasField("tensor_type"):
                raise Untranslatable(f"The input {value.name!r} is no tensor.")
            name = self._argument(value.name)
            self._values[value.name] = Proxy(self._graph.placeholder(name), self._tracer)
        first = self._values[inputs[0].name]
        self._device = first.device
        self._batch = self._declared_batch(inputs)
        for node in self._graph_proto.node:
            if not node.output or node.output[0] not in self._values:  # it may be fused already
                self._translate(node)
        outputs = [self.lift(self._value(value.name)) for value in self._graph_proto.output]
        self._graph.output(tuple(output.node for output in outputs) if len(outputs) > 1 else outputs[0].node)
        module = fx.GraphModule(self._weights.root, self._graph, "OnnxGraph")
        return module.eval()

    def _argument(self, name: str) -> str:
        clean = re.sub(r"\W", "_", name, flags=re.ASCII)[:64] or "input"
        clean = clean if clean[0].isalpha() or clean[0] == "_" else f"input_{clean}"
        taken = {node.target for node in self._graph.nodes}
        while keyword.iskeyword(clean) or clean in ("self", "torch", "device", "inf", "nan") or clean in taken:
            clean += "_"
        return clean

    def _declared_batch(self, inputs: Sequence[onnx.ValueInfoProto]) -> int | None:
        firsts = {value.type.tensor_type.shape.dim[0].dim_value for value in inputs if value.type.tensor_type.shape.dim}
        return firsts.pop() if len(firsts) == 1 and 0 not in firsts else None

    def _value(self, name: str) -> Value:
        if name == "":
            return None
        if name not in self._values:
            if name not in self._protos:
                raise Untranslatable(f"The value {name!r} is not made by any operator.")
            self._values[name] = found = tensor(self._protos[name])
            self._weights.remember(found, name)
        return self._values[name]

    def _translate(self, proto: onnx.NodeProto) -> None:
        op = proto.op_type
        if proto.domain not in ("", "ai.onnx") or (op not in OPERATORS and op not in LAYERS):
            raise Untranslatable(f"The operator {op} has no torch form here.")
        self._current, self._fused = proto, None
        inputs = [self._value(name) for name in proto.input]
        node = self._node(proto)
        try:
            result = self._result(node, inputs)
        except Untranslatable:
            raise
        except Exception as error:  # a hostile or a rare graph; what torch said is the best account there is
            raise Untranslatable(f"The operator {op} could not be put into torch: {str(error)[:200]}") from error
        results = result if isinstance(result, tuple) else (result,)
        for name, value in zip(proto.output, results, strict=False):
            self._values[name] = self._settled(value)
        if self._fused is not None:
            self._values[self._fused] = results[0]
        matrix = op == "Transpose" and isinstance(inputs[0], Tensor) and inputs[0].ndim == 2
        if matrix and tuple(node.get("perm", (1, 0))) == (1, 0):
            self._weights.remember_transpose(result, inputs[0])

    def _node(self, proto: onnx.NodeProto) -> Node:
        types = [self._types.get(name) for name in proto.input]
        return Node(
            op=proto.op_type,
            name=proto.name,
            attributes=attributes(proto),
            opset=self._opset,
            inputs=tuple(proto.input),
            outputs=max((place + 1 for place, name in enumerate(proto.output) if self._uses[name]), default=1),
            shapes=tuple(self._shape(name, entry) for name, entry in zip(proto.input, types, strict=True)),
            dtypes=tuple(self._dtype(name, entry) for name, entry in zip(proto.input, types, strict=True)),
            batch=self._batch,
            build=self,
        )

    def _shape(self, name: str, entry: Any) -> tuple[int | str | None, ...] | None:
        value = self._values.get(name)
        if isinstance(value, Tensor):
            return tuple(value.shape)
        return tuple(entry[1]) if entry is not None and entry[1] is not None else None

    def _dtype(self, name: str, entry: Any) -> torch.dtype | None:
        value = self._values.get(name)
        if isinstance(value, Tensor):
            return value.dtype
        return DTYPES.get(entry[0]) if entry is not None else None

    def _result(self, node: Node, inputs: list[Value]) -> Any:
        if any(isinstance(value, np.ndarray) for value in inputs):
            arrays = [self._as_sizes(value) for value in inputs]
            whole = node.op != "Cast" or node.get("to") in (TensorProto.INT64, TensorProto.INT32)
            if node.op == "Cast" and whole:
                return inputs[0]
            if node.op in SIZE_OPERATORS and all(array is not None for array in arrays):
                return SIZE_OPERATORS[node.op](node, *arrays)
            kept = TAKES_SIZES.get(node.op, frozenset())
            inputs = [
                self.lift(value) if isinstance(value, np.ndarray) and place not in kept else value
                for place, value in enumerate(inputs)
            ]
        known = all(value is None or isinstance(value, Tensor) for value in inputs)
        if node.op in LAYERS and not known:
            result = LAYERS[node.op](node, *inputs)
            if result is not None:
                return result
        if node.op not in OPERATORS:
            raise Untranslatable(f"The operator {node.op} with weights that are computed has no torch form here.")
        return OPERATORS[node.op](node, *inputs)

    def _as_sizes(self, value: Value) -> Value:
        """As an array of integers; None for an activation, and for fractions."""
        if isinstance(value, Tensor):
            whole = not value.is_floating_point() and value.ndim < 2 and value.numel() < 1000
            return sizes(value.flatten().tolist(), scalar=value.ndim == 0) if whole else None
        return value if isinstance(value, np.ndarray) else None

    def _settled(self, value: Value) -> Value:
        """Sizes that turned out to be known are a constant like any other."""
        if isinstance(value, np.ndarray) and not any(isinstance(item, Proxy) for item in value.flat):
            held = list(value.flat)
            value = torch.tensor(held, dtype=None if held else torch.int64).reshape(value.shape)
        if isinstance(value, Tensor):
            self._computed += value.numel() * value.element_size()
            if self._computed > LARGEST_TOTAL + 4 * sum(map(_bytes, self._protos.values())):
                raise Untranslatable("The constants of the graph are too large to compute here.")
        return value

    # what operators ask for ----------------------------------------------------------------------

    def lift(self, value: Value) -> Proxy:
        """See `Builder.lift`."""
        if isinstance(value, Tensor):
            return Proxy(self._kept(value), self._tracer)
        if isinstance(value, np.ndarray):
            whole = self.call(sizes_as_tensor, list(value.flat))
            return whole.reshape(()) if value.ndim == 0 else whole
        return value

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Proxy:
        """See `Builder.call`."""
        made = self._tracer.create_proxy("call_function", function, args, {**kwargs, "device": self._device})
        made.node.meta["is_wrapped"] = True  # it sees no tensor, by which a tracer would know it
        return made

    def fuse(self, bias_size: int) -> Tensor | None:
        """See `Builder.fuse`."""
        output = self._current.output[0]
        follower = self._consumers.get(output)
        if self._uses[output] != 1 or follower is None or follower.op_type != "Add" or follower.domain:
            return None
        other = next((name for name in follower.input if name != output), None)
        if other is None or not (other in self._protos or isinstance(self._values.get(other), Tensor)):
            return None
        bias = self._value(other)
        if bias.shape != (bias_size,) or not bias.is_floating_point():
            return None
        self._fused = follower.output[0]
        return bias

    def transposed(self, weight: Tensor) -> Tensor | None:
        """See `Builder.transposed`."""
        return self._weights.transposed(weight)

    def layer(
        self, node: Node, make: Callable[[], nn.Module], weights: Mapping[str, Tensor], inputs: Sequence[Value]
    ) -> Proxy:
        """See `Builder.layer`."""
        path = self._weights.module(self._current, node, make, weights)
        return self._tracer.create_proxy("call_module", path, tuple(map(self._lift_deep, inputs)), {})

    def _lift_deep(self, value: Value) -> Any:
        return tuple(map(self._lift_deep, value)) if isinstance(value, tuple) else self.lift(value)

    def _kept(self, value: Tensor) -> fx.Node:
        """A constant as a node of the graph."""
        path, turned = self._weights.place(value)
        stored = self._graph.get_attr(path)
        return self._graph.call_method("t", (stored,)) if turned else stored
