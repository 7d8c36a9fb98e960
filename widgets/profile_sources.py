"""Where the figures of a hardware profile come from: each with its value, its source, and the addresses in it."""

from __future__ import annotations

import re
from typing import Any

from widgets.formatting import figures, rate, size
from widgets.roofline import span
from workbench.hardware import Profile

FIGURES: dict[str, tuple[str, Any]] = {
    "memory_bandwidth": ("memory bandwidth", lambda value: f"{size(value)}/s"),
    "memory": ("memory", lambda value: str(size(value))),
    "weight_memory": ("memory for weights", lambda value: str(size(value))),
    "scratchpad": ("memory on the chip", lambda value: str(size(value))),
    "cache": ("last cache", lambda value: str(size(value))),
    "tile": ("matrix unit", lambda value: f"{value[0]} × {value[1]} channels"),
    "weight_only": ("weights unpacked in kernels", lambda value: f"{' and '.join(map(str, value))} bits"),
    "call_overhead": ("overhead of a call", lambda value: span(*value)),
    "operator_overhead": ("overhead of an operator", lambda value: span(*value)),
    "power": ("power", lambda value: f"{figures(value)} W"),
}
"""What is called how, and written how."""
ADDRESS = re.compile(r"(?<![\w.])(?:[a-z0-9-]+\.)+(?:ai|com|org|io|to)(?:/[\w./-]*\w)?")


def sources_view(profile: Profile) -> list[dict[str, Any]]:
    """Each figure of a profile with where it comes from; addresses are links."""
    written = {field: write(value) for field, (_, write) in FIGURES.items() if (value := getattr(profile, field))}
    written["peaks"] = ", ".join(f"{kernel} {rate(profile.peaks[kernel])}" for kernel in profile.kernels)  # type: ignore[index]
    rows = []
    for key, text in profile.sources.items():
        field, _, kernel = key.partition(".")
        name = FIGURES[field][0] if field in FIGURES else "peaks"
        value = str(rate(profile.peaks[kernel])) if kernel else written.get(field, "")  # type: ignore[index]
        rows.append({"name": f"{name} {kernel}".strip(), "value": value, "parts": linked(text)})
    return rows


def linked(text: str) -> list[dict[str, str]]:
    """A source in pieces: addresses, which are links, and what stands between them."""
    pieces, at = [], 0
    for found in ADDRESS.finditer(text):
        pieces += [{"text": text[at : found.start()], "href": ""}] if found.start() > at else []
        pieces.append({"text": found.group(), "href": f"https://{found.group()}"})
        at = found.end()
    return pieces + ([{"text": text[at:], "href": ""}] if at < len(text) else [])
