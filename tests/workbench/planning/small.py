"""Small models of several kinds of task, and benches on them."""

from __future__ import annotations

import torch
from torch import nn

import workbench as wb
from workbench import Task
from workbench.store import Store


class Pooled(nn.Module):
    """An embedding whose weights are used twice, so that the file has a tied tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.inner(self.table(ids))).mean(1))


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )


def classification(store: Store) -> wb.Bench:
    model = classifier()
    inputs = torch.randn(300, 1, 8, 8)
    with torch.inference_mode():
        outputs = model(inputs)
        targets = (outputs + outputs.std() * 0.5 * torch.randn(300, 4)).argmax(1)
    task = Task.classification(inputs, targets, calibration=torch.randn(80, 1, 8, 8), classes=4)
    return wb.Bench(model, task, name="small", store=store)


def regression(store: Store) -> wb.Bench:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    inputs = torch.randn(200, 6)
    with torch.inference_mode():
        targets = model(inputs)[:, 0] + 0.05 * torch.randn(200)
    return wb.Bench(model, Task.regression(inputs, targets, calibration=torch.randn(60, 6), unit="m"), store=store)


def embedding(store: Store) -> wb.Bench:
    torch.manual_seed(0)
    ids = torch.randint(1, 20, (120, 5))
    return wb.Bench(Pooled(), Task.embedding(ids, calibration=torch.randint(1, 20, (40, 5))), store=store)


KINDS = {"classification": classification, "regression": regression, "embedding": embedding}
