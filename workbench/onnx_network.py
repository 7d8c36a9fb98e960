"""A model that is only an ONNX graph: measured as it is, with the quantization written into the graph."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from workbench.errors import Cancelled, WorkbenchError
from workbench.form import Form
from workbench.inputs import Inputs
from workbench.layers import Layer, LeftAlone
from workbench.loading.onnx_session import OnnxModule
from workbench.network import Network
from workbench.outputs import Output, selected
from workbench.quantization.calibration import Histograms, Observation
from workbench.quantization.quantizer import LayerSpec, Quantizer
from workbench.runtimes.graph import ExportedGraph

BATCH = 16
SESSIONS = 4
"""Quantized graphs that are kept open."""


class OnnxNetwork(Network):
    """As `Network`, with onnxruntime in the place of torch."""

    graph_only = True

    def __init__(self, model: OnnxModule, calibration: Inputs, examples: int, output: Output = None) -> None:
        """
        Args:
            model: Left as it is.
            calibration: Inputs that set activation ranges.
            examples: How many a whole evaluation has.
            output: Which of the graph's outputs is measured.

        Raises:
            WorkbenchError: The graph does not run on the inputs.
        """
        self.example = calibration.cycled(2)
        self.module = self.original = self._model = model
        self.output = output
        self.notes = (f"The model runs as an ONNX graph in onnxruntime. {model.reason}",)
        self._proto = _with_one_output(model, output)
        self._calibration = calibration
        self._examples = examples
        self._packed = {}
        self._observing = threading.Lock()
        self._names = _argument_names(model, self.example)
        self._arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in self._proto.graph.initializer}
        self.layers = _layers(model)
        products = {layer.weight_name for layer in self.layers.values()}
        self.left_alone = tuple(
            LeftAlone(name, "initializer", "no product multiplies by it")
            for name, array in self._arrays.items()
            if array.size > 1 and array.dtype.kind == "f" and name not in products and array.ndim > 1
        )
        self.call(self.example)

    @cached_property
    def key(self) -> str:
        """SHA-256 over the graph, 64 hex digits."""
        return hashlib.sha256(self._proto.SerializeToString()).hexdigest()

    @property
    def parameters(self) -> int:
        """Numbers in the graph's floating point initializers."""
        return sum(array.size for array in self._arrays.values() if array.dtype.kind == "f")

    @property
    def operations(self) -> float:
        """Not counted in a graph."""
        return 0.0

    @property
    def batch(self) -> int:
        """How many examples are evaluated at once."""
        return BATCH

    @property
    def form(self) -> Form:
        """Nothing was rewritten."""
        return Form()

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The graph's initializers."""
        return {name: torch.from_numpy(np.array(array)) for name, array in self._arrays.items()}

    @cached_property
    def quantizer(self) -> Quantizer:
        """Calibrated when a first activation is put on a grid."""
        return Quantizer(self.layers, self._observed)

    @cached_property
    def simulation(self) -> GraphSimulation:  # type: ignore[override]
        """Runs the quantized graph."""
        return GraphSimulation(self)

    @property
    def graph(self) -> ExportedGraph:
        """The graph itself."""
        return self._own_graph

    @cached_property
    def _own_graph(self) -> ExportedGraph:
        return ExportedGraph(self._proto, self.layers, self._names)

    @torch.inference_mode()
    def call(self, inputs: Inputs) -> Tensor:
        """What the fp32 graph gives for a batch."""
        return selected(inputs.call(self.module), self.output)

    def fed(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """The arguments under the names of the graph's inputs."""
        return dict(zip(self._names, (tensor.numpy() for tensor in inputs.tensors), strict=True))

    def _observe(self, layers: Mapping[str, Layer], cancel: threading.Event | None) -> dict[str, Observation]:
        """Histograms of what arrives at each layer, from a graph that shows these values as outputs."""
        names = {layer.weight_name: layer.name for layer in self.layers.values()}
        arriving = {node.name: (names[node.weight_name], node.input) for node in self._model.layers().values()}
        made = onnx.ModelProto()
        made.CopyFrom(self._proto)
        inputs = {value.name for value in made.graph.input}
        shown = {value.name for value in made.graph.output}
        missing = dict.fromkeys(value for _, value in arriving.values() if value not in inputs | shown)
        made.graph.output.extend(onnx.ValueInfoProto(name=value) for value in missing)
        module = OnnxModule(made, "")
        histograms = Histograms(name for name, layer in layers.items() if not layer.activations)
        for look in (histograms.widen, histograms.count):
            for part in self._calibration.batches(torch.arange(len(self._calibration)), BATCH):
                if cancel is not None and cancel.is_set():
                    raise Cancelled
                examples = self._calibration[part]
                outputs = examples.call(module)
                outputs = outputs if isinstance(outputs, tuple) else (outputs,)
                values = dict(zip((value.name for value in made.graph.output), outputs, strict=True))
                values |= {name: torch.from_numpy(array) for name, array in self.fed(examples).items()}
                for name, value in arriving.values():
                    if name in histograms.names and values[value].is_floating_point():
                        look(name, values[value].float())
        return histograms.made()


class GraphSimulation:
    """Outputs of the graph with quantization in it."""

    whole = False

    def __init__(self, network: OnnxNetwork) -> None:
        self._network = network
        self._open: OrderedDict[tuple[Any, ...], OnnxModule] = OrderedDict()

    @torch.inference_mode()
    def run(self, inputs: Inputs, asked: Mapping[str, LayerSpec], key: object = None) -> Any:
        """Outputs for a batch.

        Args:
            inputs: The batch.
            asked: What is asked of each layer.
            key: Identifies the batch; nothing is remembered here.
        """
        del key
        network = self._network
        if not any(any(spec) for spec in asked.values()):
            return inputs.call(network.module)
        mark = tuple(asked.items())
        if mark not in self._open:
            content = network.graph.quantized(network.quantized(asked))
            self._open[mark] = OnnxModule(onnx.load_from_string(content), "")
            while len(self._open) > SESSIONS:
                self._open.popitem(last=False)
        return inputs.call(self._open[mark])


def _with_one_output(model: OnnxModule, output: Output) -> onnx.ModelProto:
    names = model.output_names
    if callable(output):
        raise WorkbenchError(f"output: for an ONNX graph, a name or a place is needed; it has {', '.join(names)}.")
    wanted = names[output] if isinstance(output, int) else output or names[0]
    made = onnx.ModelProto()
    made.CopyFrom(model.proto)
    kept = [value for value in made.graph.output if value.name == wanted]
    if not kept:
        raise WorkbenchError(f"output = {output!r}: the graph has no such output; it has {', '.join(names)}.")
    one = kept[0].SerializeToString()
    del made.graph.output[:]
    made.graph.output.append(onnx.ValueInfoProto.FromString(one))
    return made


def _argument_names(model: OnnxModule, example: Inputs) -> tuple[str, ...]:
    """Names of the graph's inputs in the order of the arguments."""
    names = model.input_names
    return (*names[: len(example.positional)], *example.named)


def _layers(model: OnnxModule) -> dict[str, Layer]:
    """One layer per weight; nodes that share one are one layer."""
    found: dict[str, Layer] = {}
    for name, node in model.layers().items():
        if node.weight_name in found:
            continue
        bias = None
        if node.bias_name:
            held = next(tensor for tensor in model.proto.graph.initializer if tensor.name == node.bias_name)
            bias = torch.from_numpy(numpy_helper.to_array(held).astype(np.float32))
        found[node.weight_name] = Layer(
            name=name,
            kind=node.op,
            weight_name=node.weight_name,
            weight=torch.from_numpy(node.weight),
            bias_name=node.bias_name or "",
            bias=bias,
            axis=node.axis,
            activations="its input is indices" if node.op == "Gather" else "",
        )
    return {layer.name: layer for layer in found.values()}
