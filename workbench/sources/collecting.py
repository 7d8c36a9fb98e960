"""Examples as they come in, one by one or in batches, until all are there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.errors import TaskError, nearest
from workbench.inputs import Column, Inputs, update
from workbench.sources.base import Examples, check_memory
from workbench.sources.entries import as_input, as_target, same_type
from workbench.sources.targets import split_target, target_column

OVERHEAD = 500
"""Bytes that Python needs for a tensor of its own, about."""

Rows = Tensor | list[Tensor | str]
"""Entries of some examples: stacked, or one by one."""


class Collected:
    """Columns of inputs and targets that grow."""

    def __init__(self, what: str, remedy: str) -> None:
        """
        Args:
            what: Which data, for errors: ``inputs``.
            remedy: How to take a part of this source; see `check_memory`.
        """
        self.what = what
        self.remedy = remedy
        self.count = 0
        self.bytes = 0
        self._columns: dict[str, list[Tensor]] = {}
        self._targets: list[Tensor | str] = []
        self._left_out: dict[str, str] = {}
        self._notes: dict[str, None] = {}

    def add(self, item: Any) -> None:
        """One example: a tensor, array, picture or number, ``(x, y)``, ``((x1, x2), y)``, a dict, ``(dict, y)``.

        Raises:
            TaskError: It has other entries than those before, or none that are numbers.
        """
        inputs, target = self._parts(item, lambda value: as_input(value) is not None)
        rows = {name: as_input(value) for name, value in inputs.items()}
        right = None if target is None else as_target(target)
        self._grow(
            {name: None if row is None else row[None] for name, row in rows.items()},
            inputs,
            1,
            None if right is None else [right],
            target,
        )

    def add_batch(self, batch: Any, *, transposed: bool) -> None:
        """Several examples, as a loader gives them.

        Args:
            batch: As an example, with one more dimension; or a list of examples.
            transposed: Whether lists of tensors hold a place of each example, as PyTorch's `default_collate`
                makes them of sequences, rather than an example each.

        Raises:
            TaskError: Its entries have different numbers of examples, or as for `add`.
        """
        if isinstance(batch, list) and batch and not transposed and all(isinstance(x, Mapping | tuple) for x in batch):
            for item in batch:
                self.add(item)
            return
        inputs, target = self._parts(batch, lambda value: _batch_rows(value, as_input, transposed) is not None)
        rows = {name: _batch_rows(value, as_input, transposed) for name, value in inputs.items()}
        right = None if target is None else _batch_rows(target, as_target, transposed)
        lengths = {name: len(each) for name, each in [*rows.items(), ("targets", right)] if each is not None}
        if len(set(lengths.values())) > 1:
            raise TaskError(
                f"{self.what}: after {self.count:,} examples a batch has entries of different lengths, {lengths}; "
                "every entry needs one row per example."
            )
        self._grow(rows, inputs, next(iter(lengths.values()), 0), right, target)

    def drop(self, limit: int) -> None:
        """Forget what is beyond so many examples."""
        if self.count > limit:
            for name, chunks in self._columns.items():
                self._columns[name] = [row[None] for row in _first(chunks, limit)]
            self._targets = self._targets[:limit]
            self.count = limit

    def fingerprints(self, count: int) -> list[str]:
        """A digest of each of the first examples."""
        digests = [hashlib.sha256() for _ in range(min(count, self.count))]
        for name, chunks in self._columns.items():
            for digest, row in zip(digests, _first(chunks, count), strict=False):
                digest.update(name.encode())
                update(digest, row)
        for digest, right in zip(digests, self._targets, strict=False):
            digest.update(right.encode()) if isinstance(right, str) else update(digest, right)
        return [digest.hexdigest() for digest in digests]

    def examples(self) -> Examples:
        """All that came; examples of different shapes become a tuple of tensors.

        Raises:
            TaskError: Nothing came, or targets whose shapes differ.
        """
        if not self.count:
            raise TaskError(f"{self.what}: at least one example is needed; there is none.")
        columns = {}
        for name in list(self._columns):
            columns[name] = _joined(self._columns.pop(name))  # a column at a time is twice in memory
        left_out = ", ".join(f"{name!r} ({why})" for name, why in self._left_out.items())
        targets, classes, notes = target_column(self._targets) if self._targets else (None, (), ())
        return Examples(
            inputs=inputs_of(columns),
            targets=targets,
            classes=classes,
            notes=(*self._notes, *([f"left out, for they are not numbers: {left_out}"] if left_out else []), *notes),
        )

    def _parts(self, item: Any, numeric: Callable[[Any], bool]) -> tuple[dict[str, Any], Any]:
        """Arguments by place or name, and the target."""
        if isinstance(item, Mapping):
            return self._split(item)
        if not is_structure(item):
            return {"0": item}, None
        entries = list(item)
        while len(entries) > 2 and not numeric(entries[-1]):
            left_out = type(entries.pop()).__name__
            self._left_out[str(len(entries))] = left_out
        if len(entries) == 1:
            return _arguments(entries[0]), None
        if len(entries) > 2:
            self._notes[f"of {len(entries)} entries the last one is taken as the target, the others as inputs"] = None
        return _arguments(entries[0] if len(entries) == 2 else tuple(entries[:-1])), entries[-1]

    def _split(self, item: Mapping[Any, Any]) -> tuple[dict[str, Any], Any]:
        """Named arguments, and the target among them."""
        inputs, target, note = split_target({str(name): value for name, value in item.items()})
        if note:
            self._notes[note] = None
        return inputs, target

    def _grow(
        self, rows: Mapping[str, Rows | None], raw: Mapping[str, Any], count: int, right: Rows | None, target: Any
    ) -> None:
        if not self.count:
            self._left_out |= {name: type(raw[name]).__name__ for name, row in rows.items() if row is None}
            self._columns = {name: [] for name, row in rows.items() if row is not None}
            if not self._columns:
                kinds = ", ".join(f"{name!r} ({kind})" for name, kind in self._left_out.items()) or "nothing"
                raise TaskError(
                    f"{self.what}: an example holds no numbers, only {kinds}; "
                    "texts are tokenised before, files read (`workbench.sources.folder`, `table`)."
                )
            if target is not None and right is None:
                self._notes[f"targets left out, for they are not numbers: {type(target).__name__}"] = None
        elif not count:
            return
        found = {name for name, row in rows.items() if row is not None and name not in self._left_out}
        if found != set(self._columns):
            name = sorted(found ^ set(self._columns))[0]
            there = f"it is of type {type(raw[name]).__name__}" if name in raw else "it is missing"
            raise TaskError(
                f"{self.what}: {name!r} holds numbers in some examples, but in example "
                + (f"{self.count:,} {there}" if name in self._columns else f"0 it is missing. {nearest(name, raw)}")
                + "; every example needs the same entries."
            )
        if self.count and (right is not None) != bool(self._targets):
            raise TaskError(f"targets: some examples have one and others, such as example {self.count:,}, do not.")
        for name, chunks in self._columns.items():
            added = rows[name]
            if isinstance(added, Tensor):
                chunks.append(added)
            else:
                chunks += [row[None] for row in added or () if isinstance(row, Tensor)]
        self._targets += list(right) if right is not None else []
        self.count += count
        self.bytes += sum(_size(row) for row in rows.values() if row is not None) + (
            0 if right is None else _size(right)
        )
        check_memory(self.what, self.count, self.bytes, self.remedy)


def inputs_of(columns: Mapping[str, Column]) -> Inputs:
    """Inputs from columns by place or name."""
    return Inputs(
        *(column for name, column in columns.items() if name.isdigit()),
        **{name: column for name, column in columns.items() if not name.isdigit()},
    )


def is_structure(item: Any) -> bool:
    """Whether a tuple or list has entries of its own, and is not one sequence of numbers."""
    return isinstance(item, tuple) or (isinstance(item, list) and not _plain(item))


def _plain(item: list[Any]) -> bool:
    return all(_plain(each) if isinstance(each, list) else isinstance(each, bool | int | float) for each in item)


def _arguments(entry: Any) -> dict[str, Any]:
    if isinstance(entry, Mapping):
        return {str(name): value for name, value in entry.items()}
    if is_structure(entry):
        return {str(index): value for index, value in enumerate(entry)}
    return {"0": entry}


def _batch_rows(value: Any, convert: Callable[[Any], Tensor | str | None], transposed: bool) -> Rows | None:
    """Entries of the examples of a batch, or None where they are not numbers."""
    if isinstance(value, list | tuple) and value and transposed and all(isinstance(each, Tensor) for each in value):
        alike = len({each.shape for each in value}) == 1 and value[0].dim() > 0
        value = torch.stack(list(value), 1) if alike else None
    if isinstance(value, Tensor):
        made = convert(value) if value.dim() else None
        return made if isinstance(made, Tensor) else None
    if isinstance(value, np.ndarray | list | tuple):
        rows = [convert(each) for each in value]
        kept = [row for row in rows if row is not None]
        return kept if len(kept) == len(rows) else None
    return None


def _first(chunks: Iterable[Tensor], count: int) -> Iterable[Tensor]:
    for chunk in chunks:
        yield from chunk[:count]
        count -= len(chunk)
        if count <= 0:
            return


def _joined(chunks: list[Tensor]) -> Column:
    chunks = same_type(chunks)
    if len({chunk.shape[1:] for chunk in chunks}) == 1:
        return torch.cat(chunks)
    return tuple(row for chunk in chunks for row in chunk)


def _size(rows: Rows) -> int:
    if isinstance(rows, Tensor):
        return rows.nbytes + OVERHEAD
    return sum(OVERHEAD + (len(row) if isinstance(row, str) else row.nbytes) for row in rows)
