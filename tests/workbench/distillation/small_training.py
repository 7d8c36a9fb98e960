"""A small training for the tests of how one is kept, gone on with, and done elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import nn

from workbench.distillation import trainer
from workbench.distillation.progress import Progress
from workbench.distillation.teacher import TeacherLogits, fingerprint
from workbench.distillation.trained import Trained
from workbench.recipe import Distillation, Features

CLASSES, FEATURES = 4, 10
GENERATOR = torch.Generator().manual_seed(0)
RULE = torch.randn(FEATURES, CLASSES, generator=GENERATOR)
INPUTS = torch.randn(640, FEATURES, generator=GENERATOR)
HELD_OUT = torch.randn(300, FEATURES, generator=GENERATOR)
SETTINGS = Distillation(images=640, labels=64, epochs=10, features=Features(loss="hints", pairs={"0": "0"}))
STEPS = 100

Distil = Callable[..., Generator[Progress, None, Trained]]


def network(width: int) -> nn.Sequential:
    """With a buffer that counts and a layer that draws: both must go on where they were."""
    torch.manual_seed(width)
    layers = (nn.Linear(FEATURES, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, CLASSES))
    return nn.Sequential(*layers)


def training(distil: Distil = trainer.distil, **changes: Any) -> Generator[Progress, None, Trained]:
    arguments: dict[str, Any] = {
        "model": network(16),
        "example": INPUTS[:2],
        "settings": SETTINGS,
        "inputs": INPUTS,
        "labels": (INPUTS @ RULE).argmax(1),
        "teacher_logits": TeacherLogits(4 * INPUTS @ RULE, fingerprint(INPUTS)),
        "validation": (HELD_OUT, (HELD_OUT @ RULE).argmax(1)),
        "teacher": network(24).eval(),
    }
    return distil(**(arguments | changes))


def run(steps: Generator[Progress, None, Trained]) -> tuple[list[Progress], Trained]:
    curve = []
    while True:
        try:
            curve.append(next(steps))
        except StopIteration as end:
            return curve, end.value


def same(a: Trained, b: Trained) -> bool:
    pairs = ((a.student_state, b.student_state), (a.control_state, b.control_state))
    return all(x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x) for x, y in pairs)
