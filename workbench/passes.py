"""Running a model to look at it: hooks come off in any case, and the process keeps its random numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from workbench.errors import Cancelled
from workbench.inputs import Inputs
from workbench.randomness import seeded
from workbench.tracing import running


def run_once(model: nn.Module, batch: Inputs, hooks: Iterable[RemovableHandle] = ()) -> None:
    """Run a model on a batch.

    Args:
        model: In evaluation mode.
        batch: One that it takes.
        hooks: On its modules; removed afterwards.
    """
    try:
        with running(), seeded():
            batch.call(model)
    finally:
        for hook in hooks:
            hook.remove()


def run_through(
    model: nn.Module,
    inputs: Inputs,
    batch: int,
    cancel: threading.Event | None = None,
    hooks: Iterable[RemovableHandle] = (),
) -> None:
    """Run a model on all examples, batch by batch.

    Args:
        model: In evaluation mode.
        inputs: The examples.
        batch: How many run at once.
        cancel: Checked before every batch.
        hooks: On its modules; removed afterwards.

    Raises:
        Cancelled: `cancel` was set.
    """
    try:
        for part in inputs.batches(torch.arange(len(inputs)), batch):
            if cancel is not None and cancel.is_set():
                raise Cancelled
            run_once(model, inputs[part].channels_last())
    finally:
        for hook in hooks:
            hook.remove()
