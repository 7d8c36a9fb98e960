"""A bench whose students learn within a second."""

from __future__ import annotations

from functools import lru_cache

import torch
from quarters import data, learned
from torch import nn

import workbench as wb
from workbench import Distillation, Task
from workbench.store import Store

SETTINGS = Distillation(teacher="big", images=400, labels=60, epochs=2, width=0.5)


@lru_cache
def network(width: int, classes: int = 4) -> nn.Module:
    """Trained for a moment, always the same."""
    torch.manual_seed(width)
    model = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, classes)
    )
    return learned(model, steps=25, rate=1e-2)


def bench(store: Store, **teachers: nn.Module) -> wb.Bench:
    """On four quarters, with a teacher twice as wide."""
    pictures, labels = data(400, 1)
    names = ("top left", "top right", "bottom left", "bottom right")
    task = Task.classification(pictures, labels, calibration=data(64, 2)[0], training=data(2500, 3), classes=names)
    return wb.Bench(network(8), task, store=store, teachers={"big": network(16), **teachers})
