"""Repeated blocks: layers that differ only in their running indexes, under one name that says which."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set
from itertools import product

LEAST = 3
"""Layers that make a group; two rows are read as fast as one with brackets."""

Indexes = tuple[int, ...]
Frame = tuple[str | None, ...]
"""A name's segments, None where an index runs."""


def repeats(alike: Mapping[str, Hashable]) -> dict[str, tuple[str, ...]]:
    """Groups of at least three layers that are alike and whose names differ only in whole-number segments.

    Every group is all of what its name says: where the indexes of a block are ragged, it is cut at
    the first index into parts that are not.

    Args:
        alike: What must be equal within a group, kind and shape for one, by the name of the layer in
            the order of the model.

    Returns:
        The layers of each group by the group's name, both in the order of the model. A layer is in one
        group or in none.

    Example:
        >>> repeats({"0.query": "Linear", "1.query": "Linear", "3.query": "Linear", "pooler": "Linear"})
        {'[0-1,3].query': ('0.query', '1.query', '3.query')}
    """
    families: dict[tuple[Frame, Hashable], dict[Indexes, str]] = {}
    for name, likeness in alike.items():
        segments = name.split(".")
        frame = tuple(None if _is_index(segment) else segment for segment in segments)
        indexes = tuple(int(segment) for segment in segments if _is_index(segment))
        families.setdefault((frame, likeness), {})[indexes] = name
    found = {}
    for (frame, _), names in families.items():
        if len(names) >= LEAST:
            for block in _blocks(names.keys()):
                members = set(product(*block))
                if len(members) >= LEAST:
                    found[_written(frame, block)] = tuple(name for at, name in names.items() if at in members)
    order = {name: position for position, name in enumerate(alike)}
    return dict(sorted(found.items(), key=lambda group: order[group[1][0]]))


def _is_index(segment: str) -> bool:
    return segment.isascii() and segment.isdigit() and len(segment) < 10 and str(int(segment)) == segment


def _blocks(indexes: Set[Indexes]) -> list[tuple[Indexes, ...]]:
    """Indexes as products: first values that go on in the same way stand together.

    >>> _blocks({(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)})
    [((1, 2), (0, 1)), ((3,), (0,))]
    """
    if indexes == {()}:
        return [()]
    rest: dict[int, set[Indexes]] = {}
    for first, *others in indexes:
        rest.setdefault(first, set()).add(tuple(others))
    firsts: dict[frozenset[Indexes], list[int]] = {}
    for first in sorted(rest):
        firsts.setdefault(frozenset(rest[first]), []).append(first)
    return [(tuple(together), *block) for others, together in firsts.items() for block in _blocks(others)]


def _written(frame: Frame, block: tuple[Indexes, ...]) -> str:
    values = iter(block)
    return ".".join(_ranges(next(values)) if segment is None else segment for segment in frame)


def _ranges(values: Indexes) -> str:
    """Rising whole numbers: ``[0-3,5]``; a single one as it is."""
    if len(values) == 1:
        return str(values[0])
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return "[" + ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs) + "]"
