"""Which part of a model cannot be exported, by the name of its module."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from workbench.inputs import Inputs
from workbench.passes import run_once
from workbench.runtimes.graph import export_reason
from workbench.tracing import quiet, tracing

SEARCH_SECONDS = 10.0


def unexportable(model: nn.Module, batch: Inputs) -> list[tuple[str, str]]:
    """The smallest parts of a model that torch cannot export, with its reason.

    Args:
        model: In evaluation mode.
        batch: One that it takes.
    """
    arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    names = {module: name for name, module in model.named_modules()}
    hooks = [
        module.register_forward_pre_hook(
            lambda m, args, kwargs: arguments.setdefault(names[m], (args, kwargs)), with_kwargs=True
        )
        for module in names
    ]
    with torch.no_grad():
        run_once(model, batch, hooks)
    stop = time.monotonic() + SEARCH_SECONDS
    found: list[tuple[str, str]] = []

    def search(name: str, module: nn.Module) -> None:
        why = _export_fails(module, arguments[name]) if name in arguments else None
        if why is None or time.monotonic() > stop:
            return
        before = len(found)
        for child, part in module.named_children():
            search(f"{name}.{child}" if name else child, part)
        if len(found) == before:
            found.append((f"{name or 'the model'} ({type(module).__name__})", why))

    search("", model)
    return found


def _export_fails(module: nn.Module, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> str | None:
    try:
        with quiet(), tracing(), torch.no_grad():
            torch.export.export(module, *arguments, strict=False)
    except Exception as error:  # the exporter has many kinds
        return export_reason(error)
    return None
