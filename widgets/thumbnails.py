"""One example of a task as a small picture, or as a short text where it is none."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 56
"""Pixels of a picture's longer side."""
SMALLEST = 4
"""A tensor with fewer rows or columns is no picture."""
LONGEST = 90
"""Letters of a text."""
NUMBERS = 8
"""Of a row that are written out."""

Pixels = NDArray[np.uint8]


def shown(example: Any) -> dict[str, str]:
    """What a page shows of an example.

    Args:
        example: `workbench.Inputs` of one example.

    Returns:
        ``picture``, a data URI of a PNG, or ""; and ``text``, short, "" beside a picture.
    """
    for _, tensor in example.rows():
        pixels = pixels_of(np.asarray(tensor[0] if len(tensor) == 1 and tensor.dim() == 4 else tensor))
        if pixels is not None:
            return {"picture": f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}", "text": ""}
    texts = []
    for name, tensor in example.rows():
        values = np.asarray(tensor).reshape(-1)
        texts.append(("" if name.isdigit() else f"{name}: ") + _numbers(values))
    text = "; ".join(texts)
    return {"picture": "", "text": text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"}


def pixels_of(array: NDArray[Any]) -> Pixels | None:
    """A picture of at most `LARGEST` pixels a side, its darkest value black and its brightest white.

    Args:
        array: Shape (1 or 3, H, W) or (H, W, 1 or 3), any numbers.

    Returns:
        Shape (h, w) or (h, w, 3); None where the array is no picture.
    """
    if array.ndim != 3:
        return None
    if array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.shape[-1] not in (1, 3) or min(array.shape[:2]) < SMALLEST:
        return None
    step = -(-max(array.shape[:2]) // LARGEST)
    array = array[::step, ::step].astype(np.float64)
    low, high = array.min(), array.max()
    scaled = (array - low) / (high - low) if high > low else np.zeros_like(array)
    pixels: Pixels = np.round(255 * scaled).astype(np.uint8)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def png(pixels: Pixels) -> bytes:
    """A PNG file (ISO/IEC 15948) of 8 bits a channel, no filters.

    Args:
        pixels: Shape (h, w), grey, or (h, w, 3), red, green and blue.
    """
    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    rows = pixels.reshape(height, -1)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)  # each line begins with its filter: none

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _numbers(values: NDArray[Any]) -> str:
    """The first numbers; of tokens, zeros at the end are padding."""
    whole = values.dtype.kind in "iub"
    if whole:
        values = np.trim_zeros(values, "b")
    texts = [str(int(v)) if whole else f"{float(v):.3g}".replace("-", "\u2212") for v in values[:NUMBERS]]
    return (" " if whole else ", ").join(texts) + (" …" if len(values) > NUMBERS else "")
