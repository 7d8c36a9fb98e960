"""Drop-downs and sliders over a few values, as the browser draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from widgets.deployment_panel import with_value
from widgets.formatting import count
from widgets.methods import Words


def choices_view(value: Any, names: Mapping[Any, str], disabled: bool, *, ordered: bool = True) -> dict[str, Any]:
    """A drop-down of numbers by their names, in order, or of anything as it comes."""
    return {
        "options": [
            {"value": key, "text": names[key], "disabled": False} for key in (sorted(names) if ordered else names)
        ],
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


def label_steps(images: int) -> list[int]:
    """Round numbers of labels up to all images: 0, 100, 200, 500, 1,000, …"""
    steps = [m * 10**power for power in range(2, 9) for m in (1, 2, 5)]
    return [0, *(step for step in steps if step < images), images]
