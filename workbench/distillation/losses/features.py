"""Losses of features: what a student learns from a hidden layer of its teacher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def hints(student: Tensor, teacher: Tensor) -> Tensor:
    """FitNets: mean squared difference (Romero et al. 2015, equation 3; there half the sum).

    Where the teacher's layer is wider, the student's features come through a learned 1x1 connector (the paper's
    regressor; see `workbench.distillation.feature_teaching`).

    Args:
        student: Features, shape (n, ...).
        teacher: Features of the same shape.

    Returns:
        Shape (n,), at least 0.
    """
    return F.mse_loss(student, teacher, reduction="none").flatten(1).mean(1)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Attention transfer: mean squared difference of where both respond, however wide they are.

    An attention map is the mean square over the channels at each position, as a vector of length 1 (Zagoruyko and
    Komodakis 2017, equation 2 with p = 2; squared and averaged over the positions as in the authors' code).

    Args:
        student: Feature maps, shape (n, channels, ...positions).
        teacher: Feature maps, shape (n, other channels, ...the same positions).

    Returns:
        Shape (n,), from 0 to 2 / positions.
    """
    ours, theirs = (F.normalize(maps.square().mean(1).flatten(1)) for maps in (student, teacher))
    return (ours - theirs).square().mean(1)


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Relational KD by distance: how far examples lie from each other, in units of the mean distance.

    Huber's loss of each pair's distance (Park et al. 2019, section 3.2, averaged over all n² pairs as in the
    authors' code). The widths may differ.

    Args:
        student: Features, shape (n, ...); what follows the first dimension is one vector.
        teacher: Features, shape (n, ...).

    Returns:
        Shape (n,): the mean over an example's pairs, at least 0; 0 for a single example.
    """
    return F.smooth_l1_loss(_distances(student), _distances(teacher), reduction="none").mean(1)


def angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Relational KD by angle: the cosine at an example between two others.

    Huber's loss of each triple's cosine (Park et al. 2019, section 3.2, averaged over all n³ triples as in the
    authors' code). The widths may differ. It takes memory for n³ + n² d numbers.

    Args:
        student: Features, shape (n, ...); what follows the first dimension is one vector.
        teacher: Features, shape (n, ...).

    Returns:
        Shape (n,): the mean over the triples with their angle at an example, at least 0.
    """
    return F.smooth_l1_loss(_cosines(student), _cosines(teacher), reduction="none").mean((1, 2))


def _distances(features: Tensor) -> Tensor:
    """Euclidean distances over their mean, shape (n, n).

    Not from a matrix product, which loses the digits of small distances.
    """
    found = torch.cdist(features.flatten(1), features.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    pairs = max(1, len(found) * (len(found) - 1))
    return found / (found.sum() / pairs).clamp(min=torch.finfo(found.dtype).tiny)


def _cosines(features: Tensor) -> Tensor:
    """At example i between j and k, shape (n, n, n); 0 where one of them lies on i."""
    vectors = features.flatten(1)
    towards = vectors.unsqueeze(0) - vectors.unsqueeze(1)  # (n, n, d)
    length = towards.norm(dim=2, keepdim=True)
    towards = towards / length.where(length > 0, 1)  # not clamped: that would give equal examples a huge gradient
    return towards @ towards.transpose(1, 2)
