"""A bench whose students learn within a second."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

import workbench as wb
from workbench import Distillation, Task
from workbench.store import Store

SETTINGS = Distillation(teacher="big", images=400, labels=60, epochs=2, width=0.5)


def data(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures with a bright quarter; which one is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=generator)
    pictures = torch.randn(n, 1, 8, 8, generator=generator)
    for label, (top, left) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
        pictures[labels == label, :, top : top + 4, left : left + 4] += 0.7
    return pictures, labels


@lru_cache
def network(width: int, classes: int = 4) -> nn.Module:
    """Trained for a moment, always the same."""
    torch.manual_seed(width)
    model = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, classes)
    )
    pictures, labels = data(600, 3)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pictures), labels).backward()
        optimizer.step()
    return model.eval()


def bench(store: Store, **teachers: nn.Module) -> wb.Bench:
    """On four quarters, with a teacher twice as wide."""
    pictures, labels = data(400, 1)
    names = ("top left", "top right", "bottom left", "bottom right")
    task = Task.classification(pictures, labels, calibration=data(64, 2)[0], training=data(2500, 3), classes=names)
    return wb.Bench(network(8), task, store=store, teachers={"big": network(16), **teachers})
