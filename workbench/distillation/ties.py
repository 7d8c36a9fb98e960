"""Which layers of a model have to agree on a width, found by running it once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from math import lcm
from typing import Any, NamedTuple

from torch import Tensor, nn

from workbench.errors import WorkbenchError

JOINS = ("CatBackward", "StackBackward")
"""Autograd's names for operations whose inputs may differ in width."""

Node = Any  # torch.autograd.graph.Node, of which each operation has its own subclass


class Calls:
    """While entered, notes which layers are called, with inputs and outputs of which shape."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self._layers = layers
        self._hooks: list[Any] = []
        self.shapes: list[tuple[str, tuple[int, ...]]] = []
        """Layer and input shape, in the order of the calls."""
        self.output: tuple[int, ...] = ()
        """Of the whole model."""
        self.made: dict[Node, str] = {}
        """Which layer's output an autograd node made."""
        self.met: dict[str, Node] = {}
        """Which autograd node made a layer's input."""

    def __enter__(self) -> Calls:
        self._hooks = [module.register_forward_hook(self._note(name)) for name, module in self._layers.items()]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, name: str) -> Any:
        def hook(_: nn.Module, arriving: tuple[Tensor, ...], leaving: Tensor) -> None:
            self.shapes.append((name, tuple(arriving[0].shape)))
            if leaving.grad_fn is not None:  # noted now: an operation in place puts its own node there
                self.made[leaving.grad_fn] = name
                self.met[name] = arriving[0].grad_fn

        return hook

    def compare(self, before: Calls, output: Tensor) -> None:
        """Raise where the student's data took another way than the model's.

        A ``view`` with fixed sizes shows as a batch of another length.

        Raises:
            WorkbenchError: It did; the first layer concerned is named.
        """
        for (name, ours), (same, theirs) in zip(self.shapes, before.shapes, strict=False):
            if name != same or len(ours) != len(theirs) or ours[0] != theirs[0]:
                raise WorkbenchError(
                    f"The model cannot be made narrower: {name} gets {ours} where {theirs} came before. "
                    "Something before it has its sizes written out; a `view(-1, 576)` should be a `flatten(1)`."
                )
        if tuple(output.shape) != before.output:
            raise WorkbenchError(
                f"The model cannot be made narrower: its output is {tuple(output.shape)} instead of {before.output}."
            )


class Ties(NamedTuple):
    """What limits the widths of a model's layers."""

    fixed: set[str]
    """Layers whose output reaches the model's output, or is added to it or to the model's input."""
    groups: dict[str, int]
    """Into how many equal groups the outputs of the other layers are cut by what follows."""
    sets: dict[str, int]
    """A number for each of these layers, the same for those whose outputs meet in an operation."""
    calls: Calls
    """How each layer was called."""


def ties(model: nn.Module, layers: Mapping[str, nn.Module], choosers: Set[str], example: Tensor) -> Ties:
    """Find out by running the model once and reading the graph that autograd keeps.

    Values that meet in an operation have the same width, but for concatenation and for the layers that choose
    their own width.

    Args:
        model: In evaluation mode, with no parameter that requires a gradient.
        layers: What is noted.
        choosers: Names of the layers that choose how many channels leave them.
        example: A batch of inputs, shape (n, ...).

    Raises:
        WorkbenchError: The model does not run on the example, or does not return a tensor that depends on it.
    """
    calls = Calls(layers)
    if not example.is_floating_point():
        raise WorkbenchError(
            f"The model's inputs are {example.dtype}; only models of floating-point inputs get students."
        )
    with calls, names_its_layers(model, "cannot run on the example"):
        entry = example.requires_grad_().clone()
        origin = entry.grad_fn  # stands for the input, also where the model changes it in place
        output = model(entry)
    if not isinstance(output, Tensor) or output.grad_fn is None:
        what = f"a {type(output).__name__}" if not isinstance(output, Tensor) else "something that no gradient reaches"
        raise WorkbenchError(f"{type(model).__name__} returns {what}; a student needs logits, one tensor.")
    calls.output = tuple(output.shape)
    chosen = {node: name for node, name in calls.made.items() if name in choosers}
    same = _Sets()
    for node in reached(output.grad_fn, through=lambda _: True):
        if node not in chosen and not node.name().startswith(JOINS):
            for earlier, _ in node.next_functions:
                if earlier is not None:
                    same.join(node, earlier)
    kept = {same.of(node) for node in reached(output.grad_fn, through=lambda node: node not in chosen)}
    kept.add(same.of(origin))
    cut: dict[Node, int] = {}
    for node, name in calls.made.items():
        number = getattr(layers[name], "groups", 1) if name in choosers else getattr(layers[name], "num_groups", 1)
        for side in {same.of(node), same.of(calls.met[name])}:
            cut[side] = lcm(cut.get(side, 1), number)
    widths = {name: same.of(node) for node, name in chosen.items()}
    numbers = {own: number for number, own in enumerate(dict.fromkeys(widths.values()))}
    return Ties(
        {n for n, own in widths.items() if own in kept},
        {n: cut[own] for n, own in widths.items()},
        {n: numbers[own] for n, own in widths.items()},
        calls,
    )


@contextmanager
def names_its_layers(model: nn.Module, what: str) -> Iterator[None]:
    """Turns what fails inside a model into an error that names the module where it did."""
    path: list[str] = []
    hooks = []

    def enter(name: str) -> Any:
        return lambda *_: path.append(name)

    def leave(*_: object) -> None:
        path.pop()

    for name, module in model.named_modules():
        hooks += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:  # whatever the model's own code raises
        where = " in ".join(filter(None, reversed(path[1:]))) or "its own forward"
        raise WorkbenchError(f"{type(model).__name__} {what}: {where} says: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()


def reached(start: Node, through: Any) -> Iterator[Node]:
    """Autograd nodes from an output towards the inputs; those that are not gone through are still yielded.

    Args:
        start: The output's node.
        through: Says of a node whether to go on behind it.
    """
    seen, waiting = {start}, [start]
    while waiting:
        node = waiting.pop()
        yield node
        if through(node):
            earlier = {e for e, _ in node.next_functions if e is not None} - seen
            seen |= earlier
            waiting.extend(earlier)


class _Sets:
    """Disjoint sets (Galler and Fischer 1964)."""

    def __init__(self) -> None:
        self._parent: dict[Node, Node] = {}

    def of(self, node: Node) -> Node:
        """The representative of a node's set."""
        while (parent := self._parent.get(node, node)) is not node:
            node = parent
        return node

    def join(self, a: Node, b: Node) -> None:
        """Make one set of two."""
        self._parent[self.of(a)] = self.of(b)
