"""The settings of a student, and the button that trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.deployment_panel import offers_view, reasons_of, with_value
from widgets.formatting import count
from widgets.methods import Words
from widgets.part import Message, Part, changes_of, source
from workbench.recipe import Distillation

if TYPE_CHECKING:
    from workbench.bench import Offer

FIELDS = ("teacher", "width", "loss", "features", "temperature", "weight", "labels", "epochs")
WIDTHS = {0.125: "⅛ width", 0.25: "¼ width", 0.5: "half width", 0.75: "¾ width", 1.0: "full width"}
TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0)
WEIGHTS = tuple(round(0.1 * k, 1) for k in range(11))
EPOCHS = (1, 2, 4, 8, 16, 32)

LOSSES = {
    "kd": Words("Hinton’s (KL)", "The student’s probabilities come close to the teacher’s, softened ones."),
    "dkd": Words("decoupled (DKD)", "How sure of the class and how the others rank, apart; the ranking counts more."),
    "dist": Words("correlation (DIST)", "Classes of an example and examples of a class correlate as the teacher’s do."),
    "standardised": Words("standardised logits", "As Hinton’s, after each example’s logits got mean 0 and spread 1."),
    "cosine": Words("cosine", "The outputs point the same way, however long they are. No temperature."),
    "mse": Words("squared error", "The outputs themselves come close to the teacher’s. No temperature."),
}
"""Losses of outputs."""
FEATURES = {
    "": Words("not taught", "Only the outputs learn from the teacher."),
    "hints": Words("hints (FitNets)", "A layer in the middle learns to say what the teacher’s says there."),
    "attention": Words("attention transfer", "Layers learn at which positions the teacher’s respond."),
    "distance": Words("relations: distance", "Examples lie as far apart in a hidden layer as in the teacher’s."),
    "angle": Words("relations: angle", "Three examples form the same angle in a hidden layer as in the teacher’s."),
}
"""Losses of hidden layers, which come on top."""
WITHOUT_TEMPERATURE = ("cosine", "mse")


def label_steps(images: int) -> list[int]:
    """Round numbers of labels up to all images: 0, 100, 200, 500, 1,000, …"""
    steps = [m * 10**power for power in range(2, 9) for m in (1, 2, 5)]
    return [0, *(step for step in steps if step < images), images]


def distillation_view(
    settings: Distillation,
    teachers: Sequence[Offer],
    *,
    training_images: int,
    noun: str = "images",
    applied: Distillation | None = None,
    training: bool = False,
    waiting: bool = False,
) -> dict[str, Any]:
    """The picture of the settings.

    Args:
        settings: What the panel shows.
        teachers: Who can teach, and why some cannot.
        training_images: How many the task has; 0: none, so that nothing can be distilled.
        noun: What an example is called.
        applied: The distillation in the recipe, if it has one.
        training: Whether a student is being trained.
        waiting: Whether something else is.
    """
    why = ""
    if not training_images:
        why = f"A student learns from training {noun}, and this task has none; give it `training=(inputs, targets)`."
    locked = training or bool(why)
    usable = any(teacher.reason is None for teacher in teachers)
    return {
        "remark": "training" if training else f"{_width(applied.width)} student" if applied else "off",
        "width": choices_view(settings.width, {settings.width: _width(settings.width), **WIDTHS}, locked),
        "teacher": offers_view(teachers, settings.teacher) | {"disabled": locked},
        "loss": words_view(settings.loss, LOSSES, locked),
        "features": words_view(settings.features.loss if settings.features else "", FEATURES, locked),
        "temperature": steps_view(settings.temperature, TEMPERATURES, locked or settings.loss in WITHOUT_TEMPERATURE),
        "weight": steps_view(settings.weight, WEIGHTS, locked, "of the loss is the teacher's"),
        "labels": steps_view(
            settings.labels, label_steps(min(settings.images, training_images)), locked, f"labelled {noun}"
        ),
        "epochs": choices_view(settings.epochs, {n: str(n) for n in (*EPOCHS, settings.epochs)}, locked),
        "training": training,
        "can_start": not why and usable and not waiting,
        "can_remove": applied is not None and not training,
        "note": "" if why else "after the fine-tuning" if waiting else "with a control, same budget",
        "reasons": [why] if why else reasons_of(teachers),
    }


def _width(width: float) -> str:
    return WIDTHS.get(width, f"×{width:g}")


def choices_view(value: float, names: Mapping[Any, str], disabled: bool) -> dict[str, Any]:
    """A drop-down of numbers by their names, in order."""
    return {
        "options": [{"value": key, "text": names[key], "disabled": False} for key in sorted(names)],
        "value": value,
        "disabled": disabled,
    }


def words_view(value: str, words: Mapping[str, Words], disabled: bool) -> dict[str, Any]:
    """A drop-down of choices with a line that says what the current one does; one without words is shown by name."""
    words = words if value in words else {**words, value: Words(value, "")}
    options = [{"value": key, "text": each.label, "disabled": False, "title": each.line} for key, each in words.items()]
    return {"options": options, "value": value, "disabled": disabled, "line": words[value].line}


def steps_view(value: float, values: Sequence[float], disabled: bool, unit: str = "") -> dict[str, Any]:
    """A slider over numbers, the current one among them; a reader hears them with the unit."""
    steps = with_value(values, value)
    texts = [count(step) if isinstance(step, int) else f"{step:g}" for step in steps]
    return {
        "values": steps,
        "texts": texts,
        "spoken": [f"{text} {unit}".strip() for text in texts],
        "value": value,
        "disabled": disabled,
    }


class DistillationPanel(Part):
    """Student, teacher, temperature, labels, and the button that trains student and control."""

    _esm = source("distillation_panel.js")
    watches: ClassVar[tuple[str, ...]] = ("distillation", "recipe", "bench", "training")

    def draw(self) -> dict[str, Any]:
        """The panel for the settings of the session."""
        session = self.session
        bench = session.bench
        return distillation_view(
            session.distillation,
            bench.teachers() if bench is not None else (),
            training_images=bench.training_images if bench is not None else 0,
            noun=getattr(getattr(bench, "task", None), "noun", "images"),
            applied=session.recipe.distillation,
            training=session.training and session.lesson == "distillation",
            waiting=session.training and session.lesson != "distillation",
        )

    def actions(self) -> dict[str, Any]:
        """``update``: fields of the settings; ``distil``, ``stop``, ``remove``."""
        return {"update": self._update, "distil": self._distil, "stop": self._stop, "remove": self._remove}

    def _update(self, message: Message) -> None:
        changes = changes_of(message, FIELDS)
        if "features" in changes:
            changes["features"] = {"loss": changes["features"]} if changes["features"] else None
        self.session.update_distillation(**changes)

    def _distil(self, _: Message) -> None:
        self.session.distil()

    def _stop(self, _: Message) -> None:
        self.session.stop_training()

    def _remove(self, _: Message) -> None:
        self.session.without_distillation()
