"""Examples from tensors, datasets, loaders and anything that can be gone through."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from torch.utils.data.dataloader import default_collate
from torch.utils.data.sampler import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from workbench.errors import TaskError, WorkbenchError
from workbench.inputs import Inputs
from workbench.sources.base import Examples, check_memory
from workbench.sources.collecting import Collected, inputs_of
from workbench.sources.entries import as_input
from workbench.sources.targets import given_targets, split_target

COMPARED = 32
"""Examples that are read twice, to see whether a second pass gives the same."""
SUBSET = "torch.utils.data.Subset(dataset, range({n}))"
SLICE = "list(itertools.islice(data, {n}))"
RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def examples(data: Any, targets: Any = None, *, limit: int | None = None, what: str = "inputs") -> Examples:
    """Read examples from whatever a task takes.

    Pictures of PIL and uint8 arrays inside of datasets become float32, channels first, 0..1; other arrays
    keep their values. Of a tuple the last entry is the target (``((x1, x2), None)`` has none); of a dict
    that under ``label``, ``labels``, ``target``, ``targets`` or ``y``. Entries that are not numbers are left
    out with a note. Examples of different shapes stay apart, and are measured in batches of equal shapes.

    Args:
        data: Whole columns: a tensor or array, a tuple of arguments, a dict of named ones, `Inputs`. Or
            examples: a `Dataset`, a `DataLoader`, whose batches are taken apart, a list, any iterable or a
            generator of them; with a `DataLoader` of ``batch_size=None`` and any other iterable, what comes is
            one example. Or `Examples`.
        targets: Shape (n, ...), or names of classes; instead of those that come with the data.
        limit: Only the first so many are read.
        what: What an error calls the data.

    Raises:
        TaskError: There is no example; they take more than 4 GB; they come in another order when read again;
            or their entries are no numbers or differ from one to the next.
    """
    found = _read(data, limit, what)
    if not len(found):
        raise TaskError(f"{what}: at least one example is needed; there is none.")
    if targets is None:
        return found
    given, classes, notes = given_targets(targets)
    kept = tuple(note for note in found.notes if not note.startswith(("targets", "of ")))
    return replace(found, targets=given, classes=classes or found.classes, notes=(*kept, *notes))


def _read(data: Any, limit: int | None, what: str) -> Examples:
    if isinstance(data, Examples):
        return data.first(limit)
    if isinstance(data, Inputs | Tensor | np.ndarray | tuple):
        return Examples(Inputs.of(data, what)).first(limit)
    if isinstance(data, Mapping):
        return _columns(data, what).first(limit)
    if isinstance(data, str | Path):
        raise TaskError(
            f"{what}: {str(data)!r} is a path; workbench.sources.folder reads class folders of images, "
            "workbench.sources.table CSV and Parquet."
        )
    if isinstance(data, DataLoader):
        return _loader(data, limit, what)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return _gone_through(_Source(_items(data), _length(data), "before", SUBSET), limit, what, data)
    if isinstance(data, Iterator):
        return _gone_through(_Source(lambda: data, None, "never", SLICE), limit, what, data)
    if isinstance(data, Iterable):
        check: Literal["never", "before", "after"] = "never" if isinstance(data, list) else "after"
        return _gone_through(_Source(partial(iter, data), _length(data), check, SLICE), limit, what, data)
    raise TaskError(
        f"{what}: a torch.Tensor, a numpy array, a tuple of arguments, a dict of named arguments, a Dataset, "
        f"a DataLoader or an iterable of examples is needed; this is of type {type(data).__name__}."
    )


@dataclass(frozen=True)
class _Source:
    """Something that gives examples or batches of them, from the start each time."""

    start: Callable[[], Iterator[Any]]
    length: int | None
    """What it gives in a pass; None: not known."""
    check: Literal["never", "before", "after"]
    """When it may be read a second time: a stream that can be read once only would lose what is read before."""
    remedy: str
    add: Callable[[Collected, Any], None] = Collected.add
    batched: bool = False


def _gone_through(source: _Source, limit: int | None, what: str, data: Any) -> Examples:
    head = _collected(source, COMPARED, what) if source.check == "before" else None
    found = _collected(source, limit, what, head)
    if source.check == "after":
        again = _collected(source, min(COMPARED, found.count), what)
        if again.count:  # nothing comes a second time from a stream that can be read once
            _check_order(found, again, what)
    read = found.examples()
    return replace(read, classes=read.classes or _class_names(data, read))


def _collected(source: _Source, limit: int | None, what: str, head: Collected | None = None) -> Collected:
    """What a pass gives, compared with its head as soon as that is there."""
    found = Collected(what, source.remedy)
    for index, item in enumerate(_safely(source.start, what)):
        source.add(found, item)
        if source.length and found.count and index + 1 == min(1 if source.batched else COMPARED, source.length):
            each, expected = found.bytes / found.count, found.count / (index + 1) * source.length
            expected = min(expected, limit or expected)
            check_memory(what, expected, expected * each, source.remedy)
        if head is not None and found.count >= head.count:
            _check_order(found, head, what)
            head = None
        if limit is not None and found.count >= limit:
            found.drop(limit)
            break
    if head is not None:
        _check_order(found, head, what)
    return found


def _safely(start: Callable[[], Iterator[Any]], what: str) -> Iterator[Any]:
    """Go through a source; what it raises is told with the place."""
    place = 0
    try:
        for item in start():
            yield item
            place += 1
    except WorkbenchError:
        raise
    except Exception as error:
        raise TaskError(f"{what}: entry {place:,} could not be read ({type(error).__name__}: {error}).") from error


def _check_order(found: Collected, again: Collected, what: str) -> None:
    count = min(COMPARED, found.count)
    if found.fingerprints(count) != again.fingerprints(count):
        raise TaskError(
            f"{what}: the order changes between passes; paired comparisons need the same examples in the same order. "
            "Turn shuffling off; if nothing is shuffled, a random augmentation or dropout in the data's "
            "transforms changes the examples themselves: take it out."
        )


def _loader(loader: DataLoader[Any], limit: int | None, what: str) -> Examples:
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    if any(isinstance(sampler, RANDOM) for sampler in samplers):
        raise TaskError(
            f"{what}: the loader shuffles, but paired comparisons need the same examples in the same order; "
            "make it with shuffle=False and without a random sampler, or pass the dataset itself."
        )
    stream = isinstance(loader.dataset, IterableDataset)
    batched = loader.batch_sampler is not None or loader.batch_size is not None
    transposed = loader.collate_fn is default_collate

    def add(found: Collected, batch: Any) -> None:
        found.add_batch(batch, transposed=transposed)

    source = _Source(
        start=partial(iter, loader),
        length=_length(loader),
        check="after" if stream else "before",
        remedy="itertools.islice over its dataset" if stream else f"a loader of {SUBSET}",
        add=add if batched else Collected.add,
        batched=batched,
    )
    return _gone_through(source, limit, what, loader.dataset)


def _items(dataset: Dataset[Any]) -> Callable[[], Iterator[Any]]:
    length = _length(dataset)

    def start() -> Iterator[Any]:
        for index in itertools.count() if length is None else range(length):
            try:
                item = dataset[index]
            except IndexError:
                if length is None:  # how a sequence without a length ends
                    return
                raise
            yield item

    return start


def _columns(data: Mapping[Any, Any], what: str) -> Examples:
    """A dict of whole columns, as tokenizers and slices of tables give them."""
    columns, target, note = split_target({str(name): column for name, column in data.items()})
    if _flat(columns.get("input_ids")):
        raise TaskError(f"{what}: input_ids are those of one text; pass a list of texts to the tokenizer.")
    made, left_out = {}, []
    for name, column in columns.items():
        if _of_numbers(column):
            made[name] = column
        else:
            left_out.append(f"{name!r} ({type(column).__name__})")
    notes = [note] * bool(note) + [f"left out, for they are not numbers: {', '.join(left_out)}"] * bool(left_out)
    if not made:
        raise TaskError(f"{what}: there are no columns of numbers, only {', '.join(left_out) or 'targets'}.")
    whole = Inputs.of(made, what)
    given, classes, more = (None, (), ()) if target is None else given_targets(target)
    return Examples(inputs_of(whole.columns), given, classes, (*notes, *more))


def _of_numbers(column: Any) -> bool:
    if isinstance(column, Tensor):
        return True
    if isinstance(column, list | tuple):
        return all(as_input(row) is not None for row in column)
    return as_input(column) is not None


def _flat(column: Any) -> bool:
    return isinstance(column, list) and bool(column) and all(isinstance(each, int) for each in column)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None


def _class_names(data: Any, read: Examples) -> tuple[str, ...]:
    """The names that torchvision's and HF's datasets carry, where they fit the targets."""
    while isinstance(data, Subset):
        data = data.dataset
    named: Any = getattr(data, "classes", None)
    features = getattr(data, "features", None)
    if named is None and isinstance(features, Mapping):
        named = next((each.names for each in features.values() if hasattr(each, "names")), None)
    targets = read.targets
    if not isinstance(named, Sequence) or not all(isinstance(name, str) for name in named) or targets is None:
        return ()
    fits = targets.dim() == 1 and targets.dtype == torch.int64 and int(targets.max()) < len(named)
    return tuple(named) if fits else ()
