"""Photographs for networks trained on ImageNet: those that `foolbox` labels, and scikit-learn's two samples.

They are read from the installed packages and never copied: pictures of ImageNet keep the terms of their owners.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.task import Task
from workbench.zoo import efficientnet, packages

if TYPE_CHECKING:
    from PIL.Image import Image

PILLOW = packages.Package("PIL", "pillow")
SAMPLES = packages.Package("sklearn", "scikit-learn")
LABELLED = packages.Package("foolbox", "foolbox")
CHINA = packages.File(SAMPLES, "datasets/images/china.jpg")
FLOWER = packages.File(SAMPLES, "datasets/images/flower.jpg")

SIZE = 224
SHORTER_SIDE = 256
"""Before the central crop: 224 of 256 pixels, as the network's authors evaluate it."""
SHARES = (1.0, 0.75, 0.5, 0.35)
"""Sides of the crops as shares of a sample photograph's shorter side."""
CORNERS = ((0.0, 0.0), (1.0, 0.3), (0.4, 1.0), (0.7, 0.6))
"""Where they lie, as shares of the room that there is across and down; every second one is mirrored."""


def task(mean: Sequence[float] = efficientnet.MEAN, std: Sequence[float] = efficientnet.STD) -> Task:
    """Top-1 on 20 labelled photographs, calibrated with crops of two others.

    Without `foolbox`, which brings the labelled ones, it is agreement with fp32 on crops of one sample
    photograph, calibrated with crops of the other.

    Args:
        mean: Taken from every pixel's red, green and blue in 0..1; the default is what EfficientNet-Lite0 expects.
        std: What the difference is divided by.

    Raises:
        WorkbenchError: scikit-learn or Pillow is not installed, or a picture cannot be read.
    """
    known = labelled()
    if not known:
        return Task.fidelity(
            _normalised(crops(FLOWER.found()), mean, std),
            calibration=_normalised(crops(CHINA.found()), mean, std),
            name="photographs",
            noun="crops",
        )
    pictures = torch.stack([_central(_opened(path)) for path, _ in known])
    return Task.classification(
        _normalised(pictures, mean, std),
        torch.tensor([label for _, label in known]),
        calibration=_normalised(torch.cat([crops(CHINA.found()), crops(FLOWER.found())]), mean, std),
        top_k=(5,),
        classes=1000,
        name="photographs",
        description=f"ImageNet, {len(known)} labelled photographs",
        noun="photographs",
    )


def labelled() -> list[tuple[Path, int]]:
    """ImageNet photographs of `foolbox` with their class indices; none where it is not installed."""
    folder = LABELLED.folder()
    paths = sorted((folder / "data").glob("imagenet_*_*.jpg")) if folder else []
    return [(path, int(path.stem.rpartition("_")[2])) for path in paths]


def crops(path: Path) -> Tensor:
    """16 squares of a photograph, of several sizes and places, shape (16, 3, 224, 224) in 0..1; always the same."""
    return torch.stack(list(_crops(_opened(path))))


def _crops(picture: Image) -> Iterator[Tensor]:
    from PIL.Image import Resampling, Transpose

    for share in SHARES:
        side = round(share * min(picture.size))
        for index, (across, down) in enumerate(CORNERS):
            left, top = round(across * (picture.width - side)), round(down * (picture.height - side))
            box = (left, top, left + side, top + side)
            crop = picture.resize((SIZE, SIZE), Resampling.BICUBIC, box)
            yield _pixels(crop.transpose(Transpose.FLIP_LEFT_RIGHT) if index % 2 else crop)


def _central(picture: Image) -> Tensor:
    from PIL.Image import Resampling

    scale = SHORTER_SIDE / min(picture.size)
    resized = picture.resize((round(picture.width * scale), round(picture.height * scale)), Resampling.BICUBIC)
    left, top = (resized.width - SIZE) // 2, (resized.height - SIZE) // 2
    return _pixels(resized.crop((left, top, left + SIZE, top + SIZE)))


def _opened(path: Path) -> Image:
    if PILLOW.folder() is None:
        raise WorkbenchError(f"Reading photographs needs pillow. {packages.INSTALL}")
    from PIL import Image

    try:
        with Image.open(path, formats=("JPEG",)) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise WorkbenchError(f"{path} cannot be read as a picture ({error}). Install its package again.") from error


def _pixels(picture: Image) -> Tensor:
    """Shape (3, h, w), float32 in 0..1."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(255)


def _normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    shift, scale = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return ((pixels - shift) / scale).contiguous(memory_format=torch.channels_last)
