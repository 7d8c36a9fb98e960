"""The model as an ONNX graph: exported once (seconds), quantized for a recipe in milliseconds."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from workbench.errors import WorkbenchError
from workbench.files import write_atomically
from workbench.grid import Grid, QuantizedLayer
from workbench.tracing import tracing

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class ExportedGraph:
    """An fp32 graph that knows which of its nodes is which layer of the model."""

    def __init__(self, proto: onnx.ModelProto, model: nn.Module) -> None:
        """
        Args:
            proto: As `torch.onnx.export` made it from `model`.
            model: The module that was exported.
        """
        self.proto = proto
        self._arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        self._layers = dict(self._matches(model))
        """Node name -> layer name and whether the graph holds the weight transposed."""

    @classmethod
    def from_module(cls, model: nn.Module, example: Tensor) -> ExportedGraph:
        """Export a model, the first dimension of its input being free.

        Args:
            model: In evaluation mode.
            example: A batch of two: one would be taken for a constant.

        Raises:
            WorkbenchError: torch cannot export the model; its reason is told.
        """
        quiet = logging.getLogger("torch.onnx")
        level = quiet.level
        quiet.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings(), tracing():
                warnings.simplefilter("ignore")
                shapes = ({0: torch.export.Dim.DYNAMIC},)
                program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False)
        except Exception as error:  # the exporter has many kinds
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise WorkbenchError(
                f"The model cannot be exported to ONNX: {reason} Choose the runtime 'eager'."
            ) from error
        finally:
            quiet.setLevel(level)
        if program is None:
            raise WorkbenchError("torch.onnx.export returned nothing; choose the runtime 'eager'.")
        return cls(program.model_proto, model)

    @classmethod
    def cached(cls, path: Path, model: nn.Module, example: Tensor) -> ExportedGraph:
        """As `from_module`, but from a file where there is one: an export takes seconds and much memory.

        Args:
            path: Of the file, a checksum and the graph; written whole or not at all, and again where it
                is damaged.
            model: In evaluation mode.
            example: A batch of two.

        Raises:
            WorkbenchError: See `from_module`.
        """
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            checksum, content = data[:32], data[32:]
            if hashlib.sha256(content).digest() == checksum:
                return cls(onnx.load_from_string(content), model)
        made = cls.from_module(model, example)
        with contextlib.suppress(OSError):  # a full or read-only disk costs time at the next start, no more
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, hashlib.sha256(made.fp32()).digest() + made.fp32())
        return made

    @property
    def input(self) -> str:
        """Name of the one input."""
        return str(self.proto.graph.input[0].name)

    def fp32(self) -> bytes:
        """The graph as it was exported."""
        return bytes(self.proto.SerializeToString())

    def quantized(self, layers: Mapping[str, QuantizedLayer]) -> bytes:
        """The graph with the layers' whole numbers in it, as QDQ nodes that integer kernels replace.

        Args:
            layers: Quantized layers by name; layers that are missing stay in fp32.

        Raises:
            WorkbenchError: A layer cannot be found in the graph.
        """
        missing = set(layers) - {name for name, _ in self._layers.values()}
        if missing:
            raise WorkbenchError(
                f"The exported graph has no node of its own for {', '.join(sorted(missing))}; "
                "leave them in fp32 or choose the runtime 'eager'."
            )
        made = onnx.ModelProto()
        made.CopyFrom(self.proto)
        writer = _Writer()
        for node in made.graph.node:
            name, transposed = self._layers.get(node.name, ("", False))
            if name in layers:
                writer.quantize(node, layers[name], transposed)
            writer.nodes.append(node)
        used = {name for node in writer.nodes for name in node.input}
        kept = [tensor for tensor in made.graph.initializer if tensor.name in used]
        del made.graph.node[:], made.graph.initializer[:]
        made.graph.node.extend(writer.nodes)
        made.graph.initializer.extend([*kept, *writer.tensors])
        return bytes(made.SerializeToString())

    def _matches(self, model: nn.Module) -> Iterator[tuple[str, tuple[str, bool]]]:
        """Finds layers by the scope that the exporter noted, and proves each match by its weights."""
        modules = dict(model.named_modules())
        for node in self.proto.graph.node:
            if node.op_type not in WEIGHTED or len(node.input) < 2 or node.input[1] not in self._arrays:
                continue
            noted = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
            scopes = [scope for scope in ast.literal_eval(noted) if scope in modules]
            weight = getattr(modules[scopes[-1]], "weight", None) if scopes else None
            if not isinstance(weight, Tensor):
                continue
            found, own = self._arrays[node.input[1]], weight.detach().cpu().numpy()
            if found.shape == own.shape and np.array_equal(found, own):
                yield node.name, (scopes[-1], False)
            elif own.ndim == 2 and found.shape == own.T.shape and np.array_equal(found, own.T):
                yield node.name, (scopes[-1], True)


class _Writer:
    """Collects the nodes and initializers of a quantized graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def quantize(self, node: onnx.NodeProto, layer: QuantizedLayer, transposed: bool) -> None:
        """Put QDQ nodes before a node's inputs."""
        if layer.activation_grid is not None:
            node.input[0] = self._activation(node, layer.activation_grid)
        if layer.weight is not None and layer.weight_grid is not None:
            grid, q, axis = layer.weight_grid, layer.weight, layer.weight_grid.axis
            if transposed:
                q, axis = q.T, None if axis is None else 1 - axis
            node.input[1] = self._dequantized(f"{node.name}.weight", q, grid.scale, grid.zero_point, axis)
        if layer.bias is not None and len(node.input) > 2:
            scale = layer.bias_scale
            axis = None if scale.dim() == 0 else 0
            if axis == 0:
                scale = scale.repeat(len(layer.bias) // len(scale))
            zero = torch.zeros_like(scale, dtype=torch.int32)
            node.input[2] = self._dequantized(f"{node.name}.bias", layer.bias, scale, zero, axis)

    def _activation(self, node: onnx.NodeProto, grid: Grid) -> str:
        name = f"{node.name}.input"
        whole = np.int8 if grid.quant_min < 0 else np.uint8
        scale = self._tensor(f"{name}.scale", grid.scale.numpy())
        zero = self._tensor(f"{name}.zero_point", grid.zero_point.numpy().astype(whole))
        self._node("QuantizeLinear", [node.input[0], scale, zero], f"{name}.q")
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
