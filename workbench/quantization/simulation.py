"""Running a network with its layers quantized, as fast as the fp32 network nearly.

The network is cut before each quantizable layer where a single tensor is alive. A run starts at the
deepest cut whose earlier layers are unchanged since a run that is still remembered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.quantization.finding import ProductMode, storage
from workbench.quantization.quantizer import LayerSpec, Quantizer
from workbench.randomness import seeded
from workbench.remembered import Remembered
from workbench.tracing import running, tracing
from workbench.twins import substituted, twin

REMEMBER_BYTES = 96 * 2**20
"""Memory for the inputs of stages that later runs can start from. Every viewer's kernel has as much."""

Replacements = Mapping[str, "nn.Module | Replacement"]


class Simulation:
    """A model whose quantizable layers can be replaced by quantized ones, stage by stage."""

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, Layer],
        quantizer: Quantizer,
        example: Inputs,
        batches: int = 1,
    ) -> None:
        """
        Args:
            model: In evaluation mode; it is read, never changed.
            layers: Its quantizable layers by name.
            quantizer: Makes their numbers.
            example: A batch; stages must give what the model gives for it, or the model is run whole.
            batches: How many batches a whole evaluation has: a stage's input is remembered where all fit.
        """
        self.quantizer = quantizer
        self._model = model
        self._largest = REMEMBER_BYTES * 2 // 3 // batches
        self._at: dict[str, list[Layer]] = {}
        """Layers by the module that uses them."""
        for layer in layers.values():
            for site in layer.sites:
                self._at.setdefault(site, []).append(layer)
        self._functional = [layer for layer in layers.values() if layer.functional]
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        self._aliases = {own[0]: own for own in names.values()}
        """All names of a parameter, by the first."""
        self.stages = _stages(model, list(self._at), self._functional, example)
        for stage in self.stages:  # a recipe speaks of layers, a stage of modules
            stage.before_layers = self._names(stage.before)
        self._remembered = Remembered(REMEMBER_BYTES)

    @property
    def whole(self) -> bool:
        """Whether the model cannot be cut, so that every change runs it from its start."""
        return isinstance(self.stages[0], WholeStage)

    @torch.inference_mode()
    def run(self, inputs: Inputs, asked: Mapping[str, LayerSpec], key: object = None) -> Any:
        """Outputs of the quantized network.

        Args:
            inputs: A batch.
            asked: What is asked of each layer.
            key: Identifies the batch. With it, inputs of stages are remembered and used again.

        Returns:
            What the model returns for the batch.
        """
        marks = [(key, index, *(asked[n] for n in stage.before_layers)) for index, stage in enumerate(self.stages)]
        first, x = 0, None
        if key is not None:
            for index in range(len(self.stages) - 1, 0, -1):
                x = self._remembered.get(marks[index])
                if x is not None:
                    first = index
                    break
        with running(), seeded(), self._functions(asked) as parameters:
            for index in range(first, len(self.stages)):
                if key is not None and index > first and isinstance(x, Tensor) and x.nbytes <= self._largest:
                    # early, wide activations cost more memory than the time they save
                    self._remembered.put(marks[index], x)
                stage = self.stages[index]
                replaced = {site: self._replacement(site, asked) for site in stage.sites}
                x = stage(inputs, x, replaced, parameters)
        return x

    def run_part(
        self,
        stages: Sequence[Stage],
        inputs: Inputs,
        x: Any,
        asked: Mapping[str, LayerSpec],
        replaced: Replacements,
    ) -> Any:
        """The value at the end of some stages, with something else in the place of some layers.

        Args:
            stages: One after the other.
            inputs: Of the model.
            x: The value at the first one's start.
            asked: What is asked of each layer.
            replaced: By module; the other modules' layers are quantized as they are asked for.
        """
        with running(), seeded(), self._functions(asked) as parameters:
            for stage in stages:
                own = {s: replaced[s] if s in replaced else self._replacement(s, asked) for s in stage.sites}
                x = stage(inputs, x, own, parameters)
        return x

    @property
    def model(self) -> nn.Module:
        """In fp32."""
        return self._model

    def _names(self, sites: Sequence[str]) -> tuple[str, ...]:
        own = [layer for site in sites for layer in self._at[site]]
        return tuple(dict.fromkeys(layer.name for layer in (*own, *self._functional)))

    def _replacement(self, site: str, asked: Mapping[str, LayerSpec]) -> nn.Module | Replacement:
        module = self._model.get_submodule(site)
        layers = [(layer, asked[layer.name]) for layer in self._at[site]]
        grids = [self.quantizer.rounds(spec.activation) for _, spec in layers if spec.activation]
        tensors = {**module._buffers, **module._parameters}
        if not any(spec.weight for _, spec in layers):
            return module if not grids else Replacement(module, dict, grids[0])

        def parameters() -> dict[str, Tensor]:
            """Made when the layer runs: of a large model, one layer's copy is there at a time."""
            made: dict[str, Tensor] = {}
            for layer, spec in layers:
                found = self.quantizer.parameters(layer.name, spec)
                # a tied weight has another module's name in the state, so the tensor tells what it is here
                for tensor, name in ((layer.weight, layer.weight_name), (layer.bias, layer.bias_name)):
                    if name in found:
                        made |= {own: found[name] for own, held in tensors.items() if held is tensor}
            return made

        return Replacement(module, parameters, grids[0] if grids else None)

    def _functions(self, asked: Mapping[str, LayerSpec]) -> AbstractContextManager[dict[str, Tensor]]:
        """The layers that functions use, as they take their place: parameters by name, and the rounding of operands."""
        parameters: dict[str, Tensor] = {}
        grids: dict[int, Rounds] = {}
        for layer in self._functional:
            spec = asked[layer.name]
            made = self.quantizer.parameters(layer.name, spec) if any(spec) else {}
            for name, value in made.items():
                parameters |= dict.fromkeys(self._aliases.get(name, (name,)), value)
            grid = self.quantizer.rounds(spec.activation) if spec.activation else None
            weight = made.get(layer.weight_name, layer.weight)
            if grid is not None and weight is not None:
                grids[storage(weight)] = grid
        return _functions(parameters, grids)


@contextlib.contextmanager
def _functions(parameters: dict[str, Tensor], grids: Mapping[int, Rounds]) -> Any:
    if not grids:
        yield parameters
        return

    def hear(_: Any, weight: Tensor, other: Tensor, __: Any) -> Tensor:
        grid = grids.get(storage(weight))
        return other if grid is None else grid.fake_quantize(other)

    with ProductMode(hear):
        yield parameters


class Replacement:
    """A layer with other parameters and a rounded input."""

    def __init__(self, module: nn.Module, parameters: Callable[[], dict[str, Tensor]], grid: Rounds | None) -> None:
        """
        Args:
            module: The layer; left as it is.
            parameters: Gives those that are others, by their names in the module.
            grid: Of its input; None leaves it as it is.
        """
        self._module = module
        self._parameters = parameters
        self._grid = grid

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """In the module's place, with the hooks that it has."""
        module, args, kwargs = self._made(args, kwargs)
        return module(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """In the place of the module's forward, which is called between its hooks."""
        module, args, kwargs = self._made(args, kwargs)
        return module.forward(*args, **kwargs)

    def _made(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        parameters = self._parameters()
        module = substituted(self._module, parameters) if parameters else self._module
        if self._grid is not None:
            args, kwargs = rounded_input(args, kwargs, self._grid)
        return module, args, kwargs


class Rounds(Protocol):
    """A grid, or what takes its place while it is learned."""

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Each value moved to the nearest point of the grid."""


def rounded_input(
    args: tuple[Any, ...], kwargs: dict[str, Any], grid: Rounds
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The first argument that holds floating point numbers, on its grid."""

    def round_(value: Any) -> Any:
        if isinstance(value, PackedSequence):
            return value._replace(data=grid.fake_quantize(value.data))
        return grid.fake_quantize(value)

    def real(value: Any) -> bool:
        return isinstance(value, PackedSequence) or (isinstance(value, Tensor) and value.is_floating_point())

    for index, value in enumerate(args):
        if real(value):
            return (*args[:index], round_(value), *args[index + 1 :]), kwargs
    for name, value in kwargs.items():
        if real(value):
            return args, {**kwargs, name: round_(value)}
    return args, kwargs


class Stage:
    """A run of graph nodes between two cuts."""

    before_layers: tuple[str, ...] = ()
    writes = False
    """Whether it changes the value at its start."""

    def __init__(
        self, model: nn.Module, entry: fx.Node | None, nodes: Sequence[fx.Node], before: Sequence[str], sites: set[str]
    ) -> None:
        self.entry = entry
        self.nodes = nodes
        self.before = tuple(before)
        """The modules with quantizable layers that ran before it."""
        self.sites = tuple(dict.fromkeys(str(n.target) for n in nodes if n.op == "call_module" and n.target in sites))
        self._modules = {str(n.target): model.get_submodule(str(n.target)) for n in nodes if n.op == "call_module"}
        self._model = model

    def __call__(self, inputs: Inputs, x: Any, replacements: Replacements, parameters: Mapping[str, Tensor]) -> Any:
        """The value at the end of the stage.

        Args:
            inputs: Of the model.
            x: The value at the stage's start.
            replacements: What takes the place of modules, by name.
            parameters: What takes the place of parameters that functions use.
        """
        if self.writes and isinstance(x, Tensor):
            x = x.clone()  # another run may start from it
        values: dict[fx.Node, Any] = {} if self.entry is None else {self.entry: x}
        call: dict[str, Callable[..., Any]] = {**self._modules, **replacements}
        arguments = iter(inputs.tensors[: len(inputs.positional)])
        for node in self.nodes:
            args = fx.node.map_arg(node.args, values.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
            if node.op == "placeholder":
                named = inputs.named.get(str(node.target))
                default = node.args[0] if node.args else None
                value = named if named is not None else next(arguments, default)
                values[node] = value.clone() if isinstance(value, Tensor) else value  # the model may write into it
            elif node.op == "call_module":
                values[node] = call[str(node.target)](*args, **kwargs)
            elif node.op == "call_function":
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            elif node.op == "call_method":
                values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            elif node.op == "get_attr":
                name = str(node.target)
                values[node] = parameters[name] if name in parameters else _attribute(self._model, name)
            else:  # output
                return args[0]
        return values[self.nodes[-1]]


class WholeStage(Stage):
    """The one stage of a model that cannot be traced: its layers are replaced in a twin that shares all tensors."""

    def __init__(self, model: nn.Module, sites: Sequence[str]) -> None:
        self.before = ()
        self.sites = tuple(sites)
        self._twin = twin(model)
        self._lock = threading.RLock()  # one run at a time: it is the twin that changes

    def __call__(
        self,
        inputs: Inputs,
        x: Any,  # noqa: ARG002 - it starts where the model starts
        replacements: Replacements,
        parameters: Mapping[str, Tensor],
    ) -> Any:
        """The model's output."""
        with self._lock:
            return self._run(inputs, replacements, parameters)

    def _run(self, inputs: Inputs, replacements: Replacements, parameters: Mapping[str, Tensor]) -> Any:
        before = []
        for name, replacement in replacements.items():
            self._twin.get_submodule(name).__dict__["forward"] = replacement.forward
        for name, value in parameters.items():
            owner, _, own = name.rpartition(".")
            held = self._twin.get_submodule(owner)._parameters
            before.append((held, own, held[own]))
            held[own] = nn.Parameter(value, requires_grad=False)
        try:
            return inputs.call(self._twin)
        finally:
            for held, own, parameter in reversed(before):  # two names can lead to one place
                held[own] = parameter


def _attribute(model: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(model.get_submodule(owner), name)


def _stages(model: nn.Module, sites: Sequence[str], functional: Sequence[Layer], example: Inputs) -> list[Stage]:
    try:
        stages = _cut(model, list(_graph(model, sites, functional, example).nodes), sites)
        if _same(model, stages, example):
            return stages
    except Exception:  # data-dependent control flow and the like: tracing has no narrower error
        return [WholeStage(model, sites)]
    return [WholeStage(model, sites)]


def traced(model: nn.Module, layers: Mapping[str, Layer], example: Inputs) -> fx.Graph | None:
    """The path that a model's code takes, down to the modules of its layers; None where it cannot be traced.

    Args:
        model: In evaluation mode.
        layers: Its quantizable layers.
        example: Tells which arguments are given.
    """
    sites = [site for layer in layers.values() for site in layer.sites]
    try:
        return _graph(model, sites, [layer for layer in layers.values() if layer.functional], example)
    except Exception:  # data-dependent control flow and the like: tracing has no narrower error
        return None


def _graph(model: nn.Module, sites: Sequence[str], functional: Sequence[Layer], example: Inputs) -> fx.Graph:
    with tracing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _LeafTracer(model, sites, functional).trace(model, concrete_args=_missing(model, example))


def _missing(model: nn.Module, example: Inputs) -> dict[str, Any]:
    """Arguments that are not given, with their defaults: tracing must not take them for tensors."""
    parameters = inspect.signature(model.forward).parameters
    given = {*list(parameters)[: len(example.positional)], *example.named}
    return {n: p.default for n, p in parameters.items() if n not in given and p.default is not inspect.Parameter.empty}


def _cut(model: nn.Module, nodes: list[fx.Node], sites: Sequence[str]) -> list[Stage]:
    last_use = {user: index for index, node in enumerate(nodes) for user in node.all_input_nodes}
    cuts: list[tuple[int, fx.Node | None]] = [(0, None)]
    for index, node in enumerate(nodes):
        if node.op == "call_module" and node.target in sites:
            alive = [n for n in nodes[:index] if last_use.get(n, -1) >= index]
            if len(alive) == 1 and alive[0].op not in ("placeholder", "get_attr"):
                cuts.append((index, alive[0]))
    stages: list[Stage] = []
    before = list[str]()
    for (start, entry), (stop, _) in zip(cuts, [*cuts[1:], (len(nodes), None)], strict=True):
        stage = Stage(model, entry, nodes[start:stop], before, set(sites))
        before.extend(name for name in stage.sites if name not in before)
        stages.append(stage)
    return stages


@torch.no_grad()
def _same(model: nn.Module, stages: Sequence[Stage], example: Inputs) -> bool:
    """Whether the stages give what the model gives: a trace follows one path of the model's code.

    Notes which stages write into the value that they start from.
    """
    with torch.inference_mode(False), running(), seeded():  # inference does not count what is written
        before = torch.get_rng_state()
        wanted = example.call(model)
        if not torch.equal(before, torch.get_rng_state()):
            return False  # a run from the middle would draw other numbers
        x = None
        for stage in stages:
            entry, version = x, _writes(x)
            x = stage(example, x, {}, {})
            stage.writes = version is not None and _writes(entry) != version
    return _equal(wanted, x)


def _writes(x: Any) -> object:
    """How often a tensor was written into, never the same where torch does not count; None for anything else."""
    if not isinstance(x, Tensor):
        return None
    return object() if x.is_inference() else x._version


def _equal(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, Tensor):
        return isinstance(found, Tensor) and torch.allclose(wanted, found, rtol=1e-4, atol=1e-5, equal_nan=True)
    if isinstance(wanted, Mapping):
        return (
            isinstance(found, Mapping)
            and list(wanted) == list(found)
            and all(_equal(wanted[k], found[k]) for k in wanted)
        )
    if isinstance(wanted, tuple | list):
        return isinstance(found, tuple | list) and len(wanted) == len(found) and all(map(_equal, wanted, found))
    if dataclasses.is_dataclass(wanted) and not isinstance(wanted, type):
        return type(wanted) is type(found) and _equal(vars(wanted), vars(found))
    return bool(wanted == found)


class _LeafTracer(fx.Tracer):
    """Traces a model down to the modules that are replaced, and never past one."""

    def __init__(self, model: nn.Module, sites: Sequence[str], functional: Sequence[Layer]) -> None:
        super().__init__()
        self._sites = set(map(model.get_submodule, sites))
        self._read = {id(layer.weight) for layer in functional}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m in self._sites:
            return True
        inside = not self._sites.isdisjoint(m.modules()) or any(id(p) in self._read for p in m.parameters())
        return not inside and super().is_leaf_module(m, module_qualified_name)
