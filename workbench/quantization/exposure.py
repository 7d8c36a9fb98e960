"""Finding the additions of activations in a model's own code, and making modules of them."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from workbench.inputs import Inputs
from workbench.outputs import Output
from workbench.passes import run_once
from workbench.quantization.preparation import outputs_of
from workbench.quantization.sums import Sum
from workbench.tracing import tracing

NAMES = ("add", "addition", "sums")
"""What a module's additions are called within it: the first that it has no other use for."""
FUNCTIONS: frozenset[Any] = frozenset({torch.add, Tensor.add, Tensor.add_, operator.add, operator.iadd})
METHODS = frozenset({"add", "add_", "__add__", "__iadd__"})
IN_PLACE = frozenset({"add_", "__iadd__"})


@dataclass(eq=False)
class _Owner:
    """A module whose own code adds."""

    module: nn.Module
    graph: fx.Graph
    """The path that its code takes, down to its children."""
    sums: list[fx.Node]
    usable: dict[fx.Node, bool] = field(default_factory=dict)
    """Those that were seen, and whether they add two activations of one shape."""
    agrees: bool = True


def expose_sums(model: nn.Module, example: Inputs, output: Output = None) -> tuple[str, ...]:
    """Put a `Sum` in the place of every addition of two floating-point tensors of one shape that follow the input.

    The modules whose code adds are found in a run, and the code of each is traced by itself, its children as they
    are. The modules keep their names, attributes and children; code that torch.fx cannot trace, or whose trace gives
    something else than the code, is left as it is, and so is everything if the model's output changed in any bit.

    Args:
        model: In evaluation mode; rewritten in its place.
        example: A batch.
        output: Which part of the model's output counts.

    Returns:
        Names of the additions; none where there are none, or none can be traced.
    """
    found: dict[nn.Module, None] = {}
    with _hearing(model, found):
        wanted = outputs_of(model, example, output)
    if not found:
        return ()
    with tracing():
        owners = [owner for module in found if (owner := _traced(module)) is not None]
    _look(owners, model, example)
    undo = [_rewrite(owner) for owner in owners if owner.agrees and any(owner.usable.values())]
    if undo and not _equal(wanted, model, example, output):
        for each in undo:
            each()
    return tuple(name for name, module in model.named_modules() if isinstance(module, Sum))


@contextlib.contextmanager
def _hearing(model: nn.Module, found: dict[nn.Module, None]) -> Iterator[None]:
    """Notes the innermost modules in which activations are added."""
    inside: list[nn.Module] = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            operands = (*args, *(kwargs or {}).values())[:2]
            if func in FUNCTIONS and inside and len(operands) == 2 and _alike(*operands):
                found[inside[-1]] = None
            return func(*args, **(kwargs or {}))

    def leave(*_: object) -> None:
        inside.pop()

    hooks = []
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(lambda m, _: inside.append(m)))
        hooks.append(module.register_forward_hook(leave))
    try:
        with Mode():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _alike(a: object, b: object) -> bool:
    """Whether two values are activations of one shape; a scalar is none."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return False
    return a.shape == b.shape and a.dim() > 0 and a.is_floating_point() and b.is_floating_point()


class _Tracer(fx.Tracer):
    """Follows the code of one module, never that of its children."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return True


def _traced(module: nn.Module) -> _Owner | None:
    if "forward" in vars(module) or all(hasattr(module, name) for name in NAMES):
        return None
    try:
        graph = fx.Graph()
        if isinstance(module, fx.GraphModule):
            graph.output(graph.graph_copy(module.graph, {}))
        else:
            graph = _Tracer().trace(module)
    except Exception:  # control flow that depends on values and the like: tracing has no narrower error
        return None
    follows: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or not follows.isdisjoint(node.all_input_nodes):
            follows.add(node)
    sums = [node for node in graph.nodes if _adds(node) and follows.issuperset(_operands(node))]
    return _Owner(module, graph, sums) if sums else None


def _adds(node: fx.Node) -> bool:
    called = node.target in (METHODS if node.op == "call_method" else FUNCTIONS) and node.op.startswith("call_")
    operands = _operands(node)
    if not called or len(operands) != 2 or not all(isinstance(each, fx.Node) for each in operands):
        return False
    if set(node.kwargs) - {"alpha", "input", "other"} or node.kwargs.get("alpha", 1) != 1:
        return False
    # what is written into must be read by nothing else
    return node.target not in IN_PLACE or len(operands[0].users) == 1


def _operands(node: fx.Node) -> Sequence[fx.Node]:
    named = [node.kwargs[name] for name in ("input", "other") if name in node.kwargs]
    return [*node.args, *named]  # type: ignore[list-item]


class _Watching(fx.Interpreter):
    """Runs an owner's graph and looks at what is added."""

    def __init__(self, owner: _Owner) -> None:
        super().__init__(owner.module, graph=owner.graph)
        self._owner = owner

    def run_node(self, n: fx.Node) -> Any:
        if n in self._owner.sums:
            operands: Any = self.map_nodes_to_values(tuple(_operands(n)), n)
            alike = _alike(*operands)
            self._owner.usable[n] = self._owner.usable.get(n, True) and alike
        return super().run_node(n)


@torch.inference_mode()
def _look(owners: Sequence[_Owner], model: nn.Module, example: Inputs) -> None:
    """Holds every call of the owners against their graphs."""
    given: list[tuple[list[Any], dict[str, Any]]] = []
    busy: list[_Owner] = []

    def copied(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) else value  # the code may write into it

    def before(_: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if not busy:
            given.append((list(map(copied, args)), {name: copied(value) for name, value in kwargs.items()}))

    def after(owner: _Owner, made: Any) -> None:
        if busy:
            return
        args, kwargs = given.pop()
        busy.append(owner)
        try:
            found = _Watching(owner).run(*_placed(owner.graph, args, kwargs))
            owner.agrees &= _same(made, found)
        except Exception:  # a path that its code did not take
            owner.agrees = False
        finally:
            busy.pop()

    hooks = []
    for owner in owners:
        hooks.append(owner.module.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(owner.module.register_forward_hook(lambda _, __, made, owner=owner: after(owner, made)))
    run_once(model, example, hooks)


def _placed(graph: fx.Graph, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """A call's arguments in the order of a graph's.

    Raises:
        TypeError: There are others.
    """
    names = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    default = {str(n.target): n.args[0] for n in graph.nodes if n.op == "placeholder" and n.args}
    if len(args) > len(names) or not set(kwargs) <= set(names[len(args) :]):
        raise TypeError("the graph has other arguments")
    rest = names[len(args) :]
    if not all(name in kwargs or name in default for name in rest):
        raise TypeError("an argument of the graph is missing")
    return [*args, *(kwargs[name] if name in kwargs else default[name] for name in rest)]


def _same(wanted: Any, found: Any) -> bool:
    """Bit by bit, but for NaN."""
    if isinstance(wanted, Tensor):
        alike = isinstance(found, Tensor) and wanted.shape == found.shape and wanted.dtype == found.dtype
        return alike and torch.allclose(wanted, found, rtol=0, atol=0, equal_nan=True)
    if isinstance(wanted, tuple | list):
        return type(wanted) is type(found) and len(wanted) == len(found) and all(map(_same, wanted, found))
    if isinstance(wanted, Mapping):
        return (
            isinstance(found, Mapping)
            and list(wanted) == list(found)
            and all(_same(wanted[k], found[k]) for k in wanted)
        )
    return wanted is None and found is None


def _equal(wanted: Tensor, model: nn.Module, example: Inputs, output: Output) -> bool:
    try:
        return _same(wanted, outputs_of(model, example, output))
    except Exception:  # whatever a model's own code raises where it finds other code than its own
        return False


def _rewrite(owner: _Owner) -> Callable[[], None]:
    """Makes the usable additions modules; gives what undoes it."""
    module, graph = owner.module, owner.graph
    name = next(each for each in NAMES if not hasattr(module, each))
    sums = [node for node in owner.sums if owner.usable.get(node)]
    made = [Sum() for _ in sums]
    module.add_module(name, made[0] if len(made) == 1 else nn.ModuleList(made).eval())
    for index, node in enumerate(sums):
        with graph.inserting_after(node):
            added = graph.call_module(name if len(sums) == 1 else f"{name}.{index}", tuple(_operands(node)))
        node.replace_all_uses_with(added)
        graph.erase_node(node)
    kind = type(module)
    if isinstance(module, fx.GraphModule):
        before = module.graph
        module.graph = graph

        def undo() -> None:
            module.graph = before
            delattr(module, name)

        return undo
    forward = type(fx.GraphModule(module, graph)).forward
    # a class of its own, as torch's parametrizations have it: copies of the module run what is theirs
    own = {
        "forward": forward,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    module.__class__ = type(kind.__name__, (kind,), own)

    def restore() -> None:
        module.__class__ = kind
        delattr(module, name)

    return restore
