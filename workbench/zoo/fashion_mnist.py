"""Fashion-MNIST from its idx files: 28x28 grey pictures of ten kinds of clothing."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import torch

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def read_idx(path: Path) -> torch.Tensor:
    """Read a gzipped idx file of unsigned bytes.

    Args:
        path: An ``*-idxN-ubyte.gz`` file (format: http://yann.lecun.com/exdb/mnist).

    Returns:
        A uint8 tensor with the N dimensions that the file's header gives.

    Raises:
        ValueError: The file is truncated, altered, or not an idx file.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
        zeros, kind, dimensions = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{dimensions}I", raw[4 : 4 + 4 * dimensions])
        if zeros or kind != 0x08:
            raise ValueError("its header does not name unsigned bytes")
        return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy())
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise ValueError(
            f"{path.name} cannot be read as a gzipped idx file ({error}). Restore it: `git checkout -- data`."
        ) from error


def images(path: Path) -> torch.Tensor:
    """Images of shape (N, 1, 28, 28), float32 in [0, 1], channels-last."""
    pixels = read_idx(path).unsqueeze(1).float().div_(255)
    return pixels.contiguous(memory_format=torch.channels_last)


def labels(path: Path) -> torch.Tensor:
    """Class indices of shape (N,), int64 in 0..9."""
    return read_idx(path).long()
