"""Which hidden layers a network has, and which of a student's could learn from which of its teacher's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import WorkbenchError
from workbench.tracing import running

Shape = tuple[int, ...]


def shapes(network: nn.Module, example: Tensor) -> dict[str, Shape]:
    """What the layers of a network return for an example, in the order in which they are called.

    Only modules without parts of their own that are called once and return a tensor of shape (n, channels, ...);
    the one that makes the network's output is left out.

    Args:
        network: Left as it is, and not to be run by another thread meanwhile.
        example: A batch of its inputs, shape (n, ...).

    Returns:
        Name to shape without n.
    """
    calls: Counter[str] = Counter()
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: Any, leaving: Any) -> None:
            calls[name] += 1
            if isinstance(leaving, Tensor) and leaving.dim() >= 2:
                found[name] = leaving

        return hook

    leaves = {name: module for name, module in network.named_modules() if name and not list(module.children())}
    hooks = [module.register_forward_hook(keep(name)) for name, module in leaves.items()]
    try:
        with torch.inference_mode(), running(), evaluating(network):
            output = network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: tuple(kept.shape[1:]) for name, kept in found.items() if calls[name] == 1 and not _same(kept, output)}


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each module then has the mode that it had."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _same(features: Tensor, output: Any) -> bool:
    return isinstance(output, Tensor) and features.data_ptr() == output.data_ptr() and features.shape == output.shape


def proposed(loss: str, student: Mapping[str, Shape], teacher: Mapping[str, Shape]) -> dict[str, str]:
    """Which layers of a student could learn from which of its teacher.

    The last layer of each with a grid of positions ends a stage; stages are paired whose grids are nearest to each
    other, 13x13 with 14x14. Without any, the last layer of each. Of these pairs hints take the middle one, as the
    paper advises; attention takes all that have positions; relations the last, where examples are told apart best.

    Args:
        loss: A loss of features.
        student: Of `shapes`.
        teacher: Of `shapes`.

    Returns:
        Student's layer to teacher's.

    Raises:
        WorkbenchError: One of them has no hidden layer of the kind that the loss needs.
    """
    positions = loss == "attention"
    ours, theirs = (_ends(each, positions=positions) for each in (student, teacher))
    if not ours or not theirs:
        who = "student" if not ours else "teacher"
        kind = "hidden layer with positions (a feature map)" if positions else "hidden layer"
        raise WorkbenchError(f"distillation.features.loss = {loss!r}: the {who} has no {kind} to learn from.")
    pairs = {
        name: theirs[other]
        for grid, name in ours.items()
        if (other := _nearest(grid, theirs)) is not None and _nearest(other, ours) == grid
    }
    pairs = pairs or {list(ours.values())[-1]: list(theirs.values())[-1]}
    if loss == "attention":
        return pairs
    names = list(pairs)
    name = names[len(names) // 2] if loss == "hints" else names[-1]
    return {name: pairs[name]}


def _ends(found: Mapping[str, Shape], *, positions: bool) -> dict[Shape, str]:
    """The last layer of each grid, in the order of these layers."""
    ends: dict[Shape, str] = {}
    for name, shape in found.items():
        grid = grid_of(shape)
        if not positions or math.prod(grid) > 1:
            ends.pop(grid, None)
            ends[grid] = name
    return ends


def _nearest(grid: Shape, among: Iterable[Shape]) -> Shape | None:
    """The grid of as many dimensions with the most similar number of positions."""
    ratios = {other: abs(math.log(math.prod(grid) / math.prod(other))) for other in among if len(other) == len(grid)}
    return min(ratios, key=ratios.__getitem__, default=None)


def grid_of(shape: Shape) -> Shape:
    """Positions of features: those of an image behind its channels, the tokens of a sequence before them."""
    return shape[1:] if len(shape) != 2 else shape[:1]


def channels_of(shape: Shape) -> int:
    """How wide features are; see `grid_of`."""
    return shape[0] if len(shape) != 2 else shape[1]
