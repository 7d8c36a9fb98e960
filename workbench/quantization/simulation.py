"""Running a network with its layers quantized, as fast as the fp32 network nearly.

The network is cut before each quantizable layer where a single tensor is alive. A run starts at the
deepest cut whose earlier layers are unchanged since a run that is still remembered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from workbench.quantization.quantizer import LayerSpec, Quantizer
from workbench.tracing import running, tracing
from workbench.twins import substituted, twin

REMEMBER_BYTES = 96 * 2**20
"""Memory for the inputs of stages that later runs can start from. Every viewer's kernel has as much."""


class Simulation:
    """A model whose quantizable layers can be replaced by quantized ones, stage by stage."""

    def __init__(
        self, model: nn.Module, layers: Mapping[str, nn.Module], quantizer: Quantizer, batches: int = 1
    ) -> None:
        """
        Args:
            model: In evaluation mode; it is read, never changed.
            layers: Its quantizable layers by name.
            quantizer: Makes their numbers.
            batches: How many batches a whole evaluation has: a stage's input is remembered where all fit.
        """
        self.quantizer = quantizer
        self._largest = REMEMBER_BYTES * 2 // 3 // batches
        self.stages = _stages(model, layers)
        self._remembered: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()
        self._remembered_bytes = 0
        self._lock = threading.Lock()

    @torch.inference_mode()
    def run(self, x: Tensor, asked: Mapping[str, LayerSpec], key: object = None) -> Tensor:
        """Outputs of the quantized network.

        Args:
            x: A batch of inputs.
            asked: What is asked of each layer.
            key: Identifies the batch. With it, inputs of stages are remembered and used again.

        Returns:
            The model's output for the batch, float32.
        """
        marks = [(key, index, *(asked[name] for name in stage.before)) for index, stage in enumerate(self.stages)]
        first = 0
        if key is not None:
            with self._lock:
                for index in range(len(self.stages) - 1, 0, -1):
                    if marks[index] in self._remembered:
                        self._remembered.move_to_end(marks[index])
                        first, x = index, self._remembered[marks[index]]
                        break
        for index in range(first, len(self.stages)):
            if key is not None and index > first:
                self._remember(marks[index], x)
            stage = self.stages[index]
            replacements = {name: self._replacement(name, asked[name]) for name in stage.layers}
            with running():
                x = stage(x, replacements)
        return x

    def _replacement(self, name: str, spec: LayerSpec) -> Callable[[Tensor], Tensor]:
        module = self.quantizer.layers[name]
        parameters = self.quantizer.parameters(name, spec)
        if parameters:
            module = substituted(module, parameters)
        layer = self.quantizer.layer(name, spec)
        if layer.activation_grid is None:
            return module
        fake_quantize = layer.activation_grid.fake_quantize
        return lambda x: module(fake_quantize(x))

    def _remember(self, mark: tuple[Any, ...], x: Tensor) -> None:
        size = x.numel() * x.element_size()
        if size > self._largest:  # early, wide activations cost more memory than the time they save
            return
        with self._lock:
            self._remembered[mark] = x
            self._remembered_bytes += size
            while self._remembered_bytes > REMEMBER_BYTES:
                _, oldest = self._remembered.popitem(last=False)
                self._remembered_bytes -= oldest.numel() * oldest.element_size()


class Stage:
    """A run of graph nodes between two cuts."""

    def __init__(
        self, model: nn.Module, entry: fx.Node | None, nodes: Sequence[fx.Node], before: Sequence[str], layers: set[str]
    ) -> None:
        self.entry = entry
        self.nodes = nodes
        self.before = tuple(before)
        """The quantizable layers that ran before it."""
        self.layers = tuple(dict.fromkeys(str(n.target) for n in nodes if n.op == "call_module" and n.target in layers))
        self._modules = {str(n.target): model.get_submodule(str(n.target)) for n in nodes if n.op == "call_module"}
        self._model = model

    def __call__(self, x: Tensor, replacements: Mapping[str, Callable[[Tensor], Tensor]]) -> Any:
        """The value at the end of the stage, for the value at its start and what its layers are replaced by."""
        values: dict[fx.Node, Any] = {} if self.entry is None else {self.entry: x}
        call: dict[str, Callable[..., Any]] = {**self._modules, **replacements}
        for node in self.nodes:
            args = fx.node.map_arg(node.args, values.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
            if node.op == "placeholder":
                values[node] = x
            elif node.op == "call_module":
                values[node] = call[str(node.target)](*args, **kwargs)
            elif node.op == "call_function":
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            elif node.op == "call_method":
                values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            elif node.op == "get_attr":
                values[node] = _attribute(self._model, str(node.target))
            else:  # output
                return args[0]
        return values[self.nodes[-1]]


class WholeStage(Stage):
    """The one stage of a model that cannot be traced: its layers are replaced in a twin that shares all tensors."""

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        self.before = ()
        self.layers = tuple(layers)
        self._twin = twin(model)

    def __call__(self, x: Tensor, replacements: Mapping[str, Callable[[Tensor], Tensor]]) -> Any:
        """The model's output."""
        for name, replacement in replacements.items():
            self._twin.get_submodule(name).__dict__["forward"] = replacement  # a plain setattr would make it a child
        return self._twin(x)


def _attribute(model: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(model.get_submodule(owner), name)


def _stages(model: nn.Module, layers: Mapping[str, nn.Module]) -> list[Stage]:
    try:
        with tracing():
            graph = _LeafTracer(layers).trace(model)
    except Exception:  # data-dependent control flow and the like: tracing has no narrower error
        return [WholeStage(model, list(layers))]
    nodes = list(graph.nodes)
    last_use = {user: index for index, node in enumerate(nodes) for user in node.all_input_nodes}
    cuts: list[tuple[int, fx.Node | None]] = [(0, None)]
    for index, node in enumerate(nodes):
        if node.op == "call_module" and node.target in layers:
            alive = [n for n in nodes[:index] if last_use.get(n, -1) >= index]
            if len(alive) == 1 and alive[0].op != "placeholder":
                cuts.append((index, alive[0]))
    stages, before = [], list[str]()
    for (start, entry), (stop, _) in zip(cuts, [*cuts[1:], (len(nodes), None)], strict=True):
        stage = Stage(model, entry, nodes[start:stop], before, set(layers))
        before.extend(name for name in stage.layers if name not in before)
        stages.append(stage)
    return stages


class _LeafTracer(fx.Tracer):
    """Traces a model but never into a layer that can be quantized."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._layers = layers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._layers or super().is_leaf_module(m, module_qualified_name)
