"""The settings of quantization-aware fine-tuning, and the button that starts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from widgets.choices import choices_view, steps_view
from widgets.deployment_panel import with_value
from widgets.desk import trainable
from widgets.formatting import percent
from widgets.learning_curves import said_of
from widgets.part import Message, Part, changes_of, source
from workbench.errors import WorkbenchError
from workbench.recipe import Finetuning, Recipe

FIELDS = ("images", "epochs", "learning_rate", "distillation", "teacher", "nested", "seed")
EPOCHS = (1, 2, 4, 8, 16, 32)
RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
SHARES = tuple(round(0.1 * k, 1) for k in range(11))
NESTED = (2, 3, 4, 6, 8)
ITSELF = "itself in fp32"
OTHER_BITS = "Other bits begin again from the model’s own weights."


def image_steps(images: int) -> list[int]:
    """Round numbers of images up to all: 500, 1,000, 2,000, 5,000, …"""
    steps = [m * 10**power for power in range(2, 9) for m in (1, 2, 5)]
    return [*(step for step in steps if 500 <= step < images), *([images] if images else [])]


def finetuning_view(
    settings: Finetuning,
    recipe: Recipe,
    *,
    training_images: int,
    noun: str = "images",
    teachers: Sequence[str] = (),
    reason: str = "",
    possible: bool = True,
    training: bool = False,
    waiting: bool = False,
    paused: bool = False,
    curve: Sequence[Any] = (),
) -> dict[str, Any]:
    """The picture of the settings.

    Args:
        settings: What the panel shows.
        recipe: The one on the screen.
        training_images: How many the task has.
        noun: What an example is called.
        teachers: Who can teach beside the network itself.
        reason: Why it cannot be started; empty where it can.
        possible: Whether other settings could mend that.
        training: Whether it is under way.
        waiting: Whether something else is being trained.
        paused: Whether it was told to hold.
        curve: Progress of the training that is under way.
    """
    applied = recipe.finetuning
    active = recipe.quantization.active
    locked = training or not possible
    nested = with_value(NESTED, settings.nested[0]) if settings.nested else list(NESTED)
    nested = sorted({*nested, *settings.nested})
    changed = [f for f in FIELDS[2:] if getattr(settings, f) != Finetuning.model_fields[f].default]
    note = ""
    if training:
        note = "paused" if paused else "Beginning…"
        latest = curve[-1] if curve else None
        if latest is not None and latest.step:
            reached = [f"held-out {percent(latest.accuracy.value)}"] if latest.accuracy is not None else []
            note = " · ".join([*reached, *said_of(curve, training=True, noun=noun, paused=paused)])
    elif waiting:
        note = "after the distillation"
    elif applied:
        note = OTHER_BITS
    elif not active:
        note = "Set bits first."
    return {
        "remark": ("paused" if paused else "training") if training else "in the recipe" if applied else "off",
        "images": steps_view(settings.images, image_steps(training_images), locked, noun),
        "epochs": choices_view(settings.epochs, {n: str(n) for n in (*EPOCHS, settings.epochs)}, locked),
        "learning_rate": choices_view(
            settings.learning_rate, {rate: f"{rate:g}" for rate in (*RATES, settings.learning_rate)}, locked
        ),
        "distillation": steps_view(settings.distillation, SHARES, locked, "of the loss follows the teacher’s outputs"),
        "teacher": choices_view(
            settings.teacher or "",
            {"": ITSELF} | {name: name for name in (*teachers, settings.teacher) if name},
            locked,
            ordered=False,
        ),
        "nested": [
            {
                "value": bits,
                "text": str(bits),
                "spoken": f"{bits} bits",
                "chosen": bits in settings.nested,
                "disabled": locked,
            }
            for bits in nested
        ],
        "seed": {"value": settings.seed, "disabled": locked},
        "more": f"{len(changed)} changed" if changed else "",
        "training": training,
        "paused": paused,
        "can_start": not (locked or waiting or reason) and active,
        "can_remove": applied is not None and not training,
        "note": note,
        "reasons": [reason] if reason else [],
    }


class FinetuningPanel(Part):
    """Trains the network on the grids of the recipe, and takes the result out of it again."""

    _esm = source("fields.js", "finetuning_panel.js")
    watches: ClassVar[tuple[str, ...]] = ("bench", "finetuning", "recipe", "training", "paused", "lesson", "curve")

    def draw(self) -> dict[str, Any]:
        """The panel for the settings of the session."""
        session = self.session
        bench = session.bench
        mine = session.training and session.lesson == "finetuning"
        images = bench.training_images if bench is not None else 0
        noun = getattr(getattr(bench, "task", None), "noun", "images")
        reason = self._never(images, noun)
        return finetuning_view(
            session.finetuning,
            session.recipe,
            training_images=images,
            noun=noun,
            teachers=[offer.name for offer in bench.teachers() if offer.reason is None] if bench is not None else (),
            reason=reason or self._refusal(session.finetuning),
            possible=not reason,
            training=mine,
            waiting=session.training and not mine,
            paused=session.paused,
            curve=session.curve if mine else (),
        )

    def _never(self, images: int, noun: str) -> str:
        """Why no settings help; empty where some do."""
        if not images:
            return f"It learns from labelled {noun}, and this task has none; give it `training=(inputs, targets)`."
        return self._refusal(trainable(self.session.bench, Finetuning()))

    def _refusal(self, settings: Finetuning) -> str:
        recipe = self.session.recipe
        if not recipe.quantization.active:
            return ""  # the note says what is missing
        try:
            self.session.bench.check(recipe.replace(finetuning=settings))
        except WorkbenchError as error:
            return str(error)
        return ""

    def actions(self) -> dict[str, Any]:
        """``update``: fields of the settings; ``start``, ``pause``, ``resume``, ``stop``, ``remove``; ``nest``:
        ``bits`` in or out."""
        return {
            "update": self._update,
            "nest": self._nest,
            "start": lambda _: self.session.finetune(),
            "pause": lambda _: self.session.pause_training(),
            "resume": lambda _: self.session.resume_training(),
            "stop": lambda _: self.session.stop_training(),
            "remove": lambda _: self.session.without_finetuning(),
        }

    def _update(self, message: Message) -> None:
        changes = changes_of(message, FIELDS)
        if "teacher" in changes:
            changes["teacher"] = changes["teacher"] or None
        if isinstance(changes.get("nested"), list):
            changes["nested"] = tuple(changes["nested"])
        self.session.update_finetuning(**changes)

    def _nest(self, message: Message) -> None:
        bits, nested = message.get("bits"), self.session.finetuning.nested
        changed = tuple(each for each in nested if each != bits) if bits in nested else (*nested, bits)
        self.session.update_finetuning(nested=changed)
