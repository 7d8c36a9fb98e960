"""What tests of a session on a bench share: a small one, and how to wait for what other threads do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from workbench import Bench, Task
from workbench.store import Store

LONG = 60  # seconds: a guard against hanging, never what a test is about


def made(folder: Path) -> Bench:
    """Two Linear layers on 300 examples of four classes; without training examples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    inputs = torch.randn(300, 8)
    with torch.inference_mode():
        targets = model(inputs).argmax(1)
    task = Task.classification(inputs, targets, calibration=torch.randn(50, 8), classes=4)
    return Bench(model, task, name="small", store=Store(folder))


def until(condition: Callable[[], object]) -> None:
    """Returns once something is so."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)
