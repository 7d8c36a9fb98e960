"""One set of weights with everything that was made from it: the model on the bench, or a student of it."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from workbench.delivery.artifact import PackedLayer, assemble, layer_bytes, pack_layer
from workbench.grid import QuantizedLayer
from workbench.quantization.calibration import observe
from workbench.quantization.quantizer import QUANTIZABLE, LayerSpec, Quantizer, specs
from workbench.quantization.simulation import Simulation
from workbench.recipe import Quantization
from workbench.report import LayerRow
from workbench.runtimes.graph import ExportedGraph


class Network:
    """A private copy of a model, calibrated on first use; the model that was given is left as it was."""

    def __init__(self, model: nn.Module, calibration: Tensor, batches: int, folder: Path) -> None:
        """
        Args:
            model: Any module whose forward takes one tensor.
            calibration: Inputs that set activation ranges.
            batches: How many batches a whole evaluation has.
            folder: Where the exported graph is kept for the next process.
        """
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        if calibration.dim() == 4:
            self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.layers = {name: m for name, m in self.module.named_modules() if isinstance(m, QUANTIZABLE)}
        self._calibration = calibration
        self._batches = batches
        self._folder = folder
        self._packed: dict[QuantizedLayer, PackedLayer] = {}
        self._export = threading.Lock()

    @cached_property
    def key(self) -> str:
        """SHA-256 over the form and the weights, 64 hex digits."""
        digest = hashlib.sha256(repr(self.module).encode())
        for name, tensor in self.module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def parameters(self) -> int:
        """Weights and biases, shared ones once."""
        return sum(p.numel() for p in self.module.parameters())

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The fp32 state."""
        return {name: value.contiguous() for name, value in self.module.state_dict().items()}

    @cached_property
    def quantizer(self) -> Quantizer:
        """Calibrated at first use."""
        return Quantizer(self.layers, observe(self.module, self.layers, self._calibration))

    @cached_property
    def simulation(self) -> Simulation:
        """Runs the network with quantized layers."""
        return Simulation(self.module, self.layers, self.quantizer, self._batches)

    @property
    def graph(self) -> ExportedGraph:
        """The fp32 graph, exported once (seconds) and found again by later processes."""
        with self._export:  # two threads must not export at the same time
            return self._graph

    @cached_property
    def _graph(self) -> ExportedGraph:
        name = f"{self.key[:32]}-torch{torch.__version__}.onnx"
        return ExportedGraph.cached(self._folder / name, self.module, self._calibration[:2])

    def quantized(self, asked: Mapping[str, LayerSpec]) -> dict[str, QuantizedLayer]:
        """The layers that a recipe quantizes at all."""
        return {name: self.quantizer.layer(name, spec) for name, spec in asked.items() if any(spec)}

    def artifact(self, quantization: Quantization, recipe_json: str) -> bytes:
        """The file that is shipped."""
        layers = self.quantized(specs(quantization, self.layers))
        return assemble(self.state, {name: self._pack(layer) for name, layer in layers.items()}, recipe_json)

    def rows(self, quantization: Quantization) -> tuple[LayerRow, ...]:
        """One row per quantizable layer."""
        asked = specs(quantization, self.layers)
        rows = []
        for name, module in self.layers.items():
            weight, activation = asked[name]
            rows.append(
                LayerRow(
                    name=name,
                    kind=type(module).__name__,
                    shape=tuple(module.weight.shape),
                    parameters=sum(p.numel() for p in module.parameters()),
                    weight_bits=weight.bits if weight else None,
                    activation_bits=activation.bits if activation else None,
                    bytes=self._bytes(name, asked[name]),
                    sqnr=self.quantizer.sqnr(weight) if weight else None,
                )
            )
        return tuple(rows)

    def _pack(self, layer: QuantizedLayer) -> PackedLayer:
        if layer not in self._packed:
            self._packed[layer] = pack_layer(layer)
        return self._packed[layer]

    def _bytes(self, name: str, spec: LayerSpec) -> int:
        own = {key: value for key, value in self.state.items() if key.rpartition(".")[0] == name}
        return layer_bytes(own, self._pack(self.quantizer.layer(name, spec)) if any(spec) else None)
