"""How weights are put on their grids: bits, method, correction, and the finer points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.choosing import BUDGETS
from widgets.deployment_panel import with_value
from widgets.formatting import SPACE, count
from widgets.methods import WORDS, refused, said, values
from widgets.part import Message, Part, changes_of, source
from workbench.recipe import MAX_BITS, MIN_BITS, MIN_WEIGHT_BITS, Quantization

if TYPE_CHECKING:
    from workbench.choosing import Choice

FIELDS = ("weight_bits", "activation_bits", "group_size", *WORDS)
FINER = ("scheme", "granularity", "group_size", "range", "activation_range", "equalize", "sums")
"""What is folded away."""
GROUPS = (8, 16, 32, 64, 128, 256)
Refused = Mapping[str, Mapping[Any, str]]


def bits_view(bits: int | None, least: int) -> dict[str, Any]:
    """A slider from the fewest bits to floating point."""
    values = [*range(least, MAX_BITS + 1), None]
    return {
        "values": values,
        "texts": [str(b or "fp32") for b in values],
        "spoken": [f"{b} bit{'s' if b > 1 else ''}" if b else "floating point" for b in values],
        "value": bits,
    }


def choice_view(field: str, quantization: Quantization, reasons: Mapping[Any, str], usable: bool) -> dict[str, Any]:
    """A drop-down with what its value does; what cannot be had is greyed, with the reason.

    Args:
        field: Of the quantization.
        quantization: As it is.
        reasons: Why some of its values cannot be had.
        usable: Whether it does anything at all.
    """
    value = getattr(quantization, field)
    options = [
        {"value": each, "text": WORDS[field][each].label, "disabled": each in reasons, "title": reasons.get(each)}
        for each in values(field)
    ]
    return {"options": options, "value": value, "disabled": not usable, "line": WORDS[field][value].line}


def choosing_view(choice: Choice | None, *, choosing: bool, possible: bool) -> dict[str, Any]:
    """The control that chooses the method.

    Args:
        choice: The best so far.
        choosing: Whether methods are being tried.
        possible: Whether there is anything to choose for.
    """
    text = ""
    if choosing:
        text = "Trying the recipe as it is…"
        if choice is not None and choice.tried:
            best = said(choice.recipe.quantization)
            text = f"{choice.tried} of {choice.total} tried; best so far: {best}"
    elif not possible:
        text = "Set bits first."
    return {
        "budgets": [{"value": each, "text": _time(each), "spoken": _time(each, spoken=True)} for each in BUDGETS],
        "choosing": choosing,
        "disabled": not possible,
        "text": text,
    }


def quantization_view(
    quantization: Quantization, calibration: int | None, noun: str = "examples", reasons: Refused | None = None
) -> dict[str, Any]:
    """The picture of a recipe's quantization.

    Args:
        quantization: Of the recipe on the screen.
        calibration: How many examples set the activation ranges, if that is known.
        noun: What an example is called.
        reasons: Why some choices cannot be had, by field and value.
    """
    reasons = reasons or {}
    differing = len(quantization.layers)
    naive = quantization.method == "naive"
    looked = quantization.activation_range == "static" or quantization.informed
    sizes = with_value(GROUPS, quantization.group_size)
    changed = [field for field in FINER if getattr(quantization, field) != Quantization.model_fields[field].default]
    why = [f"Calibrated on {count(calibration)} other {noun}."] if calibration and looked and not naive else []
    why += sorted({reason for of_field in reasons.values() for reason in of_field.values()})
    return {
        "remark": "all layers" if not differing else f"{differing} layer{'s' if differing > 1 else ''} set apart",
        "weight_bits": bits_view(quantization.weight_bits, MIN_WEIGHT_BITS),
        "activation_bits": bits_view(quantization.activation_bits, MIN_BITS),
        **{
            field: choice_view(field, quantization, reasons.get(field, {}), field == "method" or not naive)
            for field in WORDS
        },
        "group_size": {
            "values": sizes,
            "texts": [count(size) for size in sizes],
            "spoken": [f"{count(size)} weights share a scale" for size in sizes],
            "value": quantization.group_size,
            "disabled": naive,
            "hidden": quantization.granularity != "group",
        },
        "more": f"{len(changed)} changed" if changed else "",
        "why": why,
    }


def _time(seconds: float, *, spoken: bool = False) -> str:
    minutes = seconds >= 90
    number = seconds / 60 if minutes else seconds
    unit = ("minutes" if minutes else "seconds") if spoken else "min" if minutes else "s"
    return f"{number:g}{' ' if spoken else SPACE}{unit}"


class QuantizationPanel(Part):
    """Sliders for the bits of all weights and activations, and how the grid is laid."""

    _esm = source("quantization_panel.js")
    watches: ClassVar[tuple[str, ...]] = ("recipe", "bench", "choosing", "choice")

    def draw(self) -> dict[str, Any]:
        """The panel for the recipe on the screen."""
        session = self.session
        bench, recipe = session.bench, session.recipe
        task = getattr(bench, "task", None)
        calibration = getattr(task, "calibration", None)
        known = len(calibration) if hasattr(calibration, "__len__") else None
        reasons = refused(bench, recipe) if bench is not None else {}
        view = quantization_view(recipe.quantization, known, getattr(task, "noun", "examples"), reasons)
        active = recipe.quantization.active
        return view | {"choose": choosing_view(session.choice, choosing=session.choosing, possible=active)}

    def actions(self) -> dict[str, Any]:
        """``update``: fields of the quantization; ``choose``: the method, in ``seconds``; ``stop`` choosing."""
        return {"update": self._update, "choose": self._choose, "stop": self._stop}

    def _update(self, message: Message) -> None:
        self.session.update(**changes_of(message, FIELDS))

    def _choose(self, message: Message) -> None:
        self.session.choose_method(message.get("seconds"))  # type: ignore[arg-type]  # the session looks at it

    def _stop(self, _: Message) -> None:
        if self.session.choosing:
            self.session.cancel()
