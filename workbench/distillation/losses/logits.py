"""Losses of logits: what a student learns from how sure its teacher is of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.errors import TaskError

DKD_TARGET = 1.0
"""Alpha of `dkd`, the paper's."""
DKD_OTHERS = 1.0
"""Beta of `dkd` at budgets of seconds to minutes. The paper's is 8, for 240 epochs of CIFAR-100; the default settings,
8 epochs, reach 81.8 % on seed-cnn's task with it and 86.7 % with 1 (one seed, ± 0.7; `bench/losses.py`)."""
DKD_PAPER = 8.0
SPREAD = 1e-7
"""Added to a standard deviation before it divides; logits that are all alike have none."""


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Hinton's: T² KL(softmax(t / T) ‖ softmax(s / T)) (Hinton, Vinyals, Dean 2015, section 2).

    Its mean over the examples is PyTorch's ``batchmean``.

    Args:
        student: Logits, shape (n, classes).
        teacher: Logits, shape (n, classes).
        temperature: T, above 0.

    Returns:
        Shape (n,), at least 0.
    """
    ours, theirs = (F.log_softmax(logits / temperature, 1) for logits in (student, teacher))
    return temperature**2 * _divergence(ours, theirs)


def dkd(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    target: Tensor | None = None,
    others: float = DKD_OTHERS,
) -> Tensor:
    """Decoupled KD: T² (α TCKD + β NCKD) (Zhao et al. 2022, equation 7, with α = 1).

    TCKD compares how sure both are of the target class, NCKD how they rank the others.

    Args:
        student: Logits, shape (n, classes), of two classes at least.
        teacher: Logits, shape (n, classes).
        temperature: T, above 0.
        target: Class indices, shape (n,). The paper's are the labels; most examples here have none, so None takes
            the class that the teacher prefers.
        others: β, at least 0.

    Returns:
        Shape (n,), at least 0.
    """
    chosen = F.one_hot(teacher.argmax(1) if target is None else target, teacher.shape[1]).bool()

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        all_classes = F.log_softmax(logits / temperature, 1)
        others = all_classes[~chosen].view(len(logits), -1)  # (n, classes - 1)
        any_other = others.logsumexp(1, keepdim=True)  # (n, 1)
        return torch.cat((all_classes[chosen].unsqueeze(1), any_other), 1), others - any_other

    ours, theirs = parts(student), parts(teacher)
    of_target, of_others = (_divergence(s, t) for s, t in zip(ours, theirs, strict=True))
    return temperature**2 * (DKD_TARGET * of_target + others * of_others)


def dist(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """DIST: one minus Pearson's correlation, of each example's classes and of each class's examples.

    T² (1 − r(rows)) per example, plus T² (1 − mean r(columns)), which belongs to the batch as a whole and which
    every example carries alike (Huang et al. 2022, equations 7 to 10, with β = γ = 1).

    Args:
        student: Logits, shape (n, classes).
        teacher: Logits, shape (n, classes).
        temperature: T, above 0.

    Returns:
        Shape (n,), from 0 to 4 T².
    """
    ours, theirs = (F.softmax(logits / temperature, 1) for logits in (student, teacher))
    return temperature**2 * ((1 - _pearson(ours, theirs)) + (1 - _pearson(ours.T, theirs.T).mean()))


def standardised(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Hinton's after each example's logits were given mean 0 and standard deviation 1 (Sun et al. 2024, algorithm 1).

    A student then need not reach the size of its teacher's logits, only their pattern. T divides what was
    standardised: it softens every example alike, however sure the teacher is of it. As in the authors' code, the
    standard deviation is that of a sample (n − 1).

    Args:
        student: Logits, shape (n, classes), of two classes at least.
        teacher: Logits, shape (n, classes).
        temperature: T, above 0.

    Returns:
        Shape (n,), at least 0.
    """
    return kd(_standardised(student), _standardised(teacher), temperature)


def mean_of_teachers(logits: Sequence[Tensor], temperature: float, weights: Sequence[float] | None = None) -> Tensor:
    """One teacher out of several: the mean of their softened probabilities (You et al. 2017).

    Args:
        logits: Of each teacher, shape (n, classes).
        temperature: T, above 0, of the loss that the result is for.
        weights: A share for each teacher, not negative; they are divided by their sum. None: alike.

    Returns:
        Logits, shape (n, classes), whose softmax at this temperature is the mean: every loss of logits takes them.

    Raises:
        TaskError: No teachers, of different shapes, or weights that are not one finite number of at least 0 for
            each, with a sum above 0.
    """
    if not logits or len({tuple(each.shape) for each in logits}) > 1:
        shapes = ", ".join(str(tuple(each.shape)) for each in logits) or "none"
        raise TaskError(f"teachers: logits of one shape (n, classes) are needed from each; these are {shapes}.")
    shares = [1.0] * len(logits) if weights is None else [float(weight) for weight in weights]
    if len(shares) != len(logits):
        raise TaskError(f"weights: one for each of the {len(logits)} teachers is needed; these are {len(shares)}.")
    if not all(math.isfinite(share) and share >= 0 for share in shares) or not sum(shares) > 0:
        raise TaskError(f"weights: numbers of at least 0 with a sum above 0 are needed; these are {shares}.")
    said = torch.stack([F.log_softmax(each / temperature, 1) for each in logits])  # (teachers, n, classes)
    parts = said.new_tensor(shares).div(sum(shares)).log().view(-1, 1, 1)
    return temperature * (said + parts).logsumexp(0)


def _standardised(logits: Tensor) -> Tensor:
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + SPREAD)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of log-probabilities, shape (n,)."""
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of corresponding rows."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1)
