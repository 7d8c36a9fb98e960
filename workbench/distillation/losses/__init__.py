"""What a student learns from its teacher, one function a loss. A new one is a function and an entry below.

Losses of outputs (`LOSSES`) take what student and teacher return, shape (n, classes) or (n, d), and a temperature;
losses of features (`FEATURE_LOSSES`) take what a hidden layer of each returns. All give one value per example,
shape (n,), so that labelled and unlabelled examples can be weighted apart.

A temperature T divides the logits of both before the softmax: 1 leaves the probabilities as they are, more of it
brings out how the teacher ranks what it does not choose. Losses that have one are multiplied by T², which keeps the
size of their gradient, falling with 1 / T², comparable to that of cross-entropy: a change of T need not be made up for
by the weight. `cosine`, `mse` and the losses of features have no softmax and look at no temperature.

At the default settings (10,000 images of which 500 have a label, 8 epochs, T = 2, half of seed-cnn's width) a student
reached, in seeds 0 and 1 and each ± 0.7 points on 10,000 test images: 77 % without a teacher (`bench/distillation.py`);
kd 86.6 and 86.7; dkd 86.7 and 86.9; dist 88.3 and 88.0; standardised 85.8 and 86.0; cosine 82.0 and 84.8; mse 78.7 and
80.2. Beside kd, in seed 0: hints 87.7, attention 87.4, distance 87.3, angle 87.3. `bench/losses.py` measures again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from workbench.distillation.losses.embeddings import cosine, mse
from workbench.distillation.losses.features import angle, attention, distance, hints
from workbench.distillation.losses.logits import DKD_PAPER, dist, dkd, kd, mean_of_teachers, standardised
from workbench.errors import RecipeError, nearest

__all__ = [
    "FEATURE_LOSSES",
    "LOSSES",
    "FeatureLoss",
    "Loss",
    "angle",
    "attention",
    "cosine",
    "dist",
    "distance",
    "dkd",
    "get",
    "get_feature_loss",
    "hints",
    "kd",
    "mean_of_teachers",
    "mixed",
    "mse",
    "standardised",
]

Loss = Callable[[Tensor, Tensor, float], Tensor]
"""(student, teacher, temperature) -> a value per example."""


FeatureLoss = Callable[[Tensor, Tensor], Tensor]
"""(student, teacher) -> a value per example."""

LOSSES: dict[str, Loss] = {
    "kd": kd,
    "dkd": dkd,
    "dist": dist,
    "standardised": standardised,
    "cosine": cosine,
    "mse": mse,
}
FORMER: dict[str, Loss] = {"decoupled": partial(dkd, others=DKD_PAPER)}
"""Found by name for recipes of earlier versions, which keep their numbers, and not offered."""
FEATURE_LOSSES: dict[str, FeatureLoss] = {
    "hints": hints,
    "attention": attention,
    "distance": distance,
    "angle": angle,
}


def get(name: str) -> Loss:
    """A loss of outputs by name.

    Raises:
        RecipeError: There is none of that name.
    """
    known = LOSSES | FORMER
    if name not in known:
        raise RecipeError(f"distillation.loss: there is no loss {name!r}. {_instead(name, LOSSES, FEATURE_LOSSES)}")
    return known[name]


def get_feature_loss(name: str) -> FeatureLoss:
    """A loss of features by name.

    Raises:
        RecipeError: There is none of that name.
    """
    if name not in FEATURE_LOSSES:
        raise RecipeError(
            f"distillation.features.loss: there is no loss {name!r}. {_instead(name, FEATURE_LOSSES, LOSSES)}"
        )
    return FEATURE_LOSSES[name]


def _instead(name: str, known: Mapping[str, object], elsewhere: Mapping[str, object]) -> str:
    if name in elsewhere:
        there = "loss" if elsewhere is LOSSES else "features.loss"
        return f"It is one for distillation.{there}; here are {', '.join(known)}."
    return nearest(name, known)


def mixed(taught: Tensor, told: Tensor, labelled: Tensor, weight: float) -> Tensor:
    """What a student minimises the mean of: both losses where there is a label, elsewhere the teacher's alone.

    Args:
        taught: The teacher's loss, shape (n,).
        told: The labels' loss, shape (n,); read where `labelled`.
        labelled: Booleans, shape (n,).
        weight: The teacher's share on labelled examples; on the others it has all.

    Returns:
        Shape (n,): ``weight * taught + (1 - weight) * told`` where labelled, ``taught`` elsewhere.
    """
    return torch.where(labelled, weight * taught + (1 - weight) * told, taught)
