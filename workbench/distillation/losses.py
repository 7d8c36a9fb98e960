"""What a student learns from a teacher's outputs. A new loss is a function here and an entry in `LOSSES`.

Every loss takes student and teacher logits of shape (n, classes) and a temperature, and returns one
value per example, shape (n,), so that labelled and unlabelled examples can be weighted apart.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.errors import RecipeError, nearest

Loss = Callable[[Tensor, Tensor, float], Tensor]


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Hinton's: T^2 KL(softmax(t / T) || softmax(s / T)) (Hinton, Vinyals, Dean 2015, section 2).

    T^2 keeps the size of the gradient, which falls with 1 / T^2, comparable to that of cross-entropy.
    """
    told = F.log_softmax(student / temperature, 1)
    wanted = F.log_softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(told, wanted, reduction="none", log_target=True).sum(1)


def dist(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """DIST: one minus Pearson's correlation, of each example's classes and of each class's examples.

    T^2 (1 - r(rows)) per example plus T^2 (1 - mean r(columns)) for the batch (Huang et al. 2022,
    equations 7 to 10, with beta = gamma = 1).
    """
    s, t = (F.softmax(logits / temperature, 1) for logits in (student, teacher))
    return temperature**2 * ((1 - _pearson(s, t)) + (1 - _pearson(s.T, t.T).mean()))


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of corresponding rows."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1, eps=1e-8)


LOSSES: dict[str, Loss] = {"kd": kd, "dist": dist}


def get(name: str) -> Loss:
    """A loss by name.

    Raises:
        RecipeError: There is none of that name.
    """
    if name not in LOSSES:
        raise RecipeError(f"distillation.loss: there is no loss {name!r}. {nearest(name, LOSSES)}")
    return LOSSES[name]


def combined(
    loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor, labelled: Tensor, weight: float, temperature: float
) -> Tensor:
    """The mean over a batch of what a student minimises.

    Args:
        loss: How it learns from the teacher.
        student: Logits, shape (n, classes).
        teacher: Logits, shape (n, classes).
        labels: Class indices, shape (n,); read where `labelled`.
        labelled: Booleans, shape (n,).
        weight: The teacher's share on labelled examples; on the others it has all.
        temperature: Of the loss.

    Returns:
        A scalar: mean of ``weight * loss + (1 - weight) * cross_entropy`` where labelled, ``loss`` elsewhere.
    """
    share = torch.where(labelled, weight, 1.0)
    total = share * loss(student, teacher, temperature)
    if bool(labelled.any()):
        own = F.cross_entropy(student[labelled], labels[labelled], reduction="none")
        total = total.index_put((labelled.nonzero(as_tuple=True)[0],), (1 - weight) * own, accumulate=True)
    return total.mean()
