"""onnxruntime: optimised graphs in fp32, and integer kernels for layers with 8-bit containers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.grid import Grid, QuantizedLayer
from workbench.inputs import Inputs
from workbench.recipe import Deployment
from workbench.runtimes import dynamic
from workbench.runtimes.base import Prepared, Source, only_fp32, what_runs
from workbench.runtimes.graph import PRODUCTS, ExportedGraph
from workbench.runtimes.writing import Place, Writer

INTEGER_KERNELS = (
    "QLinearConv",
    "QGemm",
    "QLinearMatMul",
    "MatMulInteger",
    "ConvInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
)
PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "rocm": "MIGraphXExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""What onnxruntime calls devices other than the processor."""

PACKED_WEIGHTS = 2**22
"""A matrix with as many 4-bit weights stays packed: its 16 MB in fp32 would come from memory at every call. Smaller
ones are multiplied up to twice as fast unpacked."""

DISABLED = ("WeightBiasQuantization",)
"""Optimisers that would put weights on grids of their own choice where a recipe leaves them in fp32."""
UNPACKING = ("session.disable_quant_qdq", "1")
"""The setting that unpacks whole-number weights once, when a model is loaded, and not at every call."""


class OnnxRuntime:
    """The graph with QDQ nodes, which onnxruntime replaces by integer kernels where it has them."""

    name = "onnxruntime"
    takes: Final = "graph"
    compiles: Final = False

    def unavailable(self) -> str | None:
        """It is a dependency, but a platform can lack its wheel."""
        try:
            import onnxruntime  # noqa: F401
        except ImportError as error:
            return f"onnxruntime: cannot be imported ({error}); pip install onnxruntime"
        return None

    def devices(self) -> Sequence[str]:
        """The processor, and what else onnxruntime was built for."""
        import onnxruntime

        here = onnxruntime.get_available_providers()
        return ["cpu", *(device for device, provider in PROVIDERS.items() if provider in here)]

    def version(self) -> str:
        """Of onnxruntime."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def supports(self, deployment: Deployment, source: Source) -> str | None:  # noqa: ARG002 - see `Runtime.supports`
        """It has no bfloat16 kernels on the processor."""
        return only_fp32(deployment, "'openvino', 'inductor' or 'eager'")

    def prepare(self, source: Source, layers: Mapping[str, QuantizedLayer], deployment: Deployment) -> Prepared:
        """See `Runtime.prepare`."""
        return _Run(source, layers, deployment)


class _Writer(Writer):
    """Leaves large matrices of 4-bit weights in groups as they are, for a kernel that unpacks them as it multiplies.

    Other weights are unpacked once, when the graph is loaded, where no integer kernel multiplies them."""

    def __init__(self) -> None:
        super().__init__()
        self.packed: set[str] = set()
        """Layers that are left so."""
        self._followed: set[str] = set()
        """Values that are rounded later, with no product between; without any, there are no integer kernels."""

    def look(self, graph: onnx.GraphProto, rounded: Iterable[tuple[str, Grid]]) -> None:
        """See `Writer.look`."""
        self._followed = {value for value, _ in rounded}
        for node in reversed(graph.node):  # against the order in which they run
            if node.op_type not in PRODUCTS and not self._followed.isdisjoint(node.output):
                self._followed.update(node.input)

    def multiplies_whole(self, node: onnx.NodeProto, layer: QuantizedLayer) -> bool:
        """Beside integer kernels, every DequantizeLinear is kept for them, and run at each call where none comes.

        A convolution has one only where its output is rounded; a matrix product can give floats.
        """
        if not self._followed:
            return True  # `UNPACKING` takes care of all
        follows = "Conv" not in node.op_type or not self._followed.isdisjoint(node.output)
        return layer.activation_grid is not None and follows

    def quantize(self, node: onnx.NodeProto, layer: QuantizedLayer, place: Place) -> None:
        """See `Writer.quantize`."""
        grid, q = layer.weight_grid, layer.weight
        if q is None or not isinstance(grid, Grid) or not _packs(node, layer, place, grid, q):
            super().quantize(node, layer, place)
            return
        outputs, inputs = q.shape
        groups = inputs // grid.group
        codes = (q.to(torch.int16) - grid.quant_min).to(torch.uint8).numpy().reshape(outputs, groups, grid.group)
        zeros = (grid.zero_point - grid.quant_min).to(torch.uint8).numpy()
        zeros = np.pad(zeros, ((0, 0), (0, groups % 2)))
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and layer.bias is not None:
            bias = self._tensor(f"{node.name}.bias", layer.bias.numpy())
        tensors = [
            self._tensor(f"{node.name}.{name}", array)
            for name, array in (
                ("packed", codes[..., ::2] | codes[..., 1::2] << 4),
                ("scale", grid.scale.float().numpy()),
                ("zero_point", zeros[:, ::2] | zeros[:, 1::2] << 4),
            )
        ]
        made = helper.make_node(
            "MatMulNBits",
            [node.input[1 - place.input], *tensors, *(["", bias] if bias else [])],
            list(node.output),
            name=node.name,
            domain="com.microsoft",
            K=inputs,
            N=outputs,
            bits=4,
            block_size=grid.group,
            accuracy_level=1,  # products in fp32: a recipe that rounds weights alone does not round inputs
        )
        node.CopyFrom(made)
        self.domains["com.microsoft"] = 1
        self.packed.add(layer.name)


def _packs(node: onnx.NodeProto, layer: QuantizedLayer, place: Place, grid: Grid, q: Tensor) -> bool:
    """Whether `MatMulNBits` computes what a node computes."""
    told = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    plain = (told.get("alpha", 1.0), told.get("beta", 1.0), told.get("transA", 0)) == (1.0, 1.0, 0)
    zeros = grid.zero_point
    return (
        node.op_type in ("MatMul", "Gemm")
        and plain
        and place.input == 1
        and q.dim() == 2
        and q.numel() >= PACKED_WEIGHTS
        and layer.activation_grid is None
        and layer.dynamic is None
        and grid.axis == 0
        and grid.stride == 1
        and grid.quant_max - grid.quant_min < 16
        and grid.group in (16, 32, 64, 128, 256)
        and q.shape[1] % grid.group == 0
        and bool(((zeros >= grid.quant_min) & (zeros <= grid.quant_max) & (zeros == zeros.round())).all())
    )


def written(graph: ExportedGraph, layers: Mapping[str, QuantizedLayer]) -> tuple[bytes, frozenset[str]]:
    """The graph that sessions of ours run, and the layers whose weights it keeps in 4 bits."""
    if not layers:
        return graph.fp32(), frozenset()
    writer = _Writer()
    return graph.quantized(layers, writer), frozenset(writer.packed)


class _Run:
    def __init__(self, source: Source, layers: Mapping[str, QuantizedLayer], deployment: Deployment) -> None:
        graph = source.graph
        options = options_for(layers, deployment)
        with tempfile.TemporaryDirectory() as folder:
            optimised = Path(folder) / "optimised.onnx"
            if layers:
                options.optimized_model_filepath = str(optimised)
            content, packed = written(graph, layers)
            self._session = opened(content, options, deployment)
            kernels = [node.op_type for node in onnx.load(optimised).graph.node] if layers else []
        self._inputs = graph.inputs
        self.integer = sum(kind in INTEGER_KERNELS for kind in kernels)
        absent = sorted(layers.keys() - graph.present)
        products = {name: layer for name, layer in layers.items() if name not in graph.operands}
        self.note = dynamic.in_words(_note(products, packed, self.integer, absent), layers) if layers else None

    def run(self, batch: Inputs) -> Tensor:
        return torch.from_numpy(self.bound(batch)()[0])

    def bound(self, batch: Inputs) -> Callable[[], list[Any]]:
        arrays = map(np.ascontiguousarray, (tensor.numpy() for tensor in batch.tensors))
        # an argument that the output does not depend on is not in the graph
        inputs = {name: array for name, array in zip(self._inputs, arrays, strict=True) if name}
        session = self._session
        return lambda: session.run(None, inputs)


def _note(
    layers: Mapping[str, QuantizedLayer], packed: frozenset[str], integer: int, absent: Sequence[str]
) -> str | None:
    """What really runs: of matrices that stay packed, and of the rest."""
    rest = {name: layer for name, layer in layers.items() if name not in packed}
    said = what_runs("onnxruntime", rest, integer, absent) if rest else None
    if not packed:
        return said
    kept = (
        f"{len(packed)} of {len(layers)} quantized layers keep their weights in 4 bits (MatMulNBits) and multiply "
        "in fp32 kernels."
    )
    return f"{kept} As for the others: {said[0].lower()}{said[1:]}" if said else kept


def unpacks(layers: Mapping[str, QuantizedLayer]) -> bool:
    """Whether `UNPACKING` is right for a session: no layer's input is rounded, so no integer kernel can follow."""
    return not any(layer.activation_grid for layer in layers.values())


def options_for(layers: Mapping[str, QuantizedLayer], deployment: Deployment) -> Any:
    """How a session is set up.

    Args:
        layers: That are on grids.
        deployment: With its threads.

    Returns:
        `onnxruntime.SessionOptions`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = deployment.threads
    options.log_severity_level = 3
    # spinning threads make everything else on the machine slow, and 30 viewers share one
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if unpacks(layers):
        options.add_session_config_entry(*UNPACKING)
    return options


def opened(content: bytes, options: Any, deployment: Deployment) -> Any:
    """A session on a graph.

    Args:
        content: The graph.
        options: Of `options_for`.
        deployment: With its device.

    Returns:
        `onnxruntime.InferenceSession`.

    Raises:
        WorkbenchError: onnxruntime cannot load the graph, or not on the device.
    """
    import onnxruntime

    provider = PROVIDERS.get(deployment.device.split(":")[0])
    try:
        session = onnxruntime.InferenceSession(
            content,
            options,
            [*([provider] if provider else []), "CPUExecutionProvider"],
            disabled_optimizers=list(DISABLED),
        )
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise WorkbenchError(f"onnxruntime cannot load the model: {error}") from error
    if provider and provider not in session.get_providers():  # it falls back without a word
        raise WorkbenchError(
            f"onnxruntime cannot use {deployment.device} here: its {provider} did not load, and everything would run "
            "on the processor. Install the driver and libraries that it needs, or choose the device 'cpu'."
        )
    return session
