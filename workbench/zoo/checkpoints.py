"""Checkpoints on disk: safetensors for the weights, JSON beside it for how they were made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from workbench.files import write_atomically


def data_folder() -> Path:
    """The folder with data and checkpoints: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    beside = package.parent / "data"
    return beside if (beside / "checkpoints").is_dir() else package / "data"


def sha256(path: Path) -> str:
    """The file's SHA-256 as 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save(model: nn.Module, name: str, header: dict[str, Any], folder: Path | None = None) -> Path:
    """Write ``name.safetensors`` and ``name.json``, each whole or not at all.

    Returns:
        The path of the weights.
    """
    folder = folder or data_folder() / "checkpoints"
    weights, about = folder / f"{name}.safetensors", folder / f"{name}.json"
    state = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    write_atomically(weights, safetensors.torch.save(state))
    write_atomically(about, (json.dumps({**header, "sha256": sha256(weights)}, indent=2) + "\n").encode())
    return weights


def load(model: nn.Module, name: str, folder: Path | None = None) -> dict[str, Any]:
    """Fill a model from ``name.safetensors`` after checking it against the header's checksum.

    Returns:
        The header: how the checkpoint was made.

    Raises:
        ValueError: A file is missing, truncated or altered, or does not fit the model.
    """
    folder = folder or data_folder() / "checkpoints"
    weights, about = folder / f"{name}.safetensors", folder / f"{name}.json"
    try:
        header: dict[str, Any] = json.loads(about.read_text())
        found = sha256(weights)
        if found != header["sha256"]:
            raise ValueError(f"its SHA-256 is {found[:12]}…, its header says {header['sha256'][:12]}…")
        model.load_state_dict(safetensors.torch.load_file(weights))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"The checkpoint {name!r} in {folder} cannot be used: {error}. "
            "Restore both of its files: `git checkout -- data`."
        ) from error
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return header
