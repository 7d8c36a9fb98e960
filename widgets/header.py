"""The line on top: which model, what is going on, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from widgets.formatting import percent_of, score
from widgets.part import Message, Part, source, text_of
from workbench.report import Report


def picker_view(
    models: tuple[str, ...], model: str, description: str, baseline: Report | None, absent: Sequence[Any] = ()
) -> dict[str, Any]:
    """The picture of the model picker.

    Args:
        models: Names on offer.
        model: The one that is chosen.
        description: Of it.
        baseline: It in fp32, where that is known.
        absent: What cannot be chosen here, with ``name`` and ``reason``.
    """
    accuracy = f"fp32 {_named(baseline)}" if baseline else ""
    return {
        "options": [{"value": name, "text": name, "disabled": False} for name in models]
        + [
            {"value": each.name, "text": f"{each.name} (not here)", "disabled": True, "title": each.reason}
            for each in absent
        ],
        "value": model,
        "description": " · ".join(part for part in (description, accuracy) if part),
    }


def _named(baseline: Report) -> str:
    """``91.73 %``, or with its name what is no accuracy: ``MAE 42.1``."""
    value = score(baseline.accuracy.value, baseline.metric)
    return str(value) if baseline.metric.name == "accuracy" else f"{baseline.metric.name} {value}"


def status_view(
    status: str, progress: float, *, busy: bool, training: bool, problem: str, aside: str = ""
) -> dict[str, Any]:
    """The picture of the status line; `aside` is what goes on in the background."""
    working = busy or training
    return {
        "text": status or ("working" if working else "ready"),
        "progress": round(min(1.0, max(0.0, progress)), 3) if working else 0.0,
        "working": working,
        "problem": problem,
        "aside": "" if working else aside,
        "state": "working" if working else "problem" if problem else "ready",
    }


class ModelPicker(Part):
    """The title, the models to choose from, and what the current one is."""

    _esm = source("model_picker.js")
    watches: ClassVar[tuple[str, ...]] = ("models", "absent", "model", "loading", "bench", "baseline")

    def draw(self) -> dict[str, Any]:
        """The names on offer and the description of the current one."""
        session = self.session
        description = session.bench.description if session.bench is not None else ""
        name = session.loading or session.model
        return picker_view(session.models, name, description, session.baseline, session.absent)

    def actions(self) -> dict[str, Any]:
        """``choose``: another model, by ``model``."""
        return {"choose": self._choose}

    def _choose(self, message: Message) -> None:
        self.session.choose_model(text_of(message, "model"))


class Status(Part):
    """What is being computed, how far it is, how to stop it, and what went wrong."""

    _esm = source("status.js")
    watches: ClassVar[tuple[str, ...]] = ("recipe", "status", "progress", "busy", "training", "problem", "sensing")

    def draw(self) -> dict[str, Any]:
        """The status line."""
        s = self.session
        aside = "" if s.sensing is None else f"learning what each layer costs, {percent_of(s.sensing)}"
        return status_view(s.status, s.progress, busy=s.busy, training=s.training, problem=s.problem, aside=aside)

    def actions(self) -> dict[str, Any]:
        """``cancel``: stop what is under way."""
        return {"cancel": self._cancel}

    def _cancel(self, _: Message) -> None:
        if self.session.training:
            self.session.stop_training()
        if self.session.busy:
            self.session.cancel()


class History(Part):
    """Undo and redo, also by Ctrl+Z and Ctrl+Shift+Z."""

    _esm = source("history.js")
    watches: ClassVar[tuple[str, ...]] = ("can_undo", "can_redo")

    def draw(self) -> dict[str, Any]:
        """Which of the two can be pressed."""
        return {"undo": bool(self.session.can_undo), "redo": bool(self.session.can_redo)}

    def actions(self) -> dict[str, Any]:
        """``undo`` and ``redo``: one step."""
        return {"undo": self._undo, "redo": self._redo}

    def _undo(self, _: Message) -> None:
        self.session.undo()

    def _redo(self, _: Message) -> None:
        self.session.redo()
