"""From what a runtime calls its kernels to the nodes that were exported, and from these to the model's layers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import onnx

from workbench.runtimes.graph import ExportedGraph

SCOPES = "pkg.torch.onnx.name_scopes"
PRODUCTS = ("Conv", "Gemm", "MatMul", "FullyConnected")
"""In the names of kernels that multiply by weights."""
MOVING = ("MaxPool", "Relu", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity")
"""Operators that only choose or move values."""


class Origin(NamedTuple):
    """Where a kernel comes from."""

    name: str
    """Of its layers, or of the operator where it has none."""
    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    """Operators of the exported graph that it computes, itself first."""


class Origins:
    """Knows the exported graph."""

    def __init__(self, graph: ExportedGraph) -> None:
        """
        Args:
            graph: Before it was quantized; its nodes keep their names in the quantized one.
        """
        self._nodes = {node.name: node for node in graph.proto.graph.node}
        self._holders = graph.holders
        self._layers = {layer for layers in self._holders.values() for layer in layers}
        self._producers = {output: node.name for node in self._nodes.values() for output in node.output}
        held = {tensor.name for tensor in graph.proto.graph.initializer}
        self._weights = {each: name for name in self._holders for each in self._nodes[name].input if each in held}
        # longest first, so that node_conv2d_1 is not taken for node_conv2d
        self._known = sorted({**{name: name for name in self._nodes}, **self._producers}.items(), key=_length)

    def found(self, kernels: Sequence[tuple[str, str]], tensors: Mapping[str, Sequence[str]]) -> list[Origin]:
        """Where kernels come from.

        Args:
            kernels: Names and kinds, in the order in which they run.
            tensors: What a kernel reads, by its name, where the runtime tells it: weights say most.
        """
        anchors = [self._anchor(name, kind, tensors.get(name, ())) for name, kind in kernels]
        fused: dict[str, list[str]] = {anchor: [] for anchor in anchors if anchor is not None}
        for name, node in self._nodes.items():
            if name not in fused:  # it has no kernel of its own: it is within the one before it
                before = self._before(node, fused)
                if before is not None:
                    fused[before].append(node.op_type)
        return [self._origin(anchor, name, kind, fused) for anchor, (name, kind) in zip(anchors, kernels, strict=True)]

    def _anchor(self, name: str, kind: str, read: Iterable[str]) -> str | None:
        """The exported node that a kernel stands for; none for what the runtime has put between two."""
        for tensor in read:
            if tensor in self._weights:
                return self._weights[tensor]
            written = re.fullmatch(r"(.+)\.(weight|bias)(\.\w+)?", tensor)  # by the writer of quantized graphs
            if written and written[1] in self._holders:
                return written[1]
        plain = name.removeprefix("fused ")
        for known, node in self._known:
            if plain == known or re.match(re.escape(known) + r"(/|_token_\d+$|_nchwc$|_nhwc$)", plain):
                return self._product(node) if any(part in kind for part in PRODUCTS) else node
        return None

    def _product(self, name: str) -> str:
        """A fused kernel can be called by its last operator: the product that it begins with."""
        at = name
        while at not in self._holders and self._nodes[at].input:
            if self._nodes[at].op_type in PRODUCTS:  # of activations
                return name
            before = self._producers.get(self._nodes[at].input[0])
            if before is None:
                return name
            at = before
        return at

    def _before(self, node: onnx.NodeProto, fused: Mapping[str, object]) -> str | None:
        seen = set()
        waiting = [tensor for tensor in node.input if tensor in self._producers]
        while waiting:
            name = self._producers[waiting.pop(0)]
            if name in fused:
                return name
            if name not in seen:
                seen.add(name)
                waiting += [tensor for tensor in self._nodes[name].input if tensor in self._producers]
        return None

    def _rounded_for(self, name: str) -> tuple[str, ...]:
        """Layers whose input a kernel puts on its grid: the writer calls it by the value that it rounds."""
        written = re.fullmatch(r"(.+)\.input\d+\.\w+", name)
        waiting, found = [written[1]] if written else [], dict[str, None]()
        while waiting:
            value = waiting.pop()
            for node in self._nodes.values():
                if value in node.input and node.name in self._holders:
                    found |= dict.fromkeys(self._holders[node.name])
                elif value in node.input and node.op_type in MOVING:  # rounding before it and after it is the same
                    waiting += node.output
        return tuple(found)

    def _origin(self, anchor: str | None, name: str, kind: str, fused: Mapping[str, Sequence[str]]) -> Origin:
        if anchor is None:
            layers = self._rounded_for(name)
            return Origin(", ".join(layers) or name, layers, (kind,))
        node = self._nodes[anchor]
        scope = _scope(node)
        own = (scope,) if scope in self._layers else ()  # adds its bias, say
        layers = self._holders.get(anchor, own)
        return Origin(", ".join(layers) or scope, layers, (node.op_type, *fused[anchor]))


def _scope(node: onnx.NodeProto) -> str:
    """The module that a node was exported from: ``pool1``; the node's own name where that is not noted."""
    noted = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "")
    try:
        scopes = [str(scope) for scope in ast.literal_eval(noted)] if noted else []
    except (ValueError, SyntaxError):
        scopes = []
    if len(scopes) < 2:
        return node.name
    module = re.sub(r"^model\.?", "", scopes[-2])  # the exporter's wrapper
    return module if module and not module.startswith("_") else node.name  # the exporter's own


def _length(item: tuple[str, str]) -> int:
    return -len(item[0])
