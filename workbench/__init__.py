"""Acceleration Workbench: what a model gives up, and what it gains, when it gets smaller and faster.

import workbench as wb

bench = wb.zoo.load("seed-cnn")
report = bench.measure(wb.Recipe(quantization=wb.Quantization(weight_bits=4, activation_bits=8)))
print(report)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from workbench import sources, zoo
from workbench.errors import Cancelled, LoadError, PlanError, RecipeError, StoreError, TaskError, WorkbenchError
from workbench.inputs import Inputs
from workbench.recipe import Deployment, Distillation, Features, Finetuning, LayerOverride, Quantization, Recipe
from workbench.report import Estimate, Report
from workbench.store import Store
from workbench.task import Task

if TYPE_CHECKING:
    from workbench.bench import Bench
    from workbench.loading import load

__version__ = "0.1.0"

__all__ = [
    "Bench",
    "Cancelled",
    "Deployment",
    "Distillation",
    "Estimate",
    "Features",
    "Finetuning",
    "Inputs",
    "LayerOverride",
    "LoadError",
    "PlanError",
    "Quantization",
    "Recipe",
    "RecipeError",
    "Report",
    "Store",
    "StoreError",
    "Task",
    "TaskError",
    "WorkbenchError",
    "load",
    "sources",
    "zoo",
]


def __getattr__(name: str) -> Any:
    """`Bench` brings the runtimes with it and `load` the readers, so they are imported when they are first named."""
    homes = {"Bench": "workbench.bench", "load": "workbench.loading"}
    if name in homes:
        return getattr(import_module(homes[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
