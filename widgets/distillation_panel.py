"""The settings of a student and of its training, and the buttons of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.choices import choices_view, label_steps, steps_view, words_view
from widgets.deployment_panel import offers_view, reasons_of
from widgets.distillation_layers import paired, pairs_view, widths_view
from widgets.distillation_words import (
    AUGMENTATIONS,
    EPOCHS,
    FEATURE_WEIGHTS,
    FEATURES,
    FORMS,
    INITIALS,
    LOSSES,
    OWN,
    PATIENCE,
    SEED_TEXTS,
    SHARE_OF,
    SHARES,
    SOUPS,
    VIEWS,
    WEIGHTS,
    WITHOUT_TEMPERATURE,
)
from widgets.distilling import TEMPERATURES
from widgets.formatting import between, count, durations, figures, percent_of, size
from widgets.learning_curves import said_of
from widgets.lessons import SEEDS
from widgets.methods import Words
from widgets.part import Message, Part, changes_of, source, text_of
from workbench.errors import WorkbenchError
from workbench.recipe import Distillation, Features

if TYPE_CHECKING:
    from widgets.distilling import Sketch
    from widgets.lessons import Lap
    from workbench.bench import Offer

FIELDS = (
    "teacher",
    "others",
    "student",
    "width",
    "depth",
    "rank",
    "initial",
    "loss",
    "features",
    "features_weight",
    "temperature",
    "weight",
    "labels",
    "unlabelled",
    "epochs",
    "seeds",
    "augmentation",
    "views",
    "patience",
    "soup",
    "seed",
)
"""What the browser may change. ``student`` is a form or one of the bench's own; ``unlabelled`` adds to the labels."""
FINER = ("layers", "others", "augmentation", "patience", "soup", "seed")
"""Fields that are folded."""


def distillation_view(
    settings: Distillation,
    teachers: Sequence[Offer],
    *,
    training_images: int,
    noun: str = "images",
    students: Sequence[str] = (),
    seeds: int = 1,
    applied: Distillation | None = None,
    sketch: Sketch | None = None,
    training: bool = False,
    paused: bool = False,
    waiting: bool = False,
    curve: Sequence[Any] = (),
    lap: Lap | None = None,
    refused: tuple[str, str] = ("", ""),
) -> dict[str, Any]:
    """The picture of the settings.

    Args:
        settings: What the panel shows: those of the next training.
        teachers: Who can teach, and why some cannot.
        training_images: How many the task has; 0: none, so that nothing can be distilled.
        noun: What an example is called.
        students: Those of the bench's own.
        seeds: With how many seeds the next training is run.
        applied: The distillation in the recipe, if it has one.
        sketch: What the student would be.
        training: Whether a student is being trained.
        paused: Whether that holds.
        waiting: Whether something else is being trained.
        curve: Progress of the training under way.
        lap: Which seed it is of.
        refused: A field that could not be changed as was asked, and why.
    """
    why = ""
    if not training_images:
        why = f"A student learns from training {noun}, and this task has none; give it `training=(inputs, targets)`."
    locked = bool(why)
    usable = any(teacher.reason is None for teacher in teachers)
    unlabelled = settings.images - settings.labels
    form = settings.student or settings.form
    forms = FORMS | {name: Words(name, OWN) for name in students}
    field, called = SHARE_OF.get("" if settings.student else settings.form, ("", ""))
    share = getattr(settings, field) if field else 1.0
    changed = [f for f in FINER if getattr(settings, f) != getattr(Distillation(), f)]
    view: dict[str, Any] = {
        "remark": ("paused" if paused else "training") if training else applied.label if applied else "off",
        "teacher": offers_view(teachers, settings.teacher) | {"disabled": locked},
        "student": words_view(form, forms, locked),
        "share": choices_view(share, {**{s: _share(s) for s in SHARES}, share: _share(share)}, locked)
        | {"field": field, "label": called},
        "initial": choices_view(settings.initial, INITIALS, locked, ordered=False),
        "loss": words_view(settings.loss, LOSSES, locked),
        "features": words_view(settings.features.loss if settings.features else "", FEATURES, locked),
        "features_weight": steps_view(
            settings.features.weight if settings.features else 1.0,
            FEATURE_WEIGHTS,
            locked,
            "times the hidden layers’ loss is added",
        )
        | {"hidden": settings.features is None},
        "pairs": pairs_view(settings, sketch, locked),
        "widths": widths_view(settings, sketch, locked),
        "temperature": temperature_view(settings, disabled=locked),
        "weight": steps_view(settings.weight, WEIGHTS, locked, "of the loss is the teacher's"),
        "labels": steps_view(settings.labels, label_steps(training_images), locked, f"labelled {noun}"),
        "unlabelled": steps_view(
            unlabelled, label_steps(max(0, training_images - settings.labels)), locked, f"unlabelled {noun}"
        ),
        "epochs": choices_view(settings.epochs, {n: str(n) for n in (*EPOCHS, settings.epochs)}, locked),
        "seeds": choices_view(seeds, {n: SEED_TEXTS[n] for n in SEEDS}, locked),
        "others": [
            {
                "value": each.name,
                "text": each.name,
                "spoken": each.name,
                "chosen": each.name in settings.others,
                "disabled": locked or each.reason is not None,
            }
            for each in teachers
            if each.name != settings.teacher
        ],
        "augmentation": words_view(settings.augmentation, AUGMENTATIONS, locked),
        "views": choices_view(settings.views, {settings.views: f"{settings.views} versions", **VIEWS}, locked)
        | {"hidden": settings.augmentation == "none"},
        "patience": choices_view(
            settings.patience or 0, {settings.patience or 0: f"after {settings.patience}", **PATIENCE}, locked
        ),
        "soup": choices_view(settings.soup, {settings.soup: f"mean of {settings.soup}", **SOUPS}, locked),
        "seed": {"value": settings.seed, "disabled": locked},
        "more": f"{len(changed)} changed" if changed else "",
        "sketch": sketch_view(sketch),
        "refused": dict(zip(("field", "text"), refused, strict=True)),
        "training": training,
        "paused": paused,
        "can_start": not why and usable and not waiting and (sketch is None or not sketch.reason),
        "can_remove": applied is not None and not training,
        "note": _progress(curve, lap, noun, paused=paused)
        if training
        else ""
        if why
        else _offer(seeds, waiting=waiting),
        "reasons": [why] if why else reasons_of(teachers),
    }
    return view


def temperature_view(settings: Distillation, *, disabled: bool = False) -> dict[str, Any]:
    """The slider of the temperature; a loss without softmax has none."""
    return steps_view(settings.temperature, TEMPERATURES, disabled or settings.loss in WITHOUT_TEMPERATURE)


def sketch_view(sketch: Sketch | None) -> dict[str, Any]:
    """What the student would be in one line, and sentences that a reader has to know."""
    view: dict[str, Any] = {"text": "", "share": "", "notes": [], "wrong": "", "latency": None}
    if sketch is None:
        return view
    view["wrong"] = sketch.reason
    if sketch.info is None:
        return view
    info, latency = sketch.info, sketch.latency
    if latency is not None:
        middle, *ends = durations(latency.value, latency.low, latency.high)
        text = f"{middle} {between(*(end.text for end in ends))} a call {sketch.place}"
        view["latency"] = {"origin": latency.source, "word": latency.source, "text": text}
    there = [info.latency.sentence] if info.latency is not None and info.latency.latency is None else []
    share = info.parameters / info.model_parameters if info.model_parameters else 1.0
    thousands = figures(info.macs / 1e3) + "k" if info.macs < 1e6 else figures(info.macs / 1e6) + "M"
    return view | {
        "text": f"{count(info.parameters)} parameters · {size(info.bytes)}",
        "share": f"{percent_of(share)} of the model’s; {thousands} MACs, {percent_of(info.share.value)} of its work",
        "notes": [*info.notes, *there],
    }


def _progress(curve: Sequence[Any], lap: Lap | None, noun: str, *, paused: bool) -> str:
    if not curve or not curve[-1].step:
        return "paused" if paused else f"The teacher looks at the {noun} first…"
    return " · ".join(said_of(curve, training=True, noun=noun, lap=lap, paused=paused))


def _offer(seeds: int, *, waiting: bool) -> str:
    if waiting:
        return "after the fine-tuning"
    return "with a control, same budget" + (f", {seeds} times" if seeds > 1 else "")


def _share(share: float) -> str:
    return SHARES.get(share, f"×{share:g}")


class DistillationPanel(Part):
    """What a student is, from whom and from what it learns, and the buttons that train it beside its control."""

    _esm = source("fields.js", "distillation_layers.js", "distillation_panel.js")
    watches: ClassVar[tuple[str, ...]] = (
        "distillation",
        "seeds",
        "sketch",
        "profile",
        "elsewhere",
        "tried",
        "recipe",
        "bench",
        "training",
        "paused",
        "lesson",
        "curve",
        "lap",
    )

    def __init__(self, session: Any, **traits: Any) -> None:
        self._refused = ("", "")
        super().__init__(session, **traits)

    def draw(self) -> dict[str, Any]:
        """The panel for the settings of the session."""
        session = self.session
        bench = session.bench
        images = bench.training_images if bench is not None else 0
        if images:
            session.sketch_student()
        mine = session.training and session.lesson == "distillation"
        return distillation_view(
            session.distillation,
            bench.teachers() if bench is not None else (),
            training_images=images,
            noun=getattr(getattr(bench, "task", None), "noun", "images"),
            students=bench.students() if bench is not None else (),
            seeds=session.seeds,
            applied=session.recipe.distillation,
            sketch=session.sketch if images else None,
            training=mine,
            paused=session.paused,
            waiting=session.training and not mine,
            curve=session.curve if mine else (),
            lap=session.lap,
            refused=self._refused,
        )

    def actions(self) -> dict[str, Any]:
        """What the browser may ask for.

        ``update``: fields of the settings; ``teach``: one more or one less of the ``others``, by ``name``;
        ``pair``: a layer of the ``student`` with one of the ``teacher``, where there was another pair ``instead`` of
        that; ``unpair``: the pair of a ``student``’s layer; ``propose``: pairs as they were proposed; ``widen``: a
        ``layer`` with a ``share`` of its own, or as all; ``distil``, ``pause``, ``resume``, ``stop``, ``remove``.
        """
        return {
            "update": self._update,
            "teach": self._teach,
            "pair": self._pair,
            "unpair": self._unpair,
            "propose": lambda _: self.session.pair_layers({}),
            "widen": self._widen,
            "distil": lambda _: self.session.distil(),
            "pause": lambda _: self.session.pause_training(),
            "resume": lambda _: self.session.resume_training(),
            "stop": lambda _: self.session.stop_training(),
            "remove": lambda _: self.session.without_distillation(),
        }

    def _update(self, message: Message) -> None:
        changes = changes_of(message, FIELDS)
        with self._refusing(next(iter(message))):
            if "seeds" in changes:
                self.session.choose_seeds(changes.pop("seeds"))
            if changes:
                self.session.update_distillation(**self._fields(changes))

    @contextlib.contextmanager
    def _refusing(self, field: str) -> Iterator[None]:
        """What is refused is said at the field, until something is accepted."""
        before, self._refused = self._refused, ("", "")
        try:
            yield
        except WorkbenchError as error:
            self._refused = (field, str(error))
        if self._refused != before:
            self.refresh()

    def _fields(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Fields of the settings for what was changed on the page."""
        settings = self.session.distillation
        if "features" in changes or "features_weight" in changes:
            now = settings.features or Features()
            loss = changes.get("features", now.loss)
            weight = changes.pop("features_weight", now.weight)
            changes["features"] = now.replace(loss=loss, weight=weight) if loss else None
        if "student" in changes and changes["student"] in FORMS:
            changes |= {"form": changes["student"], "student": None}
        if "patience" in changes:
            changes["patience"] = changes["patience"] or None
        if changes.get("teacher") in settings.others:
            changes["others"] = tuple(each for each in settings.others if each != changes["teacher"])
        if "labels" in changes or "unlabelled" in changes:
            labels = changes.get("labels", settings.labels)
            unlabelled = changes.pop("unlabelled", settings.images - settings.labels)
            if all(isinstance(each, int) for each in (labels, unlabelled)):
                changes["images"] = min(labels + unlabelled, self.session.bench.training_images)
        return changes

    def _pair(self, message: Message) -> None:
        mine, theirs, instead = (text_of(message, key) for key in ("student", "teacher", "instead"))
        with self._refusing("pairs"):
            others = {name: other for name, other in self._paired.items() if name != instead}
            self.session.pair_layers({**others, mine: theirs})

    def _unpair(self, message: Message) -> None:
        mine = text_of(message, "student")
        with self._refusing("pairs"):
            self.session.pair_layers({name: other for name, other in self._paired.items() if name != mine})

    @property
    def _paired(self) -> dict[str, str]:
        """The pairs on the screen."""
        return paired(self.session.distillation, self.session.sketch)

    def _widen(self, message: Message) -> None:
        with self._refusing("widths"):
            self.session.choose_width(text_of(message, "layer"), message.get("share"))

    def _teach(self, message: Message) -> None:
        name, others = text_of(message, "name"), self.session.distillation.others
        chosen = tuple(each for each in others if each != name) if name in others else (*others, name)
        self.session.update_distillation(others=chosen)
