"""Networks that learn within a second, and data that they learn from."""

from __future__ import annotations

import torch
from quarters import data, learned
from torch import nn

import workbench as wb
from workbench import Finetuning, Quantization, Recipe, Task
from workbench.finetuned_networks import FinetunedNetworks
from workbench.store import Store

RECIPE = Recipe(
    quantization=Quantization(weight_bits=2, activation_bits=8),
    finetuning=Finetuning(images=540, epochs=3, learning_rate=5e-3),
)


def network() -> nn.Module:
    """Trained for a moment, always the same."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 8), nn.ReLU(), nn.Linear(8, 4)
    )
    return learned(model, steps=40, rate=3e-3)


def bench(store: Store, model: nn.Module | None = None, **teachers: nn.Module) -> wb.Bench:
    """On four quarters."""
    pictures, labels = data(400, 1)
    task = Task.classification(pictures, labels, calibration=data(64, 2)[0], training=data(600, 3), classes=4)
    return wb.Bench(network() if model is None else model, task, store=store, teachers=teachers)


def networks(made: wb.Bench) -> FinetunedNetworks:
    """What the bench fine-tunes with."""
    return made._finetuned
