"""What is right for examples: where a source keeps it, and how it becomes one tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.errors import TaskError
from workbench.sources.entries import as_target, same_type

TARGETS = ("label", "labels", "target", "targets", "y")
"""Keys under which a dict holds what is right."""
PADDING = -100
"""The target of tokens that are not there (PyTorch's `ignore_index`)."""


def split_target(columns: dict[str, Any]) -> tuple[dict[str, Any], Any, str]:
    """Inputs, the target under one of the keys that are known for it, and a note that says which."""
    keys = [key for key in TARGETS if key in columns]
    if not keys:
        return columns, None, ""
    others = f"; {', '.join(map(repr, keys[1:]))} left out as well" if keys[1:] else ""
    inputs = {name: value for name, value in columns.items() if name not in keys}
    return inputs, columns[keys[0]], f"targets are taken from {keys[0]!r}{others}"


def target_column(rows: Sequence[Tensor | str]) -> tuple[Tensor, tuple[str, ...], tuple[str, ...]]:
    """Targets of all examples, shape (n, ...), names of their classes, and notes.

    Raises:
        TaskError: Shapes differ, and they are not sequences of class indices, which are padded with -100.
    """
    tensors = [row for row in rows if isinstance(row, Tensor)]
    if not tensors:
        return *named_classes(rows), ()
    if len(tensors) < len(rows):
        raise TaskError("targets: some are names and others are numbers.")
    tensors = same_type(tensors)
    shapes = {tensor.shape for tensor in tensors}
    if len(shapes) == 1:
        return torch.stack(tensors), (), ()
    if any(tensor.dim() != 1 or tensor.is_floating_point() for tensor in tensors):
        some = ", ".join(str(tuple(shape)) for shape in sorted(shapes)[:3])
        raise TaskError(f"targets: they have different shapes, such as {some}; every example needs the same one.")
    padded = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=PADDING)
    return padded, (), (f"targets of different lengths are padded with {PADDING}, which does not count",)


def given_targets(targets: Any) -> tuple[Tensor, tuple[str, ...], tuple[str, ...]]:
    """Targets as they are given beside the inputs.

    Raises:
        TaskError: They are neither numbers nor names, or their shapes differ.
    """
    if isinstance(targets, Tensor) and targets.dim():
        return targets.detach().cpu(), (), ()
    whole = as_target(np.asarray(targets) if hasattr(targets, "__array__") else targets)
    if isinstance(whole, Tensor) and whole.dim():
        return whole, (), ()
    single = isinstance(whole, Tensor | str) or not isinstance(targets, Iterable)
    rows = [] if single else [as_target(row) for row in targets]
    if not rows or any(row is None for row in rows):
        raise TaskError(
            "targets: numbers or names of classes are needed, one entry per example; "
            f"this is a {type(targets).__name__}."
        )
    return target_column([row for row in rows if row is not None])


def named_classes(names: Sequence[Any]) -> tuple[Tensor, tuple[str, ...]]:
    """Names of classes as indices of the sorted names.

    Returns:
        Indices, shape (n,), int64, and the names.
    """
    classes = sorted({str(name) for name in names})
    place = {name: index for index, name in enumerate(classes)}
    return torch.tensor([place[str(name)] for name in names]), tuple(classes)
