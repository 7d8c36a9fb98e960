"""Bits and grid of all layers."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

from widgets.formatting import count
from widgets.part import Message, Part, changes_of, source
from workbench.recipe import MAX_BITS, MIN_BITS, Quantization

FIELDS = ("weight_bits", "activation_bits", "method", "scheme", "granularity", "range")
NAMES = {
    "nearest": "round to nearest",
    "naive": "naive (no scale)",
    "tensor": "per tensor",
    "channel": "per channel",
    "minmax": "min–max",
    "percentile": "99.9 percentile",
    "mse": "least error (MSE)",
}
BITS = [*range(MIN_BITS, MAX_BITS + 1), None]


def choices(field: str) -> list[dict[str, Any]]:
    """What a field of `Quantization` may be, as the options of a drop-down."""
    values = get_args(Quantization.model_fields[field].annotation)
    return [{"value": value, "text": NAMES.get(value, value), "disabled": False} for value in values]


def bits_view(bits: int | None) -> dict[str, Any]:
    """A slider from 2 bits to floating point."""
    return {
        "values": BITS,
        "texts": [str(b or "fp32") for b in BITS],
        "spoken": [f"{b} bits" if b else "floating point" for b in BITS],
        "value": bits,
    }


def quantization_view(quantization: Quantization, calibration: int | None, noun: str = "examples") -> dict[str, Any]:
    """The picture of a recipe's quantization.

    Args:
        quantization: Of the recipe on the screen.
        calibration: How many examples set the activation ranges, if that is known.
        noun: What an example is called.
    """
    differing = len(quantization.layers)
    naive = quantization.method == "naive"
    why = f"Calibrated on {count(calibration)} other {noun}." if calibration else ""
    if naive:
        why = "The naive quantizer has neither a scale nor a sign; scheme, granularity and range do nothing."
    return {
        "remark": "all layers" if not differing else f"{differing} layer{'s' if differing > 1 else ''} set apart",
        "weight_bits": bits_view(quantization.weight_bits),
        "activation_bits": bits_view(quantization.activation_bits),
        **{
            field: {
                "options": choices(field),
                "value": getattr(quantization, field),
                "disabled": naive and field != "method",
            }
            for field in FIELDS[2:]
        },
        "why": why,
    }


class QuantizationPanel(Part):
    """Sliders for the bits of all weights and activations, and how the grid is laid."""

    _esm = source("quantization_panel.js")
    watches: ClassVar[tuple[str, ...]] = ("recipe", "bench")

    def draw(self) -> dict[str, Any]:
        """The panel for the recipe on the screen."""
        task = getattr(self.session.bench, "task", None)
        calibration = getattr(task, "calibration", None)
        known = len(calibration) if hasattr(calibration, "__len__") else None
        return quantization_view(self.session.recipe.quantization, known, getattr(task, "noun", "examples"))

    def actions(self) -> dict[str, Any]:
        """``update``: fields of the quantization."""
        return {"update": self._update}

    def _update(self, message: Message) -> None:
        self.session.update(**changes_of(message, FIELDS))
