"""Losses of outputs that are no classes: embeddings, scores, or logits taken as plain numbers.

They are called like the losses of logits. What they are given has no softmax, so the temperature changes nothing.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def cosine(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:  # noqa: ARG001 - called like all
    """One minus the cosine of the angle between both: direction counts, length does not.

    For embeddings that are compared by cosine similarity (DistilBERT's cosine embedding loss: Sanh et al. 2019,
    section 3).

    Args:
        student: Outputs, shape (n, d).
        teacher: Outputs, shape (n, d).
        temperature: Changes nothing.

    Returns:
        Shape (n,), from 0 to 2.
    """
    return 1 - F.cosine_similarity(student, teacher, dim=1)


def mse(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:  # noqa: ARG001 - called like all
    """Mean squared difference (of logits: Ba and Caruana 2014; of embeddings: Reimers and Gurevych 2020).

    Its gradient on logits is twice that of `kd` in the limit of a high temperature (Hinton et al. 2015, equation 4),
    where both have a mean of 0.

    Args:
        student: Outputs, shape (n, d).
        teacher: Outputs, shape (n, d).
        temperature: Changes nothing.

    Returns:
        Shape (n,), at least 0.
    """
    return F.mse_loss(student, teacher, reduction="none").flatten(1).mean(1)
