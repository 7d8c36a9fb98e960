"""What a student learns from a teacher's logits. A new loss is a function here and an entry in `LOSSES`.

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

DKD_TARGET, DKD_OTHERS = 1.0, 8.0
"""Alpha and beta of `decoupled`: the paper's setting for CIFAR-100."""


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Hinton's: T² KL(softmax(t / T) ‖ softmax(s / T)) (Hinton, Vinyals, Dean 2015, section 2).

    Its mean over the examples is PyTorch's ``batchmean``. T² keeps the size of the gradient, which
    falls with 1 / T², comparable to that of cross-entropy.
    """
    ours, theirs = (F.log_softmax(logits / temperature, 1) for logits in (student, teacher))
    return temperature**2 * _divergence(ours, theirs)


def dist(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """DIST: one minus Pearson's correlation, of each example's classes and of each class's examples.

    T² (1 − r(rows)) per example, plus T² (1 − mean r(columns)), which belongs to the batch as a whole and which
    every example carries alike (Huang et al. 2022, equations 7 to 10, with β = γ = 1).
    """
    ours, theirs = (F.softmax(logits / temperature, 1) for logits in (student, teacher))
    return temperature**2 * ((1 - _pearson(ours, theirs)) + (1 - _pearson(ours.T, theirs.T).mean()))


def decoupled(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """DKD: T² (α TCKD + β NCKD) (Zhao et al. 2022, equation 7, with α = 1, β = 8).

    TCKD compares how sure both are of the target class, NCKD how they rank the others. The paper's target is the
    label; most examples here have none, so it is the class that the teacher prefers.
    """
    target = F.one_hot(teacher.argmax(1), teacher.shape[1]).bool()

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        all_classes = F.log_softmax(logits / temperature, 1)
        others = all_classes[~target].view(len(logits), -1)  # (n, classes - 1)
        any_other = others.logsumexp(1, keepdim=True)  # (n, 1)
        return torch.cat((all_classes[target].unsqueeze(1), any_other), 1), others - any_other

    ours, theirs = parts(student), parts(teacher)
    of_target, of_others = (_divergence(s, t) for s, t in zip(ours, theirs, strict=True))
    return temperature**2 * (DKD_TARGET * of_target + DKD_OTHERS * of_others)


LOSSES: dict[str, Loss] = {"kd": kd, "dist": dist, "decoupled": decoupled}


def get(name: str) -> Loss:
    """A loss by name.

    Raises:
        RecipeError: There is none of that name.
    """
    if name not in LOSSES:
        raise RecipeError(f"distillation.loss: there is no loss {name!r}. {nearest(name, LOSSES)}")
    return LOSSES[name]


def combined(
    loss: Loss,
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    labelled: Tensor,
    *,
    weight: float,
    temperature: float,
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
    taught = loss(student, teacher, temperature)
    told = F.cross_entropy(student, labels.where(labelled, 0), reduction="none")
    return torch.where(labelled, weight * taught + (1 - weight) * told, taught).mean()


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of log-probabilities, shape (n,)."""
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of corresponding rows."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1)
