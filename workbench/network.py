"""One set of weights with everything that was made from it: the model on the bench, or a student of it."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from workbench.delivery.artifact import PackedLayer, assemble, layer_bytes, pack_layer
from workbench.form import Form
from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.metrics import Metric, TopK
from workbench.outputs import Output, selected
from workbench.quantization.calibration import Histograms, Observation, observe, widened
from workbench.quantization.equalization import equalized
from workbench.quantization.finding import find_layers
from workbench.quantization.jointly import remarks, settle
from workbench.quantization.moments import Moments, MomentStore, collected
from workbench.quantization.operations import operations
from workbench.quantization.preparation import prepared
from workbench.quantization.quantizer import LayerSpec, Learned, Quantizer, Settled, specs
from workbench.quantization.reconstruction import Goal
from workbench.quantization.rounding import Watch
from workbench.quantization.simulation import Simulation
from workbench.randomness import seeded
from workbench.recipe import Quantization
from workbench.report import LayerRow
from workbench.runtimes.graph import NAMING, ExportedGraph
from workbench.tracing import running

BATCH = 100  # activations of the widest layer stay in the cache; larger batches are slower
BATCH_OPERATIONS = 5e9
"""Floating point operations in a batch at most, so that a first estimate and a cancel come soon."""
CALIBRATION_OPERATIONS = 40e9
"""Of each of the two passes over the calibration data at most."""
LEAST_CALIBRATION = 8
"""But as many examples are always seen."""


class Network:
    """A private copy of a model, calibrated on first use; the model that was given is left as it was."""

    graph_only = False
    """Whether there is a graph for a runtime and no torch module."""
    _observations: dict[str, Observation] | None = None
    _spans: Histograms | None = None
    notes: tuple[str, ...] = ()
    """What a reader of the numbers has to know of how it runs."""

    def __init__(
        self,
        model: nn.Module,
        calibration: Inputs,
        examples: int,
        folder: Path,
        output: Output = None,
        metrics: Callable[[Tensor], Sequence[Metric]] | None = None,
    ) -> None:
        """
        Args:
            model: Any module.
            calibration: Inputs that set activation ranges.
            examples: How many a whole evaluation has.
            folder: Where the exported graph is kept for the next process.
            output: Which part of what the model returns is measured.
            metrics: What outputs are measured by; methods that learn ask whether they are classes.

        Raises:
            WorkbenchError: The model cannot be copied, or does not run on the inputs.
        """
        self.example = calibration.cycled(2).channels_last()
        made = prepared(model, self.example, output)
        self.original = made.original
        self.module = made.module
        if any(tensor.dim() == 4 for tensor in self.example.tensors):
            self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.layers, self.left_alone = find_layers(self.module, self.example)
        self.output = output
        self._form = made.form
        self._calibration = calibration
        self._examples = examples
        self._folder = folder
        self._packed: dict[tuple[str, LayerSpec], PackedLayer] = {}
        self._export = threading.Lock()
        self._observing = threading.Lock()  # hooks of two threads on one module would see each other's runs
        self._learned: Learned = {}
        self._metrics = metrics

    def retrained(self, weights: Mapping[str, Tensor], learned: Learned) -> Network:
        """The same network after a training.

        Args:
            weights: Take the place of its own, by their names in the state.
            learned: Grids that were trained with them, and take the place of those that a range would give.
        """
        made = copy.copy(self)
        for name in [n for n in vars(made) if isinstance(getattr(type(self), n, None), cached_property)]:
            del made.__dict__[name]
        made.module = copy.deepcopy(self.module)
        with torch.inference_mode():  # in their place, so that ties and memory layouts stay
            for name, parameter in made.module.named_parameters():
                parameter.copy_(weights[name])
        made.layers, made.left_alone = find_layers(made.module, self.example)
        made._packed, made._learned, made._observations, made._spans = {}, dict(learned), None, None
        made._export, made._observing = threading.Lock(), threading.Lock()
        return made

    @cached_property
    def equalized(self) -> Network:
        """The same network with its channels rescaled, so that weights have ranges alike."""
        weights = equalized(self.module, self.layers, self.example, self.output)
        made = self.retrained({**dict(self.module.named_parameters()), **weights}, {})
        if not weights:
            made.notes = (*self.notes, "equalize changes nothing here: no layer passes factors on to the next one.")
        return made

    @cached_property
    def key(self) -> str:
        """SHA-256 over the form, the code and the weights, 64 hex digits."""
        digest = hashlib.sha256(repr(self.module).encode())
        for kind in dict.fromkeys(type(module) for module in self.module.modules()):
            digest.update(_code(kind))
        for name, tensor in self.module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        for slot, grid in self._learned.items():
            stored = grid.stored()
            digest.update(f"{slot}{grid.kind}{stored.about}".encode())
            for tensor in stored.tensors.values():
                digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def parameters(self) -> int:
        """Weights and biases of the original, shared ones once."""
        return sum(p.numel() for p in self.original.parameters())

    @property
    def ragged(self) -> bool:
        """Whether examples have different shapes: sequences of different lengths."""
        return not self._calibration.uniform

    @cached_property
    def operations(self) -> float:
        """Floating point operations of the products with weights, for one example."""
        return operations(self.module, self.layers, self.example)

    @cached_property
    def batch(self) -> int:
        """How many examples are evaluated at once."""
        return int(min(BATCH, max(1, BATCH_OPERATIONS // max(self.operations, 1))))

    @cached_property
    def form(self) -> Form:
        """How the network's state differs from that of the model it was made from."""
        seen: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
        tied = {}
        for name, tensor in self.module.state_dict().items():
            first = (
                seen.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name) if tensor.numel() else name
            )
            if first != name:
                tied[name] = first
        return replace(self._form, tied=tied)

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The fp32 state, tied tensors once."""
        state = self.module.state_dict()
        return {name: tensor.contiguous() for name, tensor in state.items() if name not in self.form.tied}

    @cached_property
    def quantizer(self) -> Quantizer:
        """Calibrated when a first activation is put on a grid, or a first weight is rounded by its inputs."""

        def moments(layers: Sequence[Layer], cancel: threading.Event | None) -> dict[str, Moments]:
            return collected(self.module, layers, self._seen, self.batch, cancel)

        def jointly(quantization: Quantization, watch: Watch) -> dict[str, Settled]:
            goal = Goal(self.output, self._classes)
            return settle(quantization, self.simulation, self.layers, self._seen, goal, self.operations, watch)

        modules = dict(self.module.named_modules(remove_duplicate=False))
        store = MomentStore(self.layers, modules, moments)
        return Quantizer(self.layers, self._observed, store, jointly, self._learned, self._ends)

    def _observed(self, cancel: threading.Event | None = None) -> dict[str, Observation]:
        """What arrives at each layer, looked at once."""
        with self._observing:
            if self._observations is None:
                self._observations = self._observe(cancel)
            return self._observations

    def _ends(self, cancel: threading.Event | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """The smallest and largest value that arrives at each layer: half the work of `_observed`."""
        with self._observing:
            if self._observations is not None:
                return {name: (seen.centres[0], seen.centres[-1]) for name, seen in self._observations.items()}
            if self._spans is None:
                self._spans = widened(self.module, self.layers, self._seen, self.batch, cancel)
            return self._spans.ends()

    def _observe(self, cancel: threading.Event | None) -> dict[str, Observation]:
        return observe(self.module, self.layers, self._seen, self.batch, cancel)

    @property
    def _seen(self) -> Inputs:
        """The calibration examples that are looked at."""
        most = max(LEAST_CALIBRATION, int(CALIBRATION_OPERATIONS // max(self.operations, 1)))
        return self._calibration[:most]

    @cached_property
    def _classes(self) -> bool:
        """Whether outputs are logits of classes."""
        return self._metrics is not None and isinstance(self._metrics(self.call(self.example))[0], TopK)

    def remarks(self, quantization: Quantization) -> tuple[str, ...]:
        """What a reader of a recipe's numbers has to know of how it runs."""
        if self.graph_only or not quantization.joint:
            return self.notes
        told = remarks(quantization, self.layers, self.module, self.operations, self._seen)
        return (*self.notes, *told)

    @cached_property
    def simulation(self) -> Simulation:
        """Runs the network with quantized layers."""
        batches = -(-self._examples // self.batch)
        return Simulation(self.module, self.layers, self.quantizer, self.example, batches)

    @torch.inference_mode()
    def call(self, inputs: Inputs) -> Tensor:
        """What the fp32 network gives for a batch."""
        with running(), seeded():
            return selected(inputs.call(self.module), self.output)

    @property
    def graph(self) -> ExportedGraph:
        """The fp32 graph, exported once (seconds) and found again by later processes."""
        with self._export:  # two threads must not export at the same time
            return self._graph

    @cached_property
    def _graph(self) -> ExportedGraph:
        name = f"{self.key[:32]}-{NAMING}-torch{torch.__version__}.onnx"
        return ExportedGraph.cached(
            self._folder / name, self.module, self.layers, self.example, self.output, ragged=self.ragged
        )

    def prepare(
        self,
        asked: Mapping[str, LayerSpec],
        cancel: threading.Event | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Make the weights that take long, so that what follows does not wait for them.

        Args:
            asked: What is asked of each layer.
            cancel: Checked many times a second.
            progress: Hears the share that is done, 0 to 1.

        Raises:
            Cancelled: `cancel` was set; layers that were finished are kept.
        """
        ranges = {s.activation.range for s in asked.values() if s.activation and s.activation.method != "naive"}
        if ranges:
            (self._ends if ranges == {"minmax"} and not self.graph_only else self._observed)(cancel)
        self.quantizer.prepare(asked, Watch(cancel, progress))

    def quantized(self, asked: Mapping[str, LayerSpec]) -> dict[str, QuantizedLayer]:
        """The layers that a recipe quantizes at all."""
        return {name: self.quantizer.layer(name, spec) for name, spec in asked.items() if any(spec)}

    def artifact(self, quantization: Quantization, recipe_json: str) -> bytes:
        """The file that is shipped."""
        asked = specs(quantization, self.layers)
        packed = {name: self._pack(name, spec) for name, spec in asked.items() if any(spec)}
        return assemble(self.state, packed, recipe_json, self.form)

    def rows(self, quantization: Quantization) -> tuple[LayerRow, ...]:
        """One row per quantizable layer."""
        asked = specs(quantization, self.layers)
        return tuple(self.row(name, spec, self._bytes(name, spec)) for name, spec in asked.items())

    def row(self, name: str, spec: LayerSpec, size: int) -> LayerRow:
        """A layer's row.

        Args:
            name: Of the layer.
            spec: What is asked of it.
            size: Bytes of its tensors in the file.
        """
        layer, (weight, activation) = self.layers[name], spec
        return LayerRow(
            name=name,
            kind=layer.kind,
            shape=layer.shape,
            parameters=layer.parameters,
            weight_bits=weight.bits if weight else None,
            activation_bits=activation.bits if activation else None,
            bytes=size,
            sqnr=self.quantizer.sqnr(weight) if weight else None,
        )

    def _pack(self, name: str, spec: LayerSpec) -> PackedLayer:
        if (name, spec) not in self._packed:
            self._packed[name, spec] = pack_layer(self.quantizer.layer(name, spec))
        return self._packed[name, spec]

    def _bytes(self, name: str, spec: LayerSpec) -> int:
        layer = self.layers[name]
        own = {key: self.state[key] for key in (layer.weight_name, layer.bias_name) if key in self.state}
        return layer_bytes(own, self._pack(name, spec) if any(spec) else None)


def _code(kind: type[nn.Module]) -> bytes:
    """What a class computes, as far as its forward tells: an edited one must not find the old one's graph."""
    code = getattr(kind.forward, "__code__", None)
    if code is None:
        return kind.__qualname__.encode()
    constants = [value for value in code.co_consts if not hasattr(value, "co_code")]
    return b" ".join((kind.__qualname__.encode(), code.co_code, repr((code.co_names, constants)).encode()))
