"""Putting files and folders into their place whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import WorkbenchError

MARK = "recipe.json"
"""A folder that has it was exported, and may be replaced by another export."""


def check_place(path: Path, *, folder: bool, overwrite: bool) -> None:
    """Refuse a path before any work is done for it.

    Args:
        path: Of the file or folder.
        folder: Whether it is to be a folder.
        overwrite: Whether what is there may be replaced.

    Raises:
        WorkbenchError: It exists, is of the other kind, is read-only, or has no folder to lie in.
    """
    if not path.parent.is_dir():
        raise WorkbenchError(f"{path} cannot be written: there is no folder {path.parent}; make it first.")
    if path.is_dir() and not folder:
        raise WorkbenchError(f"{path} is a folder, and a {path.suffix} file was asked for; name a file in it.")
    if path.exists() and folder and not path.is_dir():
        raise WorkbenchError(f"{path} is a file; a path without an ending is a folder, so choose another name.")
    if (path.exists() or path.is_symlink()) and not overwrite:
        raise WorkbenchError(f"{path} exists; pass overwrite=True to replace it.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise WorkbenchError(f"{path} cannot be written: the folder {path.parent} is read-only; name another one.")
    if path.exists() and not os.access(path, os.W_OK):
        # a file could be replaced all the same: whoever made it read-only did not want that
        raise WorkbenchError(f"{path} is read-only; make it writable, or choose another name.")
    if folder and path.is_dir() and any(path.iterdir()) and not (path / MARK).is_file():
        raise WorkbenchError(
            f"{path} is a folder with other files in it, which an export would remove; name a new one."
        )


@contextmanager
def workshop(path: Path) -> Iterator[Path]:
    """An empty folder beside a path, in which its content is made; gone afterwards.

    Raises:
        WorkbenchError: The disk does not take it; what was at the path is still there.
    """
    # of its own also beside another export to the same path
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        made.mkdir()
        yield made
    except OSError as error:
        raise WorkbenchError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def place_files(made: Path, path: Path, written: Sequence[Path]) -> tuple[Path, ...]:
    """Move finished files to where they belong; if one cannot be, all are as they were.

    Args:
        made: The folder that they are in.
        path: Of the one that was asked for, which is moved last.
        written: All files, that one among them.

    Returns:
        Where they are now, the one that was asked for first.

    Raises:
        OSError: They cannot be moved.
    """
    targets = {each: path.with_name(each.name) for each in written}
    ordered = sorted(targets, key=lambda each: targets[each] == path)
    for each in ordered:
        _sync(each)
    done: list[tuple[Path, Path | None]] = []
    """Places that were taken, and where what was there before is kept."""
    try:
        for each in ordered:
            target, kept = targets[each], None
            if target.exists() and len(ordered) > 1:
                kept = made / f"{each.name}.before"
                os.replace(target, kept)
                done.append((target, kept))
            elif not target.exists():
                done.append((target, None))
            os.replace(each, target)
    except OSError:
        for target, kept in reversed(done):
            with contextlib.suppress(OSError):
                target.unlink(missing_ok=True) if kept is None else os.replace(kept, target)
        raise
    with contextlib.suppress(OSError):  # not every system lets a folder be opened
        _sync(path.parent)
    return tuple(targets[each] for each in reversed(ordered))


def place_folder(made: Path, path: Path) -> None:
    """Move a finished folder to where it belongs; one that is there is whole until this one is in its place.

    Args:
        made: The folder.
        path: Where it belongs.

    Raises:
        OSError: It cannot be moved; what was there is there.
    """
    for each in made.iterdir():
        _sync(each)
    before = made.with_suffix(".before")
    if path.exists():
        os.replace(path, before)
    try:
        os.replace(made, path)
    except OSError:
        if before.exists():
            os.replace(before, path)
        raise
    shutil.rmtree(before, ignore_errors=True)
    with contextlib.suppress(OSError):  # not every system lets a folder be opened
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until it is on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
