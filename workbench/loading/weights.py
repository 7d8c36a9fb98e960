"""Weights from a file, into a model that the user brings."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.errors import LoadError, WorkbenchError
from workbench.loading.checkpoints import read_checkpoint
from workbench.loading.files import existing, reading
from workbench.loading.fitting import fit

_LONGEST_HEADER = 100_000_000  # what the safetensors library itself allows


def read_weights(path: Path) -> Mapping[str, Any]:
    """The tensors of a `.safetensors` file or of a checkpoint, by name.

    Raises:
        LoadError: Damaged, refused, or of no known kind.
    """
    existing(path)
    return read_safetensors(path) if path.suffix.lower() == ".safetensors" else read_checkpoint(path)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a `.safetensors` file.

    Raises:
        LoadError: Its header or its lengths are wrong.
    """
    from safetensors.torch import load_file

    size = path.stat().st_size
    with path.open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
    if size < 8 or header > min(size - 8, _LONGEST_HEADER):
        raise LoadError(
            f"{path.name} is no safetensors file, or is cut short: it has {size:,} bytes and declares a header of "
            f"{header:,}. Download or save it again."
        )
    with reading(path, "a safetensors file"):
        return load_file(path)


def from_weights(
    path: Path, model: nn.Module | Callable[..., nn.Module] | None, arguments: Mapping[str, Any]
) -> nn.Module:
    """A model filled with a file's weights.

    Raises:
        LoadError: No model was given and none lies beside the file, or the weights do not fit.
    """
    if model is None:
        if (path.parent / "config.json").is_file():
            return _by_config(path, arguments)
        held = read_weights(path)
        first = [f"{name} {list(t.shape)}" for name, t in _flat(held) if isinstance(t, torch.Tensor)][:5]
        raise LoadError(
            f"{path.name} holds weights only ({', '.join(first) or 'no tensors'}, …). Pass the model that they are of: "
            f"load({path.name!r}, model=Net) with its class (and arguments), or model=net with an instance."
        )
    if isinstance(model, nn.Module):
        if arguments:
            raise LoadError(f"{', '.join(arguments)}: arguments are for a class; model= is an instance already.")
        return fit(model, read_weights(path), path.name)
    if not callable(model):
        raise LoadError(
            f"model= is a {type(model).__name__}; a module, or a class or function that makes one, is needed."
        )
    held = read_weights(path)
    return fit(_made(model, arguments), held, path.name)


def _made(model: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    name = getattr(model, "__name__", repr(model))
    try:
        made = model(**arguments)
    except WorkbenchError:
        raise
    except Exception as error:
        raise LoadError(f"{name}({', '.join(arguments)}) could not be made: {error}") from error
    if not isinstance(made, nn.Module):
        raise LoadError(f"{name} made a {type(made).__name__}, not a torch.nn.Module.")
    return made


def _flat(held: Mapping[str, Any]) -> list[tuple[str, Any]]:
    inner = [item for value in held.values() if isinstance(value, Mapping) for item in value.items()]
    return [*held.items(), *inner]


def _by_config(path: Path, arguments: Mapping[str, Any]) -> nn.Module:
    """A file of a model folder: its configuration says which library it is of."""
    from workbench.loading import hubs

    with reading(path.parent / "config.json", "a configuration"):
        config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
    if isinstance(config, dict) and "architecture" in config and "model_type" not in config:
        return hubs.from_timm(str(path.parent), dict(arguments), weights=path)
    return hubs.from_transformers(str(path.parent), dict(arguments), weights=path)
