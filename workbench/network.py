"""One set of weights with everything that was made from it: the model on the bench, or a student of it."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from workbench.delivery.artifact import PackedLayer, assemble, layer_bytes, pack_layer
from workbench.form import Form
from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.layers import SUM, Layer
from workbench.metrics import Metric, TopK
from workbench.outputs import Output, selected
from workbench.quantization.calibration import Later, Observation, observe, widened
from workbench.quantization.equalization import equalized
from workbench.quantization.exposure import expose_sums
from workbench.quantization.finding import find_layers
from workbench.quantization.jointly import remarks, settle
from workbench.quantization.moments import Moments, MomentStore, collected
from workbench.quantization.operations import operations
from workbench.quantization.preparation import prepared
from workbench.quantization.quantizer import DYNAMIC, LayerSpec, Learned, Quantizer, Settled, specs
from workbench.quantization.reconstruction import Goal
from workbench.quantization.rounding import Watch
from workbench.quantization.simulation import Simulation
from workbench.randomness import seeded
from workbench.recipe import Quantization
from workbench.report import LayerRow
from workbench.runtimes.graph import NAMING, ExportedGraph
from workbench.tracing import running

T = TypeVar("T")

BATCH = 100  # activations of the widest layer stay in the cache; larger batches are slower
BATCH_OPERATIONS = 5e9
"""Floating point operations in a batch at most, so that a first estimate and a cancel come soon."""
CALIBRATION_OPERATIONS = 40e9
"""Of each of the two passes over the calibration data at most."""
LEAST_CALIBRATION = 8
"""But as many examples are always seen."""
NO_SUMS = "sums changes nothing here: no addition of two activations was found that can be taken apart."


class Network:
    """A private copy of a model, calibrated on first use; the model that was given is left as it was."""

    graph_only = False
    """Whether there is a graph for a runtime and no torch module."""
    _observations: Later[Observation] | None = None
    _spans: Later[tuple[Tensor, Tensor]] | None = None
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
        self._code = described(self.module)
        expose_sums(self.module, self.example, output)
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
        digest = hashlib.sha256(self._code)
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

    def _observed(self, cancel: threading.Event | None = None, *, sums: bool = False) -> dict[str, Observation]:
        """What arrives at each layer, looked at once; at operands of sums where they are asked for."""
        with self._observing:
            if self._observations is None or (sums and self._observations.missing):
                known = self._observations
                found = self._observe(self._due(known, sums), cancel)
                self._observations = self._grown(known, found, sums, lambda: self._observed(sums=True))
            return self._observations

    def _ends(self, cancel: threading.Event | None = None, *, sums: bool = False) -> dict[str, tuple[Tensor, Tensor]]:
        """The smallest and largest value that arrives at each layer: half the work of `_observed`."""
        with self._observing:
            if self._spans is None or (sums and self._spans.missing):
                known, due = self._spans, self._due(self._spans, sums)
                if self._observations is not None and self._observations.missing.isdisjoint(due):
                    seen = {name: self._observations[name] for name in due if name in self._observations}
                    found = {name: (each.centres[0], each.centres[-1]) for name, each in seen.items()}
                else:
                    found = widened(self.module, due, self._seen, self.batch, cancel).ends()
                self._spans = self._grown(known, found, sums, lambda: self._ends(sums=True))
            return self._spans

    def _due(self, known: Later[Any] | None, sums: bool) -> dict[str, Layer]:
        """Layers to be looked at."""
        groups = ({False} if known is None else set()) | ({True} if sums else set())
        return {name: layer for name, layer in self.layers.items() if (layer.kind == SUM) in groups}

    def _grown(
        self, known: Later[T] | None, found: Mapping[str, T], sums: bool, find: Callable[[], object]
    ) -> Later[T]:
        """The same object, with more in it."""
        if known is None:
            operands = (name for name, layer in self.layers.items() if layer.kind == SUM)
            known = Later(operands, find)
        known.update(found)
        if sums:
            known.missing = frozenset()
        return known

    def _observe(self, layers: Mapping[str, Layer], cancel: threading.Event | None) -> dict[str, Observation]:
        return observe(self.module, layers, self._seen, self.batch, cancel)

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
        if quantization.sums != "none" and not any(layer.kind == SUM for layer in self.layers.values()):
            return (*self.notes, *self._joint_remarks(quantization), *self._call_remarks(quantization), NO_SUMS)
        return (*self.notes, *self._joint_remarks(quantization), *self._call_remarks(quantization))

    def _call_remarks(self, quantization: Quantization) -> tuple[str, ...]:
        asked = specs(quantization, self.layers).values()
        if not any(spec.activation and spec.activation.range == DYNAMIC for spec in asked):
            return ()
        return (
            "The range of activations is taken anew at each call, and the examples of a call share it. Accuracy is "
            f"that of calls of up to {self.batch} examples, whatever the batch of the deployment.",
        )

    def _joint_remarks(self, quantization: Quantization) -> tuple[str, ...]:
        if self.graph_only or not quantization.joint:
            return ()
        return remarks(quantization, self.layers, self.module, self.operations, self._seen)

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
        self._look(asked, cancel)
        self.quantizer.prepare(asked, Watch(cancel, progress))

    def quantized(self, asked: Mapping[str, LayerSpec]) -> dict[str, QuantizedLayer]:
        """The layers that a recipe quantizes at all."""
        self._look(asked)
        return {name: self.quantizer.layer(name, spec) for name, spec in asked.items() if any(spec)}

    def _look(self, asked: Mapping[str, LayerSpec], cancel: threading.Event | None = None) -> None:
        """Look at what arrives at the layers whose inputs are put on grids, all of them in one go."""
        known = ("naive", DYNAMIC)  # without a look at data
        grids = {
            name: spec.activation
            for name, spec in asked.items()
            if spec.activation and spec.activation.method not in known and spec.activation.range not in known
        }
        if grids:
            minmax = all(grid.range == "minmax" for grid in grids.values()) and not self.graph_only
            sums = any(self.layers[name].kind == SUM for name in grids)
            (self._ends if minmax else self._observed)(cancel, sums=sums)

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


def described(model: nn.Module) -> bytes:
    """The form and the code of a model."""
    kinds = dict.fromkeys(type(module) for module in model.modules())
    return repr(model).encode() + b"".join(map(_code, kinds))


def _code(kind: type[nn.Module]) -> bytes:
    """What a class computes, as far as its forward tells: an edited one must not find the old one's graph."""
    code = getattr(kind.forward, "__code__", None)
    if code is None:
        return kind.__qualname__.encode()
    constants = [value for value in code.co_consts if not hasattr(value, "co_code")]
    return b" ".join((kind.__qualname__.encode(), code.co_code, repr((code.co_names, constants)).encode()))
