"""Examples as a model's forward takes them: tensors by position and by name, one entry each per example."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.errors import TaskError

Column = Tensor | tuple[Tensor, ...]
"""One argument of all examples: stacked, shape (n, ...), or one tensor each where their shapes differ."""


class Inputs:
    """Arguments of a model's forward for n examples.

    Example:
        >>> pairs = Inputs(torch.zeros(6, 3), mask=torch.ones(6, 1))
        >>> pairs
        Inputs(6 × (3), mask=(1))
        >>> len(pairs[2:4])
        2
    """

    def __init__(self, /, *positional: Column, **named: Column) -> None:
        """
        Args:
            positional: Arguments in their order. A tensor has one row per example; a tuple of tensors has
                one tensor per example, whose shapes may differ.
            named: Arguments by name.

        Raises:
            TaskError: No argument, or arguments with different numbers of examples.
        """
        self.positional = tuple(map(_stacked, positional))
        self.named = {name: _stacked(column) for name, column in named.items()}
        lengths = {what: len(column) if _has_rows(column) else None for what, column in self.columns.items()}
        if not lengths or None in lengths.values() or len(set(lengths.values())) > 1:
            raise TaskError(f"inputs: every argument needs one entry per example; there are {lengths or 'none'}.")

    @classmethod
    def of(cls, data: Any, what: str = "inputs") -> Inputs:
        """What people pass: a tensor or array, a tuple of arguments, a dict of named arguments, or Inputs.

        Args:
            data: Arrays of float64, numpy's default, become float32; tensors stay as they are. A list of lists
                of different lengths is a column of examples whose shapes differ.
            what: What an error calls the data.

        Raises:
            TaskError: It is something else.
        """
        if isinstance(data, Inputs):
            return data
        if isinstance(data, Tensor | np.ndarray):
            return cls(_tensor(data, what))
        if isinstance(data, tuple):
            return cls(*(_column(column, what) for column in data))
        if isinstance(data, Mapping):
            return cls(**{str(name): _column(column, what) for name, column in data.items()})
        raise TaskError(
            f"{what}: a torch.Tensor, a numpy array, a tuple of arguments or a dict of named arguments is needed, "
            f"this is a {type(data).__name__}. `workbench.sources` reads loaders, folders and tables."
        )

    @property
    def columns(self) -> dict[str, Column]:
        """All arguments: positional ones by their number."""
        return {**{str(index): column for index, column in enumerate(self.positional)}, **self.named}

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Positional arguments, then named ones, stacked.

        Raises:
            TaskError: The examples' shapes differ; take a batch of `batches`.
        """
        found = tuple(self.columns.values())
        if any(isinstance(column, tuple) for column in found):
            raise TaskError("inputs: these examples have different shapes and cannot be stacked.")
        return found  # type: ignore[return-value]

    @property
    def uniform(self) -> bool:
        """Whether all examples have the same shapes."""
        return not any(isinstance(column, tuple) for column in self.columns.values())

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> Inputs:
        """Some of the examples, in the order of the index."""
        return self._each(lambda column: _taken(column, index))

    def __repr__(self) -> str:
        shapes = [f"{name}=" * (not name.isdigit()) + _shape_text(c) for name, c in self.columns.items()]
        return f"Inputs({len(self):,} × {', '.join(shapes)})"

    def batches(self, order: Tensor, size: int) -> list[Tensor]:
        """Indices of batches whose examples can be stacked, near to a given order.

        Args:
            order: Indices of examples, shape (n,).
            size: Examples in a batch at most.
        """
        if self.uniform:
            return list(order.split(size))
        waiting: dict[tuple[torch.Size, ...], list[int]] = {}
        made = []
        ragged = [column for column in self.columns.values() if isinstance(column, tuple)]
        for index in order.tolist():
            alike = waiting.setdefault(tuple(column[index].shape for column in ragged), [])
            alike.append(index)
            if len(alike) == size:
                made.append(torch.tensor(alike))
                alike.clear()
        return made + [torch.tensor(alike) for alike in waiting.values() if alike]

    def padded(self, size: int) -> Inputs:
        """The examples, the last one repeated until there are as many."""
        return self[torch.arange(size).clamp(max=len(self) - 1)]

    def cycled(self, size: int) -> Inputs:
        """As many examples, from the start again where they end; all of one shape."""
        alike = next(iter(self.batches(torch.arange(len(self)), size)))
        return self[alike[torch.arange(size) % len(alike)]]

    def to(self, device: str) -> Inputs:
        """On a device."""
        return self._each(
            lambda column: column.to(device) if isinstance(column, Tensor) else tuple(x.to(device) for x in column)
        )

    def single(self) -> Inputs:
        """Numbers of any other precision in float32, in which networks are measured here."""
        return self.floating(torch.float32)

    def floating(self, kind: torch.dtype) -> Inputs:
        """Floating-point numbers in another precision; indices and masks stay as they are."""

        def cast(x: Tensor) -> Tensor:
            return x.to(kind) if x.is_floating_point() else x

        return self._each(lambda column: cast(column) if isinstance(column, Tensor) else tuple(map(cast, column)))

    def channels_last(self) -> Inputs:
        """Stacked images in the memory layout in which convolutions are fastest."""

        def laid_out(column: Column) -> Column:
            images = isinstance(column, Tensor) and column.dim() == 4
            return column.contiguous(memory_format=torch.channels_last) if images else column  # type: ignore[union-attr]

        return self._each(laid_out)

    def call(self, model: Callable[..., Any]) -> Any:
        """The model's output for these examples as one batch, of which it gets a copy: it may write into it."""
        tensors = [tensor.clone() for tensor in self.tensors]
        named = dict(zip(self.named, tensors[len(self.positional) :], strict=True))
        return model(*tensors[: len(self.positional)], **named)

    def update(self, digest: hashlib._Hash) -> None:
        """Feed everything into a hash."""
        for name, column in self.columns.items():
            digest.update(name.encode())
            for tensor in (column,) if isinstance(column, Tensor) else column:
                update(digest, tensor)

    def _each(self, change: Callable[[Column], Column]) -> Inputs:
        made = Inputs.__new__(Inputs)
        made.positional = tuple(change(column) for column in self.positional)
        made.named = {name: change(column) for name, column in self.named.items()}
        return made

    def rows(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its argument's name: whole columns, or one per example where shapes differ."""
        for name, column in self.columns.items():
            for tensor in (column,) if isinstance(column, Tensor) else column:
                yield name, tensor


def update(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Feed a tensor's shape, type and values into a hash."""
    digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _stacked(column: Column) -> Column:
    if isinstance(column, tuple) and column and len({tensor.shape for tensor in column}) == 1:
        return torch.stack(column)
    return column


def _taken(column: Column, index: slice | Tensor | Sequence[int]) -> Column:
    if isinstance(column, Tensor):
        return column[index] if isinstance(index, slice | Tensor) else column[torch.as_tensor(index, dtype=torch.long)]
    if isinstance(index, slice):
        return _stacked(column[index])
    if isinstance(index, Tensor) and index.dtype == torch.bool:
        index = index.nonzero()[:, 0]
    return _stacked(tuple(column[int(each)] for each in index))


def _has_rows(column: Column) -> bool:
    return isinstance(column, tuple) or column.dim() > 0


def _column(data: Any, what: str) -> Column:
    if isinstance(data, list | tuple) and data:
        tensors = all(isinstance(each, Tensor | np.ndarray) for each in data)
        lists = all(isinstance(each, list | tuple) for each in data) and len({len(each) for each in data}) > 1
        if tensors or lists:
            return tuple(_tensor(each, what) for each in data)
    return _tensor(data, what)


def _tensor(data: Any, what: str) -> Tensor:
    if isinstance(data, Tensor):
        return data
    try:
        array = np.asarray(data)
        if array.dtype == np.float64:  # numpy's default; an empty list, which has it too, is a text without tokens
            array = array.astype(np.int64 if isinstance(data, list | tuple) and not array.size else np.float32)
        return torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TaskError(f"{what}: {type(data).__name__} cannot be made a tensor of numbers ({error}).") from error


def _shape_text(column: Column) -> str:
    if isinstance(column, Tensor):
        return f"({', '.join(map(str, column.shape[1:]))})"
    low, high = (most((tensor.numel() for tensor in column), default=0) for most in (min, max))
    return f"({low} to {high} values)"
