"""Tensors with what is said of them in one file that tells itself whether it is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from workbench.files import write_atomically


def save(path: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, with more and a checksum in the header; whole or not at all.

    Args:
        path: In a folder that is there.
        about: What JSON can say of the tensors.
        tensors: By name; tied ones are written twice.

    Raises:
        OSError: The file cannot be written. One that was there before is left whole.
    """
    write_atomically(path, packed(about, tensors))


def packed(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """What `save` writes."""
    text = json.dumps(about, sort_keys=True)
    plain = {
        name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in sorted(tensors.items())
    }
    return safetensors.torch.save(plain, {"about": text, "sha256": _checksum(text, plain)})


def load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save` wrote.

    Returns:
        What is said of the tensors, and these by name.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is truncated, altered, or not of this kind.
    """
    return unpacked(path.read_bytes())


def unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The reverse of `packed`.

    Raises:
        ValueError: As in `load`.
    """
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        text, told = header["about"], header["sha256"]
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"it is truncated or of another kind ({error})") from error
    if told != _checksum(text, tensors):
        raise ValueError("its content does not match its checksum")
    about: dict[str, Any] = json.loads(text)
    return about, tensors


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
