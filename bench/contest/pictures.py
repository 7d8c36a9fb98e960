"""Pictures for EfficientNet-Lite0: 20 photographs and augmentations of them, the same on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.zoo import efficientnet, photographs

if TYPE_CHECKING:
    from PIL.Image import Image

EVALUATED, EVALUATION_SEED = 11, 7
"""Augmentations of each photograph beside itself."""
CALIBRATED = 32
LEAST_SHARE, TURN, BRIGHTNESS, NOISE = 0.6, 12.0, 0.3, 0.03
"""Side of a crop, degrees, share of the brightness, and standard deviation of what is added to 0..1."""


def evaluation() -> tuple[Tensor, Tensor]:
    """Inputs of shape (240, 3, 224, 224), and which photograph each comes from."""
    generator = np.random.default_rng(EVALUATION_SEED)
    made, groups = [], []
    for index, (path, _) in enumerate(_known()):
        picture = photographs._opened(path)
        made += [photographs._central(picture), *(_augmented(picture, generator) for _ in range(EVALUATED))]
        groups += [index] * (1 + EVALUATED)
    return _normalised(made), torch.tensor(groups)


def calibration(seed: int) -> Tensor:
    """Other augmentations of the same photographs, shape (32, 3, 224, 224)."""
    generator = np.random.default_rng(seed)
    known = _known()
    made = [_augmented(photographs._opened(known[i % len(known)][0]), generator) for i in range(CALIBRATED)]
    return _normalised(made)


def _known() -> list[tuple[Path, int]]:
    known = photographs.labelled()
    if not known:
        raise WorkbenchError("The photographs come with foolbox; install it with: pip install foolbox")
    return known


def _augmented(picture: Image, generator: np.random.Generator) -> Tensor:
    from PIL.Image import Resampling, Transpose

    turned = picture.rotate(float(generator.uniform(-TURN, TURN)), Resampling.BICUBIC)
    side = round(float(generator.uniform(LEAST_SHARE, 1.0)) * min(turned.size))
    left, top = (float(generator.uniform(0, room - side)) for room in turned.size)
    cut = turned.resize((photographs.SIZE,) * 2, Resampling.BICUBIC, (left, top, left + side, top + side))
    if generator.random() < 0.5:
        cut = cut.transpose(Transpose.FLIP_LEFT_RIGHT)
    pixels = photographs._pixels(cut) * float(generator.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS))
    noise = torch.from_numpy(generator.normal(0, NOISE, pixels.shape)).float()
    return (pixels + noise).clamp(0, 1)


def _normalised(pictures: list[Tensor]) -> Tensor:
    return photographs._normalised(torch.stack(pictures), efficientnet.MEAN, efficientnet.STD)
