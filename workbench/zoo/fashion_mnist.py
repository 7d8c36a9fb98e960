"""Fashion-MNIST from its idx files: 28x28 grey pictures of ten kinds of clothing."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from workbench.errors import WorkbenchError
from workbench.task import CALIBRATION_EXAMPLES, Task, TrainingData
from workbench.zoo import checkpoints

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
TRAINING_IMAGES = 20_000


@lru_cache(maxsize=1)
def task() -> Task:
    """10,000 test images; calibration and distillation from 20,000 training images.

    Raises:
        WorkbenchError: A data file is missing, truncated or altered.
    """
    folder = checkpoints.data_folder() / "fashion-mnist"
    try:
        inputs = images(folder / "t10k-images-idx3-ubyte.gz")
        targets = labels(folder / "t10k-labels-idx1-ubyte.gz")
        calibration = images(folder / "train20k-images-idx3-ubyte.gz", CALIBRATION_EXAMPLES)
    except ValueError as error:
        raise WorkbenchError(str(error)) from error
    return Task.classification(
        inputs,
        targets,
        calibration=calibration,
        training=TrainingData(TRAINING_IMAGES, lambda: _training(folder)),
        classes=CLASSES,
        name="fashion-mnist",
        description=f"Fashion-MNIST, {len(inputs):,} test images",
        noun="images",
    )


def _training(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        read = images(folder / "train20k-images-idx3-ubyte.gz")
        return read, labels(folder / "train20k-labels-idx1-ubyte.gz")
    except ValueError as error:
        raise WorkbenchError(str(error)) from error


def read_idx(path: Path, most: int | None = None) -> torch.Tensor:
    """Read a gzipped idx file of unsigned bytes.

    Args:
        path: An ``*-idxN-ubyte.gz`` file (format: http://yann.lecun.com/exdb/mnist).
        most: Read only so many entries of the first dimension.

    Returns:
        A uint8 tensor with the N dimensions that the file's header gives.

    Raises:
        ValueError: The file is truncated, altered, or not an idx file.
    """
    try:
        with gzip.open(path) as file:
            zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
            if zeros or kind != 0x08:
                raise ValueError("its header does not name unsigned bytes")
            shape = list(struct.unpack(f">{dimensions}I", file.read(4 * dimensions)))
            shape[0] = min(shape[0], most if most is not None else shape[0])
            raw = file.read(math.prod(shape))
            if most is None and file.read(1):
                raise ValueError("it goes on behind its last entry")
        return torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(shape).copy())
    except (OSError, EOFError, ValueError, IndexError, MemoryError, OverflowError, struct.error, zlib.error) as error:
        raise ValueError(
            f"{path.name} cannot be read as a gzipped idx file ({error}). Restore it: `git checkout -- data`."
        ) from error


def images(path: Path, most: int | None = None) -> torch.Tensor:
    """Images of shape (N, 1, 28, 28), float32 in [0, 1], channels-last; the first `most` of them."""
    pixels = read_idx(path, most).unsqueeze(1).float().div_(255)
    return pixels.contiguous(memory_format=torch.channels_last)


def labels(path: Path) -> torch.Tensor:
    """Class indices of shape (N,), int64 in 0..9."""
    return read_idx(path).long()
