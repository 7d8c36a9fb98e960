"""Outputs and targets in words, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.explaining.flips import Answer
from workbench.metrics import Metric, TopK
from workbench.task import Task

FEW = 4
"""Numbers of an output that are written out."""


def answers(task: Task, metric: Metric, outputs: Tensor, scores: Tensor) -> list[Answer]:
    """What a network said to each example of a batch.

    Args:
        task: Whose classes have names.
        metric: By which examples are judged.
        outputs: Shape (k, ...).
        scores: Of the examples, shape (k,).
    """
    if isinstance(metric, TopK):
        best, place = probabilities(outputs).topk(min(2, outputs.shape[1]), dim=1)
        margins = best[:, 0] - best[:, 1] if best.shape[1] > 1 else best[:, 0]
        return [
            Answer(text=named(task.classes, index), probability=p, margin=m, score=s)
            for index, p, m, s in zip(
                place[:, 0].tolist(), best[:, 0].tolist(), margins.tolist(), scores.tolist(), strict=True
            )
        ]
    rows = outputs.reshape(len(outputs), -1)
    if rows.shape[1] <= FEW and metric.info.name in ("MAE", "RMSE", "R²"):
        return [
            Answer(text=numbers(row, metric.info.unit), score=s)
            for row, s in zip(rows.tolist(), scores.tolist(), strict=True)
        ]
    sign = 1 if metric.info.higher_is_better else -1
    unit = f" {metric.info.unit}" if metric.info.unit else ""
    return [Answer(text=f"{metric.info.name} {_score(sign * s, metric)}{unit}", score=s) for s in scores.tolist()]


def strengths(metric: Metric, outputs: Tensor, targets: Tensor, scores: Tensor) -> Tensor:
    """How far each example is on the right side: finer than right or wrong, so that layers can be ranked by it.

    Args:
        metric: By which examples are judged.
        outputs: Shape (k, ...).
        targets: Class indices, shape (k,), or another network's outputs, shape (k, classes).
        scores: Of the examples, shape (k,).

    Returns:
        Shape (k,): for classes, the target's probability minus that of the best other one; else the scores.
    """
    if not isinstance(metric, TopK) or outputs.shape[1] < 2:
        return scores
    right = targets.argmax(1) if targets.shape == outputs.shape and targets.is_floating_point() else targets
    shares = probabilities(outputs)
    own = shares.gather(1, right[:, None].long())
    others = shares.scatter(1, right[:, None].long(), -1.0).max(1).values
    return (own[:, 0] - others).double()


def probabilities(outputs: Tensor) -> Tensor:
    """Of classes, shape (k, classes): the outputs themselves where they are probabilities, else their softmax."""
    x = outputs.float()
    sums = x.sum(1)
    if bool((x >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        return x
    return x.softmax(1)


def targets_in_words(task: Task, indices: Tensor) -> list[str]:
    """What is right for examples; empty where that is no word and no number.

    Args:
        task: With or without targets.
        indices: Of examples, shape (k,).
    """
    if task.targets is None or not len(indices):
        return [""] * len(indices)
    rows = task.targets[indices].reshape(len(indices), -1)
    if rows.shape[1] > FEW:
        return [""] * len(indices)
    if rows.shape[1] == 1 and not rows.is_floating_point():
        return [named(task.classes, int(index)) for index in rows[:, 0].tolist()]
    unit = task.metrics[0].info.unit if task.metrics else ""
    return [numbers(row, unit) for row in rows.tolist()]


def named(classes: Sequence[str], index: int) -> str:
    """The name of a class, or its number where it has none."""
    return classes[index] if 0 <= index < len(classes) else f"class {index}"


def numbers(row: Sequence[float], unit: str) -> str:
    """A few numbers: ``152.3 mg``, ``0.12, 3``."""
    text = ", ".join(f"{value:.4g}".replace("-", "\u2212") for value in row)
    return f"{text} {unit}".rstrip()


def _score(value: float, metric: Metric) -> str:
    if metric.info.counted:
        return "right" if value > 0 else "wrong"
    return f"{100 * value:.0f} %" if metric.info.share else f"{value:.4g}".replace("-", "\u2212")
