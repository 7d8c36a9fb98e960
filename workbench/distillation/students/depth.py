"""Fewer blocks: those that give back the shape that they take can be left out."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase

from workbench.distillation.students.exchanging import CONTAINERS
from workbench.distillation.students.reduced import Reduced, finished, layers_of, noting, run
from workbench.distillation.ties import names_its_layers, reached
from workbench.errors import WorkbenchError
from workbench.tracing import running
from workbench.twins import exchange

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


class Skipped(nn.Module):
    """In place of a block that was left out: gives back its first input."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return `x`."""
        return x


class SkippedBranch(nn.Module):
    """In place of a branch that was left out, where its result is added to what it takes: zeros."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Zeros of the shape of `x`."""
        return torch.zeros_like(x)


class _Block(NamedTuple):
    name: str
    listed: bool
    """Whether it is an element of a container: models of many blocks keep them in one."""


class _Seen(NamedTuple):
    """What one run tells of each module."""

    changes: dict[str, float]
    """Modules that give back the shape that they take, with how much they change it: 1 - cosine of both."""
    branches: frozenset[str]
    """Those whose result is added to what they take."""
    norms: dict[str, str]
    """Modules, with the normalisation that takes their result."""


def drop_blocks(model: nn.Module, example: Tensor, depth: float) -> Reduced:
    """A copy without some of its blocks, the ones first that change their input least on the example.

    A block is a module that gives back the shape that it takes: the outermost one that is no container and holds no
    list of such blocks; where there is none, a single layer, with the normalisation behind it. How much one changes
    is 1 - cosine of input and output (Men et al., "ShortGPT", 2024, there over tokens).

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> drop_blocks(model, torch.ones(1, 4), 0.5).changed
        ('2',)

    Args:
        model: Takes one tensor and returns one; it is left as it is.
        example: A batch of its inputs, shape (n, ...), floating point.
        depth: Share of these blocks that stay, above 0 and at most 1; below 1, at least one block is left out.

    Raises:
        WorkbenchError: The model does not run on the example, or not without the blocks.
    """
    if not 0 < depth <= 1:
        raise WorkbenchError(f"depth = {depth}: it is a share of the blocks, above 0 and at most 1.")
    with torch.inference_mode(False):
        student = copy.deepcopy(model).eval().requires_grad_(False)
        before = run(student, example)
        seen = _looked_at(student, example)
        blocks = list(_composites(student, "", False, seen)) or list(_leaves(student, seen))
        names = [block.name for block in blocks]
        order = sorted(names, key=lambda name: seen.changes[name])
        number = min(len(names), max(1, int((1 - depth) * len(names) + 0.5))) if depth < 1 else 0
        left_out = tuple(name for name in names if name in order[:number])
        kept = _reasons(student, names, left_out)
        for name in left_out:
            _leave_out(student, name, seen)
        return finished(Reduced(student, left_out, kept), example, before.output, model.training)


@torch.enable_grad()
def _looked_at(model: nn.Module, example: Tensor) -> _Seen:
    changes: dict[str, float] = {}
    unlike: set[str] = set()
    ends: dict[str, tuple[Any, Any]] = {}

    def note(name: str, args: tuple[Any, ...], output: Any) -> None:
        x = args[0] if args else None
        if not isinstance(x, Tensor) or not isinstance(output, Tensor) or x.shape != output.shape:
            unlike.add(name)
            return
        ends[name] = (x.grad_fn, output.grad_fn)
        cosine = F.cosine_similarity(x.detach().flatten(1).double(), output.detach().flatten(1).double())
        changes[name] = max(changes.get(name, 0.0), round(1 - float(cosine.mean()), 6))

    with noting(model, note), names_its_layers(model, "cannot run on the example"), running():
        output = model(example.detach().clone().requires_grad_().clone())
    alike = {name: ends[name] for name in changes if name not in unlike and math.isfinite(changes[name])}
    sums = [
        {earlier for earlier, _ in node.next_functions}
        for node in reached(output.grad_fn, through=lambda _: True)
        if node.name().startswith("AddBackward")
    ]
    branches = {name for name, both in alike.items() if set(both) in sums}
    modules = dict(model.named_modules())
    takers = {ends[name][0]: name for name, module in modules.items() if isinstance(module, NORMS) and name in ends}
    norms = {name: takers[made] for name, (_, made) in alike.items() if made in takers}
    return _Seen({name: changes[name] for name in alike}, frozenset(branches), norms)


def _composites(module: nn.Module, name: str, listed: bool, seen: _Seen) -> Iterator[_Block]:
    container = isinstance(module, CONTAINERS)
    inner = [
        block
        for key, child in module.named_children()
        for block in _composites(child, f"{name}.{key}".strip("."), container, seen)
    ]
    composite = not container and any(True for _ in module.children()) and layers_of(module)
    if name in seen.changes and name and composite and not any(block.listed for block in inner):
        yield _Block(name, listed)
    else:
        yield from inner


def _leaves(model: nn.Module, seen: _Seen) -> Iterator[_Block]:
    for name in layers_of(model):
        if name and name in seen.changes:
            yield _Block(name, False)


def _leave_out(student: nn.Module, name: str, seen: _Seen) -> None:
    norm = seen.norms.get(name)
    if norm is not None and name in layers_of(student):
        exchange(student, student.get_submodule(norm), Skipped())
    exchange(student, student.get_submodule(name), SkippedBranch() if name in seen.branches else Skipped())


def _reasons(model: nn.Module, blocks: list[str], left_out: tuple[str, ...]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for name in layers_of(model):
        block = next((b for b in blocks if f"{name}.".startswith(f"{b}.")), None)
        if block is None:
            reasons[name] = "no block around gives back the shape that it takes"
        elif block not in left_out:
            reasons[block] = "kept at this depth"
    return reasons
