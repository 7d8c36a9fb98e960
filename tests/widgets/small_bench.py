"""What tests of a session on a bench share: a small one, and how to wait for what other threads do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from workbench import Bench, Task
from workbench.recipe import Recipe
from workbench.report import Report
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


class Quiet:
    """A bench on which nothing goes on in the background and nothing was measured before."""

    def known(self, recipe: Recipe) -> None:
        return None

    def preflight_stream(self, cancel: threading.Event | None = None) -> Iterator[Any]:
        return iter(())

    def predictable(self, recipe: Recipe) -> bool:
        return False

    def sensitivity_stream(self, quantization: Any = None, cancel: threading.Event | None = None) -> Iterator[Any]:
        return iter(())

    def teachers(self) -> tuple[SimpleNamespace, ...]:
        return (SimpleNamespace(name="teacher-cnn", reason=None),)

    def frontier_reports(self) -> tuple[Report, ...]:
        return ()


def until(condition: Callable[[], object]) -> None:
    """Returns once something is so."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


class Gate:
    """Holds a bench at one step until it is opened, or cancelled."""

    def __init__(self, what: str, step: object) -> None:
        self.where, self.reached, self.open = (what, step), threading.Event(), threading.Event()

    def __call__(self, what: str, step: object, cancel: threading.Event | None) -> None:
        if (what, step) == self.where:
            self.reached.set()
            while not self.open.is_set() and not (cancel is not None and cancel.is_set()):
                time.sleep(0.002)
