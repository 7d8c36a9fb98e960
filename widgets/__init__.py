"""The view: a session and the parts that show it, each usable alone in a notebook.

Names are imported when they are asked for, so that one part does not cost the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from widgets.deployment_panel import DeploymentPanel
    from widgets.device_panel import DevicePanel
    from widgets.distillation_panel import DistillationPanel
    from widgets.explanation import ExplanationPart
    from widgets.figure import tradeoff_figure
    from widgets.finetuning_panel import FinetuningPanel
    from widgets.foresight import Foresight
    from widgets.guess import Guess
    from widgets.guess_speed import GuessSpeed
    from widgets.header import History, ModelPicker, Status
    from widgets.layer_table import LayerTable
    from widgets.learning_curves import LearningCurves
    from widgets.model_check import ModelCheck
    from widgets.quantization_panel import QuantizationPanel
    from widgets.session import Session
    from widgets.speed_panel import SpeedPanel
    from widgets.teaching import Teaching
    from widgets.tiles import Tiles
    from widgets.tradeoff import TradeOff
    from widgets.tried import Tried
    from widgets.verdict import Verdict
    from widgets.workbench import Workbench

_HOME = {
    "DeploymentPanel": "deployment_panel",
    "DevicePanel": "device_panel",
    "DistillationPanel": "distillation_panel",
    "ExplanationPart": "explanation",
    "FinetuningPanel": "finetuning_panel",
    "Foresight": "foresight",
    "Guess": "guess",
    "GuessSpeed": "guess_speed",
    "History": "header",
    "LayerTable": "layer_table",
    "LearningCurves": "learning_curves",
    "ModelCheck": "model_check",
    "ModelPicker": "header",
    "QuantizationPanel": "quantization_panel",
    "Session": "session",
    "SpeedPanel": "speed_panel",
    "Status": "header",
    "Teaching": "teaching",
    "Tiles": "tiles",
    "TradeOff": "tradeoff",
    "Tried": "tried",
    "Verdict": "verdict",
    "Workbench": "workbench",
    "tradeoff_figure": "figure",
}

__all__ = [
    "DeploymentPanel",
    "DevicePanel",
    "DistillationPanel",
    "ExplanationPart",
    "FinetuningPanel",
    "Foresight",
    "Guess",
    "GuessSpeed",
    "History",
    "LayerTable",
    "LearningCurves",
    "ModelCheck",
    "ModelPicker",
    "QuantizationPanel",
    "Session",
    "SpeedPanel",
    "Status",
    "Teaching",
    "Tiles",
    "TradeOff",
    "Tried",
    "Verdict",
    "Workbench",
    "tradeoff_figure",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'widgets' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"widgets.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
