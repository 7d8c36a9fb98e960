"""ONNX operators that move elements or make tensors of a shape, and shape arithmetic itself."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Proxy

from workbench.loading.onnx_values import Node, Sizes, Untranslatable, Value, number, numbers, sizes

WHOLE = 2**63 - 1


def sizes_as_tensor(items: list[int], device: torch.device) -> Tensor:
    """Sizes as data, as ONNX sees them.

    Args:
        items: One integer each.
        device: Where the tensor is to be.
    """
    return torch.tensor(items, device=device)


def _reshape(node: Node, x: Value, target: Value) -> Any:
    wanted = numbers(target)
    if not node.get("allowzero", 0):
        wanted = [x.size(place) if _is(size, 0) else size for place, size in enumerate(wanted)]
    if isinstance(x, Proxy):
        wanted = _with_free_batch(wanted, node.shapes[0], node.batch)
    return torch.reshape(x, tuple(wanted))


def _with_free_batch(wanted: list[Any], shape: tuple[Any, ...] | None, batch: int | None) -> list[Any]:
    """A shape without the batch of the example that was exported, where the other sizes allow it.

    Args:
        wanted: The target of a Reshape.
        shape: The inferred sizes of what is reshaped; a symbol or None where they are free.
        batch: What the graph declares as the batch, None for a symbol.

    Returns:
        ``[4, 50]`` of a ``(batch, 5, 10)`` is ``[-1, 50]``.
    """
    if not wanted or not all(isinstance(size, int) for size in wanted) or not shape:
        return wanted
    first, others = shape[0], shape[1:]
    free = not isinstance(first, int) or first == batch
    if not free or not all(isinstance(size, int) for size in others):
        return wanted
    rest, elements = wanted[1:], math.prod(others)
    if -1 in rest and batch is not None and wanted[0] == batch:
        known = math.prod(size for size in rest if size != -1)
        rest = [elements // known if size == -1 else size for size in rest] if known else rest
    if wanted[0] > 0 and min(rest, default=1) > 0 and elements % math.prod(rest) == 0:
        return [-1, *rest]
    return wanted


def _is(value: Any, what: int) -> bool:
    return isinstance(value, int) and value == what


def _flatten(node: Node, x: Value) -> Any:
    axis = node.get("axis", 1)
    if axis == 1:
        return torch.flatten(x, 1)
    axis %= node.rank() + 1 if axis >= 0 else node.rank()
    if axis == 0:
        return torch.reshape(x, (1, -1))
    return torch.flatten(torch.flatten(x, 0, axis - 1), 1)


def _transpose(node: Node, x: Value) -> Any:
    order = node.get("perm")
    return torch.permute(x, order if order else tuple(reversed(range(node.rank()))))


def _squeeze(node: Node, x: Value, given: Value = None) -> Any:
    axes = node.axes(given)
    return torch.squeeze(x) if axes is None else torch.squeeze(x, axes)


def _unsqueeze(node: Node, x: Value, given: Value = None) -> Any:
    axes = node.axes(given) or ()
    if len(axes) > 1 and min(axes) < 0:
        axes = tuple(axis % (node.rank() + len(axes)) for axis in axes)
    for axis in sorted(axes):
        x = torch.unsqueeze(x, axis)
    return x


def _concat(node: Node, *inputs: Value) -> Any:
    lifted: Any = inputs if all(isinstance(x, Tensor) for x in inputs) else [node.build.lift(x) for x in inputs]
    return torch.cat(tuple(lifted), dim=node.get("axis", 1))


def _split(node: Node, x: Value, lengths: Value = None) -> Any:
    axis = node.get("axis", 0)
    given = numbers(lengths) if lengths is not None else node.get("split")
    if given is not None:
        parts = torch.split(x, list(given), dim=axis)
    else:
        parts = torch.chunk(x, node.get("num_outputs", node.outputs), dim=axis)
    return tuple(parts[place] for place in range(node.outputs))


def _slice(
    node: Node, x: Value, starts: Value = None, ends: Value = None, axes: Value = None, steps: Value = None
) -> Any:
    begin = numbers(starts) if starts is not None else list(node.get("starts", ()))
    end = numbers(ends) if ends is not None else list(node.get("ends", ()))
    along = node.axes(axes) or tuple(range(len(begin)))
    step = numbers(steps) if steps is not None else [1] * len(begin)
    if min(along) < 0:
        along = tuple(axis % node.rank() for axis in along)
    if max(along) > 64:
        raise Untranslatable("Slice names an axis that no tensor has.")
    cuts: list[Any] = [slice(None)] * (max(along) + 1)
    for axis, first, last, stride in zip(along, begin, end, step, strict=True):
        if _is(stride, -1) and _is(first, -1) and isinstance(last, int) and last <= -WHOLE + 1:
            x = torch.flip(x, (axis,))
        elif not isinstance(stride, int) or stride < 1:
            raise Untranslatable("Slice backwards over a part has no torch form here.")
        else:
            cuts[axis] = slice(first, None if _is(last, WHOLE) else last, stride)
    return x if all(cut == slice(None) for cut in cuts) else x[tuple(cuts)]


def _gather(node: Node, x: Value, indices: Value) -> Any:
    axis = node.get("axis", 0)
    if isinstance(indices, Tensor) and indices.ndim == 0:
        return torch.select(x, axis, int(indices))
    axis %= node.rank()
    if isinstance(x, Tensor) and isinstance(indices, Tensor):
        return x[(slice(None),) * axis + (indices,)]
    return node.build.lift(x)[(slice(None),) * axis + (node.build.lift(indices),)]


def _gather_elements(node: Node, x: Value, indices: Value) -> Any:
    if not (isinstance(x, Tensor) and isinstance(indices, Tensor)):
        x, indices = node.build.lift(x), node.build.lift(indices)
    return torch.gather(x, node.get("axis", 0), indices)


def _expand(node: Node, x: Value, target: Value) -> Any:
    wanted = numbers(target)
    rank = x.ndim if isinstance(x, Tensor) else node.rank()
    wanted = [1] * (rank - len(wanted)) + wanted
    new = len(wanted) - rank  # an axis of size one keeps the size that is there, but a new one has none
    kept = [-1 if place >= new and _is(size, 1) else size for place, size in enumerate(wanted)]
    if isinstance(x, Tensor) and all(isinstance(size, int) for size in kept):
        return x.expand(*kept)
    return node.build.lift(x).expand(*kept)


def _shape(node: Node, x: Value) -> Any:
    """What is not known for certain is asked for at run time, the batch always."""
    if isinstance(x, Tensor):
        return torch.tensor(x.shape)[slice(node.get("start", 0), node.get("end"))]
    rank = node.rank()
    known = node.shapes[0] or ()
    found = [
        size if isinstance(size, int) and not (place == 0 and size == node.batch) else x.size(place)
        for place, size in zip(range(rank), known, strict=True)
    ]
    return sizes(found[slice(node.get("start", 0), node.get("end"))])


def _size(_node: Node, x: Value) -> Any:
    return torch.tensor(x.numel()) if isinstance(x, Tensor) else sizes([x.numel()], scalar=True)


def _constant(node: Node) -> Any:
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            return torch.as_tensor(node.attributes[name])
    raise Untranslatable("A constant of text has no torch form here.")


# What is called without a tensor is wrapped for torch.fx under its global name, and one of torch's own has none in
# the module that fx writes: every later trace of the process would fail over it.


def filled(*args: Any, **kwargs: Any) -> Tensor:
    """`torch.full`."""
    return torch.full(*args, **kwargs)


def counted(*args: Any, **kwargs: Any) -> Tensor:
    """`torch.arange`."""
    return torch.arange(*args, **kwargs)


def _constant_of_shape(node: Node, shape: Value) -> Any:
    value = node.get("value", torch.zeros(1))
    wanted = numbers(shape)
    if all(isinstance(size, int) for size in wanted):
        return torch.full(tuple(wanted), value.item(), dtype=value.dtype)
    return node.build.call(filled, tuple(wanted), value.item(), dtype=value.dtype)


def _range(node: Node, start: Value, limit: Value, delta: Value) -> Any:
    bounds = [number(value) for value in (start, limit, delta)]
    if all(isinstance(bound, int | float) for bound in bounds):
        return torch.arange(*bounds)
    return node.build.call(counted, *bounds)


def _tile(_node: Node, x: Value, repeats: Value) -> Any:
    return x.repeat(*numbers(repeats))


def _depth_to_space(node: Node, x: Value) -> Any:
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return torch.pixel_shuffle(x, block)
    # (b, r, r, c, h, w), block first
    parts = torch.permute(x.unflatten(1, (block, block, -1)), (0, 3, 1, 2, 4, 5))
    return torch.pixel_shuffle(torch.flatten(parts, 1, 3), block)


def _space_to_depth(node: Node, x: Value) -> Any:
    block = node.get("blocksize")
    parts = torch.pixel_unshuffle(x, block).unflatten(1, (-1, block, block))
    return torch.flatten(torch.permute(parts, (0, 2, 3, 1, 4, 5)), 1, 3)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def _elementwise(function: Callable[[Any, Any], Any]) -> Callable[..., Sizes]:
    def run(_node: Node, first: Sizes, second: Sizes) -> Sizes:
        one, two = np.broadcast_arrays(first, second)
        return sizes([function(a, b) for a, b in zip(one.flat, two.flat, strict=True)], scalar=one.ndim == 0)

    return run


def _equal(first: Any, second: Any) -> bool:
    for one, other in ((first, second), (second, first)):
        if isinstance(one, Proxy):
            if isinstance(other, int) and other < 0:  # no size is
                return False
            raise Untranslatable("A comparison of sizes depends on the input.")
    return bool(first == second)


def _where_sizes(_node: Node, condition: Sizes, first: Sizes, second: Sizes) -> Sizes:
    if any(isinstance(item, Proxy) for item in condition.flat):
        raise Untranslatable("A choice between sizes depends on the input.")
    picks, one, two = np.broadcast_arrays(condition, first, second)
    chosen = [a if pick else b for pick, a, b in zip(picks.flat, one.flat, two.flat, strict=True)]
    return sizes(chosen, scalar=picks.ndim == 0)


def _gather_sizes(_node: Node, x: Sizes, indices: Sizes) -> Sizes:
    chosen = [x[int(place)] for place in indices.flat]
    return sizes(chosen, scalar=indices.ndim == 0)


def _slice_sizes(
    node: Node, x: Sizes, starts: Any = None, ends: Any = None, _axes: Any = None, steps: Any = None
) -> Sizes:
    begin = starts.flat[0] if starts is not None else node.get("starts")[0]
    end = ends.flat[0] if ends is not None else node.get("ends")[0]
    return x[slice(begin, end, steps.flat[0] if steps is not None else None)]


def _product_of_sizes(node: Node, x: Sizes, _axes: Any = None) -> Sizes:
    total: Any = 1
    for item in x.flat:
        total = total * item
    return sizes([total], scalar=not node.get("keepdims", 1))


def _reshape_sizes(_node: Node, x: Sizes, target: Sizes) -> Sizes:
    return sizes(list(x.flat), scalar=target.size == 0)


def _same_sizes(_node: Node, x: Sizes, *_rest: Any) -> Sizes:
    return x


# What is computed on sizes without becoming data; every other operator gets them as a tensor.
SIZE_OPERATORS: dict[str, Callable[..., Sizes]] = {
    "Add": _elementwise(operator.add),
    "Concat": lambda _node, *inputs: np.concatenate([np.atleast_1d(value) for value in inputs]),
    "Div": _elementwise(operator.floordiv),
    "Equal": _elementwise(_equal),
    "Gather": _gather_sizes,
    "Identity": _same_sizes,
    "Mod": _elementwise(operator.mod),
    "Mul": _elementwise(operator.mul),
    "ReduceProd": _product_of_sizes,
    "Reshape": _reshape_sizes,
    "Slice": _slice_sizes,
    "Squeeze": lambda _node, x, _axes=None: x.reshape(()),
    "Sub": _elementwise(operator.sub),
    "Unsqueeze": lambda _node, x, _axes=None: x.reshape(1),
    "Where": _where_sizes,
}

# Inputs that an operator takes as sizes, by their place.
TAKES_SIZES: dict[str, frozenset[int]] = {
    "ConstantOfShape": frozenset({0}),
    "Expand": frozenset({1}),
    "Pad": frozenset({1}),
    "Range": frozenset({0, 1, 2}),
    "Reshape": frozenset({1}),
    "Resize": frozenset({3}),
    "Slice": frozenset({1, 2, 4}),
    "Split": frozenset({1}),
    "Tile": frozenset({1}),
    "TopK": frozenset({1}),
    "Trilu": frozenset({1}),
}
