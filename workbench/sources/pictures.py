"""Folders of images, prepared as networks for images are trained on them."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.errors import TaskError, nearest
from workbench.inputs import Inputs
from workbench.sources.base import Examples, check_memory, optional
from workbench.sources.entries import pixels

FORMATS = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "PPM": (".pgm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""What is read: Pillow has more decoders, of which some start other programs."""
ENDINGS = tuple(itertools.chain.from_iterable(FORMATS.values()))
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
NAMED = 5
"""Unreadable pictures that a note names."""


def folder(
    path: str | Path,
    *,
    size: int = 224,
    mean: float | Sequence[float] = (0.485, 0.456, 0.406),
    std: float | Sequence[float] = (0.229, 0.224, 0.225),
    resize: int = 256,
    interpolation: str = "bilinear",
    grey: bool = False,
    limit: int | None = None,
) -> Examples:
    """Read a folder that has a folder of images for each class, or images without classes.

    Each picture is turned upright (EXIF), made RGB or grey, resized so that its shorter side has `resize`
    pixels, cropped to its centre and normalised: ``(value - mean) / std`` of values 0..1. The defaults are
    those of most networks trained on ImageNet. Classes are numbered by their sorted folder names, files
    sorted within them, so the order is always the same. Hidden files and other endings are passed over;
    links to folders are not followed, links to files only where they lead to a file inside of `path`.
    A picture that cannot be read, or has more pixels than Pillow's limit against decompression bombs, is
    left out and named in the notes.

    Args:
        path: The folder.
        size: Height and width of the examples, pixels.
        mean: Of each channel, or one for all; with `grey` three are averaged.
        std: As `mean`.
        resize: What the shorter side is resized to before the crop, pixels, at least `size`.
        interpolation: Of the resizing: nearest, box, bilinear, hamming, bicubic or lanczos.
        grey: One channel instead of three.
        limit: Read so many at most, the first ones of each class, evenly from all classes.

    Returns:
        Inputs of shape (n, 3, size, size), or (n, 1, size, size) with `grey`; class indices, shape (n,).

    Raises:
        TaskError: There is no such folder, no picture in it that can be read, or more than 4 GB of them; an
            argument is out of range.
        WorkbenchError: Pillow is not installed.
    """
    image_module = optional("PIL.Image", "Reading images", "pillow")
    if not 0 < size <= resize:
        raise TaskError(f"size = {size}: it goes from 1 to `resize`, which is {resize}.")
    if limit is not None and limit < 1:
        raise TaskError(f"limit = {limit}: at least one picture is needed.")
    if interpolation not in INTERPOLATIONS:
        raise TaskError(f"interpolation = {interpolation!r} is not known. {nearest(interpolation, INTERPOLATIONS)}")
    filter_ = image_module.Resampling[interpolation.upper()]
    shift, scale = _per_channel("mean", mean, grey), _per_channel("std", std, grey)
    if not bool((scale > 0).all()):
        raise TaskError(f"std = {std}: every value must be above 0.")
    root = Path(path)
    files, classes, notes = _listed(root)
    chosen = _evenly(files, limit) if classes else files[: limit or None]
    if len(chosen) < len(files):
        evenly = f", evenly from {len(classes)} classes" if classes else ""
        notes.append(f"the first {len(chosen):,} of {len(files):,} pictures were read{evenly}")
    channels = 1 if grey else 3
    check_memory("images", len(chosen), len(chosen) * channels * size * size * 4, "limit={n}")
    images = torch.empty(len(chosen), channels, size, size)
    read: list[int] = []
    unreadable: list[str] = []
    for place, (file, _) in enumerate(chosen):
        try:
            values = _prepared(image_module, file, size, resize, filter_, grey)
        except Exception as error:  # decoders raise whatever they meet in a damaged file
            unreadable.append(f"{file.relative_to(root).as_posix()} ({_reason(error)})")
            continue
        images[len(read)] = (torch.from_numpy(values) - shift) / scale
        read.append(place)
    if unreadable:
        more = f", and {len(unreadable) - NAMED:,} more" if len(unreadable) > NAMED else ""
        notes.append(
            f"{len(unreadable):,} of {len(chosen):,} pictures could not be read: {', '.join(unreadable[:NAMED])}{more}"
        )
    if not read:
        raise TaskError(f"{str(root)!r}: {notes[-1]}.")
    return Examples(
        inputs=Inputs(images[: len(read)]),
        targets=torch.tensor([chosen[place][1] for place in read]) if classes else None,
        classes=classes,
        notes=tuple(notes),
    )


def _per_channel(what: str, values: float | Sequence[float], grey: bool) -> Tensor:
    """Shape (channels or 1, 1, 1)."""
    made = torch.tensor(values, dtype=torch.float32).reshape(-1)
    if len(made) not in (1, 3):
        raise TaskError(f"{what} = {values}: one value, or three for red, green and blue, are needed.")
    return (made.mean()[None] if grey else made)[:, None, None]


def _listed(root: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...], list[str]]:
    """Pictures with the indices of their classes, the classes' names, and notes."""
    if not root.is_dir():
        raise TaskError(f"{str(root)!r}: there is no such folder.")
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
    inside = root.resolve()
    beside, outside = _pictures(entries, inside)
    by_class = []
    for class_folder in folders:
        found, leaving = _pictures(_walked(class_folder), inside)
        by_class.append(found)
        outside += leaving
    links = sum(entry.is_dir() and entry.is_symlink() for entry in entries) + outside
    notes = [f"{links:,} links were not followed"] * bool(links)
    if any(by_class):
        empty = [class_folder.name for class_folder, found in zip(folders, by_class, strict=True) if not found]
        notes += [f"class {name!r} has no pictures" for name in empty[:NAMED]]
        notes += [f"{len(beside):,} pictures beside the class folders were left out"] * bool(beside)
        pictures = [(file, index) for index, found in enumerate(by_class) for file in found]
        return pictures, tuple(class_folder.name for class_folder in folders), notes
    if not beside:
        endings = ", ".join(ENDINGS)
        raise TaskError(
            f"{str(root)!r}: there are no pictures in it; a folder per class is needed, or pictures with one of the "
            f"endings {endings}."
        )
    return [(file, -1) for file in beside], (), notes


def _walked(folder: Path) -> Iterable[Path]:
    for where, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where) / name for name in sorted(files))


def _pictures(files: Iterable[Path], inside: Path) -> tuple[list[Path], int]:
    """Pictures among files, and how many links were left out because they lead elsewhere."""
    found, outside = [], 0
    for file in files:
        if file.name.startswith(".") or file.suffix.lower() not in ENDINGS or file.is_dir():
            continue
        if file.is_symlink() and not file.resolve().is_relative_to(inside):
            outside += 1
        elif file.is_file():  # a pipe would be waited for
            found.append(file)
    return found, outside


def _evenly(files: list[tuple[Path, int]], limit: int | None) -> list[tuple[Path, int]]:
    """The first files of each class, in turn until there are enough, in their order."""
    if limit is None:
        return files
    rank: dict[int, int] = {}
    turns = []
    for place, (_, index) in enumerate(files):
        rank[index] = rank.get(index, -1) + 1
        turns.append((rank[index], place))
    return [files[place] for place in sorted(place for _, place in sorted(turns)[:limit])]


def _prepared(
    module: Any, file: Path, size: int, resize: int, filter_: Any, grey: bool
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One picture, shape (channels, size, size), 0..1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", module.DecompressionBombWarning)
        with file.open("rb") as opened, module.open(opened, formats=tuple(FORMATS)) as image:
            ratio = resize / min(image.size)
            width, height = (max(resize, int(side * ratio)) for side in image.size)
            if width * height > (module.MAX_IMAGE_PIXELS or 10**8):
                raise ValueError(f"{image.width:,} × {image.height:,} pixels are too narrow")
            upright = optional("PIL.ImageOps", "Reading images", "pillow").exif_transpose(image)
            if upright.size != image.size:
                width, height = height, width
            left, top = round((width - size) / 2), round((height - size) / 2)
            if upright.mode.startswith("I"):  # resizing is exact on floats, and 16 bits are not supported by it
                values = pixels(upright, grey=True)[0]
                upright = module.fromarray(np.rint(values * 255).astype(np.uint8))
            elif upright.mode != "F":
                upright = upright.convert("L" if grey else "RGB")
            resized = upright.resize((width, height), filter_)
            return pixels(resized.crop((left, top, left + size, top + size)), grey=grey)


def _reason(error: Exception) -> str:
    name, text = type(error).__name__, str(error)
    if "DecompressionBomb" in name:
        return "too many pixels"
    if name == "UnidentifiedImageError":
        return "not a picture"
    if "truncated" in text.lower():
        return "truncated"
    return text.partition("\n")[0][:80] or name
