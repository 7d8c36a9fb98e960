"""Which part of what a model returns is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from workbench.errors import TaskError, nearest

Output = str | int | Callable[[Any], Tensor] | None
"""A name in a dict or dataclass, a place in a tuple, a function of the whole output, or None: see `selected`."""

LIKELY = ("logits", "sentence_embedding", "pooler_output", "last_hidden_state", "out", "output", "prediction")


def selected(output: Any, which: Output) -> Tensor:
    """One tensor of a model's output.

    Args:
        output: A tensor, tuple, list, dict or dataclass, as transformers returns.
        which: None takes a tensor as it is, of named parts ``logits`` or another likely one, else the first
            tensor.

    Raises:
        TaskError: There is no such part, or no tensor; what there is, is named.
    """
    found: Any
    if callable(which):
        found = which(output)
    elif which is not None:
        parts = _parts(output)
        key = str(which)
        if key not in parts:
            raise TaskError(f"output = {which!r}: the model's output has no such part. {nearest(key, parts)}")
        found = parts[key]
    elif isinstance(output, Tensor):
        return output
    else:
        parts = {name: part for name, part in _parts(output).items() if isinstance(part, Tensor)}
        name = next((name for name in LIKELY if name in parts), next(iter(parts), None))
        found = parts.get(name) if name is not None else None
    if not isinstance(found, Tensor):
        raise TaskError(
            f"The model returned a {type(output).__name__} without a tensor that could be measured; "
            "name the part with `output=`, or pass a function of the output."
        )
    return found


def _parts(output: Any) -> dict[str, Any]:
    if isinstance(output, Mapping):
        return {str(name): part for name, part in output.items()}
    if isinstance(output, tuple | list):
        named = getattr(output, "_fields", map(str, range(len(output))))
        return dict(zip(named, output, strict=True)) | {str(i): part for i, part in enumerate(output)}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {part.name: getattr(output, part.name) for part in dataclasses.fields(output)}
    return {}
