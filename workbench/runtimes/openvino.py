"""OpenVINO: the same graph as for onnxruntime, compiled for one batch, with integer kernels for what has weights.

Its low-precision passes want the rounding before what only moves or compares values (max pooling, reshaping), so that
these run on whole numbers as well; there it gives the same numbers.

Of a convolution, an addition and the rounding of the sum it makes one kernel only where both operands of the addition
seem to be rounded, and in that kernel it leaves out the rounding of what the convolution gives (``drop rounding one
special residual pattern`` in its convolution's `setPostOps`). So what is to be rounded there is rounded by plain
operators, and what is not gets a rounding that is left out.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
import onnx
import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.grid import Grid, QuantizedLayer
from workbench.inputs import Inputs
from workbench.recipe import Deployment
from workbench.runtimes.base import Prepared, Source, what_runs
from workbench.runtimes.graph import ExportedGraph
from workbench.runtimes.writing import Writer, container, points

PRODUCTS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
MOVING = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity")
"""Operators whose result is values of their first input: rounding before them and after them is the same."""
FIXED_SHAPES = 4
"""Shapes that are compiled for; more of them share one graph with free sizes, which is slower at each call."""


@lru_cache
def library() -> Any:
    """The package, imported without its telemetry, which would send an event at every import.

    Raises:
        ImportError: It is not here.
    """
    absent = object()
    before: Any = sys.modules.get("openvino_telemetry", absent)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # so it takes its own stub, which sends nothing
    try:
        import openvino
    finally:
        if before is absent:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = before
    return openvino


@lru_cache
def _core() -> Any:
    return library().Core()


class OpenVino:
    """The graph with QDQ nodes, which OpenVINO's low-precision passes replace by integer kernels."""

    name = "openvino"
    takes: Final = "graph"
    compiles: Final = False

    def unavailable(self) -> str | None:
        """It is a dependency, but a platform can lack its wheel."""
        try:
            library()
        except ImportError as error:
            return f"openvino: cannot be imported ({error}); pip install openvino"
        return None

    def devices(self) -> Sequence[str]:
        """The processor, and what OpenVINO has drivers for: ``gpu``, ``gpu.1``, ``npu``."""
        return [name.lower() for name in _core().available_devices if name.split(".")[0] in ("CPU", "GPU", "NPU")]

    def version(self) -> str:
        """Of openvino."""
        return str(library().__version__).split("-")[0]

    def supports(self, deployment: Deployment, source: Source) -> str | None:  # noqa: ARG002 - see `Runtime.supports`
        """Whether the device computes in bfloat16, if that is asked for."""
        device = deployment.device.upper()
        if deployment.precision == "bf16" and "BF16" not in _core().get_property(device, "OPTIMIZATION_CAPABILITIES"):
            return f"openvino: this {device} does not compute in bf16; choose fp32."
        return None

    def prepare(self, source: Source, layers: Mapping[str, QuantizedLayer], deployment: Deployment) -> Prepared:
        """See `Runtime.prepare`."""
        return _Run(source, layers, deployment)


class _Writer(Writer):
    """Rounds as early as gives the same numbers, and clips floats: a clip of whole numbers stops the passes."""

    def __init__(self, refused: frozenset[str] = frozenset()) -> None:
        """
        Args:
            refused: Additions whose left out rounding was not left out.
        """
        super().__init__()
        self.left_out: dict[str, str] = {}
        """Roundings that only look like one, and the addition that follows each."""
        self._refused = refused
        self._made: dict[str, onnx.NodeProto] = {}
        self._uses: dict[str, int] = {}
        self._live: set[str] = set()
        """Values that depend on the input's values; what depends on its shape alone becomes a constant."""
        self._readers: dict[str, onnx.NodeProto] = {}
        self._rounded: set[str] = set()
        self._earlier: dict[str, Grid] = {}
        """Nodes, by their first output, whose input is to be rounded in the place of a layer's."""
        self._done: set[str] = set()
        """Values that are rounded then."""

    def look(self, graph: onnx.GraphProto, rounded: Iterable[tuple[str, Grid]]) -> None:
        """See `Writer.look`."""
        origin = {name: node for node in graph.node for name in node.output}
        uses: dict[str, int] = {}
        for name in (*(name for node in graph.node for name in node.input), *(value.name for value in graph.output)):
            uses[name] = uses.get(name, 0) + 1
        self._made = origin
        self._uses = uses
        self._live = {value.name for value in graph.input}
        for node in graph.node:  # in the order in which they run
            if node.op_type not in ("Shape", "Size") and not self._live.isdisjoint(node.input):
                self._live.update(node.output)
        self._readers = {name: node for node in graph.node for name in node.input}
        grids: dict[str, list[Grid]] = {}
        for value, grid in rounded:
            grids.setdefault(value, []).append(grid)
        self._rounded = set(grids)
        for value, asked in grids.items():
            if len({points(grid) for grid in asked}) > 1 or uses[value] > len(asked):
                continue  # somebody needs it otherwise
            first, name = None, value
            while name in origin and origin[name].op_type in MOVING and (name == value or uses[name] == 1):
                first = origin[name]
                name = first.input[0]
            if first is not None:
                self._earlier[first.output[0]] = asked[0]
                self._done.add(value)

    def pass_on(self, node: onnx.NodeProto) -> None:
        """See `Writer.pass_on`."""
        if node.output and node.output[0] in self._earlier:
            node.input[0] = self.activation(node.input[0], self._earlier[node.output[0]])

    def activation(self, value: str, grid: Grid) -> str:
        """See `Writer.activation`."""
        return value if value in self._done else super().activation(value, grid)

    def add(self, node: onnx.NodeProto, grids: Sequence[Grid | None], reach: Callable[[str], float | None]) -> None:
        """See `Writer.add`."""
        merged = next((index for index in (0, 1) if self._merges(node.input[index])), None)
        for index, grid in enumerate(grids):
            value = node.input[index]
            if grid is not None:
                # the passes stumble over a dequantization that folds to a constant
                plain = index == merged or value not in self._live
                node.input[index] = self._plainly(value, grid) if plain else self.activation(value, grid)
            elif index == merged and node.name not in self._refused and self._rounds(node):
                limit = reach(value)
                if limit and grids[1 - index] is not None:
                    whole = Grid(torch.tensor(limit / 127), torch.tensor(0, dtype=torch.int32), -128, 127, 8)
                    node.input[index] = super().rounded(f"{value}.passed", value, whole)
                    self.left_out[f"{value}.passed.q"] = node.name

    def _merges(self, value: str) -> bool:
        """Whether a convolution can take an addition with it: nothing else reads what it gives."""
        made = self._made.get(value)
        return made is not None and made.op_type == "Conv" and self._uses[value] == 1

    def _rounds(self, node: onnx.NodeProto) -> bool:
        """Whether the sum is rounded, directly or after a ReLU."""
        value = node.output[0]
        reader = self._readers.get(value)
        if reader is not None and self._uses[value] == 1 and reader.op_type in ("Relu", "Clip"):
            value = reader.output[0]
        return value in self._rounded

    def _plainly(self, value: str, grid: Grid) -> str:
        """A value moved to its grid by operators that no pass takes for quantization."""
        name = f"{value}.rounded"
        zero = int(grid.zero_point)
        inverse, scale = (np.array(float(x), np.float32) for x in (grid.scale.reciprocal(), grid.scale))
        self._node("Mul", [value, self._tensor(f"{name}.inverse", inverse)], f"{name}.scaled")
        self._node("Round", [f"{name}.scaled"], f"{name}.whole")
        clipped = self._clipped(
            name, f"{name}.whole", np.float32(grid.quant_min - zero), np.float32(grid.quant_max - zero)
        )
        self._node("Mul", [clipped, self._tensor(f"{name}.scale", scale)], name)
        return name

    def rounded(self, name: str, value: str, grid: Grid) -> str:
        """See `Writer.rounded`."""
        ends = np.iinfo(container(grid))
        if (grid.quant_min, grid.quant_max) != (ends.min, ends.max):
            steps = torch.tensor([grid.quant_min, grid.quant_max]) - grid.zero_point
            low, high = (steps * grid.scale).float().numpy()
            value = self._clipped(name, value, low, high)
        quantized, scale, zero = self._whole(name, value, grid)
        self._node("DequantizeLinear", [quantized, scale, zero], f"{name}.dq")
        return f"{name}.dq"

    def _clipped(self, name: str, value: str, low: np.float32, high: np.float32) -> str:
        limits = [self._tensor(f"{name}.{end}", np.array(at)) for end, at in (("low", low), ("high", high))]
        self._node("Clip", [value, *limits], f"{name}.clipped")
        return f"{name}.clipped"


def written(graph: ExportedGraph, layers: Mapping[str, QuantizedLayer]) -> bytes:
    """The graph with the layers' whole numbers in it, as OpenVINO's low-precision passes take it."""
    return _written(graph, layers, frozenset())[0]


class _Run:
    def __init__(self, source: Source, layers: Mapping[str, QuantizedLayer], deployment: Deployment) -> None:
        graph = source.graph
        self._write = lambda refused: _written(graph, layers, refused)
        content, self._left_out = self._write(frozenset())
        self._names = graph.inputs
        self._device = deployment.device.upper()
        self._settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else inputs are rounded where a recipe rounds weights alone
            # bfloat16 would be taken without being asked for where the processor has it
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[deployment.precision],
        }
        if self._device == "CPU":
            threads = {"INFERENCE_NUM_THREADS": deployment.threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
            self._settings |= threads
        try:
            self._model = _core().read_model(content)
        except RuntimeError as error:
            raise WorkbenchError(f"openvino cannot read the model: {_reason(error)}") from error
        self._ready: OrderedDict[tuple[tuple[int, ...], ...], Any] = OrderedDict()
        self._any_size: Any = None
        self._compiling = threading.Lock()
        request = self._request(source.example.cycled(deployment.batch))
        self.integer = _integer(request.get_compiled_model()) if layers else 0
        absent = sorted(layers.keys() - graph.present)
        products = {name: layer for name, layer in layers.items() if name not in graph.operands}
        floating = deployment.precision
        self.note = what_runs("openvino", products, self.integer, absent, floating) if layers else None

    def run(self, batch: Inputs) -> Tensor:
        request, arrays = self._request(batch), self._arrays(batch)
        _give(request, arrays)
        _infer(request, arrays)
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    def bound(self, batch: Inputs) -> Callable[[], object]:
        arrays = self._arrays(batch)
        # of its own: another batch that is run meanwhile must not take its place
        request = self._request(batch).get_compiled_model().create_infer_request()
        _give(request, arrays)
        return partial(_infer, request, arrays)

    def counting(self, batch: Inputs) -> Any:
        """A request of its own, with the batch in it, whose graph counts the time of every node."""
        model, arrays = self._model.clone(), self._arrays(batch)
        with contextlib.suppress(RuntimeError):  # a graph of other origin keeps its sizes
            model.reshape({port: list(each.shape) for port, each in zip(model.inputs, arrays, strict=True)})
        request = _core().compile_model(model, self._device, {**self._settings, "PERF_COUNT": True})
        request = request.create_infer_request()
        for index, array in enumerate(arrays):
            request.set_input_tensor(index, library().Tensor(array, shared_memory=True))
        return request

    def _arrays(self, batch: Inputs) -> list[Any]:
        # an argument that the output does not depend on is not in the graph
        pairs = zip(self._names, batch.tensors, strict=True)
        return [np.ascontiguousarray(tensor.numpy()) for name, tensor in pairs if name]

    def _request(self, batch: Inputs) -> Any:
        shapes = tuple(tuple(array.shape) for array in self._arrays(batch))
        with self._compiling:
            if shapes in self._ready:
                return self._ready[shapes]
            if self._any_size is not None:
                return self._any_size
            if len(self._ready) == FIXED_SHAPES:
                self._any_size = self._compiled(self._model)
                return self._any_size
            self._ready[shapes] = self._compiled(self._shaped(shapes))
            kept = _kept(self._ready[shapes].get_compiled_model(), self._left_out)
            if kept:  # numbers come first
                content, self._left_out = self._write(kept)
                self._model = _core().read_model(content)
                self._ready.clear()
                self._ready[shapes] = self._compiled(self._shaped(shapes))
            return self._ready[shapes]

    def _shaped(self, shapes: Sequence[Sequence[int]]) -> Any:
        model = self._model.clone()
        try:
            model.reshape({port: list(shape) for port, shape in zip(model.inputs, shapes, strict=True)})
        except RuntimeError:  # a graph of other origin has its sizes written into it, or cannot follow
            return self._model
        return model

    def _compiled(self, model: Any) -> Any:
        try:
            return _core().compile_model(model, self._device, self._settings).create_infer_request()
        except RuntimeError as error:
            raise WorkbenchError(f"openvino cannot compile the model: {_reason(error)}") from error


def _written(
    graph: ExportedGraph, layers: Mapping[str, QuantizedLayer], refused: frozenset[str]
) -> tuple[bytes, dict[str, str]]:
    if not layers:
        return graph.fp32(), {}
    writer = _Writer(refused)
    return graph.quantized(layers, writer), writer.left_out


def _kept(compiled: Any, left_out: Mapping[str, str]) -> frozenset[str]:
    """Additions before which a rounding was not left out: no kernel holds it, the addition and another rounding."""
    if not left_out:
        return frozenset()
    kernels = [
        about["originalLayersNames"].astype(str).split(",")
        for node in compiled.get_runtime_model().get_ordered_ops()
        if "originalLayersNames" in (about := node.get_rt_info())
    ]

    def merged(rounding: str, addition: str) -> bool:
        own = next((names for names in kernels if rounding in names and addition in names), None)
        return own is not None and any(name.endswith(".q") for name in own[own.index(addition) + 1 :])

    return frozenset(addition for rounding, addition in left_out.items() if not merged(rounding, addition))


def _give(request: Any, arrays: Sequence[Any]) -> None:
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, library().Tensor(array, shared_memory=True))


def _infer(request: Any, arrays: Sequence[Any]) -> None:  # noqa: ARG001 - the request reads them and does not hold them
    request.infer()


def _integer(compiled: Any) -> int:
    """Layers that run in integer kernels, as the compiled graph tells."""
    found = 0
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = node.get_rt_info()
        kind, kernel = (about[key].astype(str) if key in about else "" for key in ("layerType", "primitiveType"))
        found += kind in PRODUCTS and kernel.endswith(("_I8", "_U8"))
    return found


def _reason(error: Exception) -> str:
    """What its exceptions say below the places in its own source; operators that it lacks are named."""
    lines = [line.strip().removeprefix("-- ") for line in str(error).splitlines() if line.strip()]
    lacking = [line for line in lines if line.startswith("No conversion rule")]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '", "FrontEnd API"))]
    return (lacking or told or lines or [type(error).__name__])[0][:300]
