"""What every door checks before it reads: that the file is there, and that it is what its ending says.

Model files come from anywhere. Nothing here trusts a length that a file declares: it is compared with
how many bytes are really there before any memory is taken.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.errors import LoadError, WorkbenchError, nearest

LONGEST_JSON = 32 * 2**20
"""Bytes. The graph of a 24-layer transformer takes 6 MB; parsed JSON takes ten times its text."""


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Around parsing what is not trusted: whatever a damaged file makes a parser raise becomes one clear error.

    Raises:
        LoadError: Anything went wrong inside; an error in words passes as it is.
    """
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise LoadError(
            f"{path.name} cannot be read as {what}: {reason or 'no reason given'} ({type(error).__name__}). "
            "It may be damaged or cut short; copy or save it again."
        ) from error


def existing(path: Path) -> Path:
    """The path of a file that is there and not empty.

    Raises:
        LoadError: It is not; the text names the files nearby that may have been meant.
    """
    try:
        if path.is_dir():
            inside = [entry.name for entry in sorted(path.iterdir())[:100]]
            shown = (
                f"It holds {', '.join(inside[:10])}{', …' if len(inside) > 10 else ''}." if inside else "It is empty."
            )
            raise LoadError(
                f"{path} is a folder. Name a file in it; for a model folder say 'hf:{path}' or 'timm:{path}'. {shown}"
            )
        if not path.exists():
            if not path.parent.is_dir():
                raise LoadError(f"There is no file {path}: the folder {path.parent} does not exist.")
            beside = [entry.name for entry in sorted(path.parent.iterdir())[:1000] if entry.is_file()]
            raise LoadError(f"There is no file {path}. In its folder: {nearest(path.name, beside)}")
        if not path.is_file():
            raise LoadError(f"{path} is not a regular file.")
        if path.stat().st_size == 0:
            raise LoadError(f"{path} is empty (0 bytes); the copy or download may have failed.")
    except (OSError, ValueError) as error:  # ValueError: a NUL character; WorkbenchError is one as well
        if isinstance(error, WorkbenchError):
            raise
        raise LoadError(f"{str(path)!r} cannot be opened: {error}") from None
    return path


def parse_json(text: bytes, owner: str) -> Any:
    """JSON from an untrusted file.

    Raises:
        LoadError: Too long, nested too deeply, or not JSON.
    """
    if len(text) > LONGEST_JSON:
        raise LoadError(f"{owner} holds {len(text):,} bytes of JSON; at most {LONGEST_JSON:,} are read.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{owner} is not JSON: {error}.") from None


class StoredZip:
    """A zip archive as torch writes them: what is read is stored, never compressed, all under one root folder.

    So what the entries declare can never be more than what the file holds, and a zip bomb is never inflated.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            LoadError: Not a zip, or one with overlapping or doubled entries.
        """
        self.path = path
        with reading(path, "a zip archive"):
            self._zip = zipfile.ZipFile(path)
        entries = self._zip.infolist()
        total = sum(entry.file_size for entry in entries if _is_stored(entry))
        if total > path.stat().st_size:
            self._refuse(f"its entries declare {total:,} bytes, more than the file has ({path.stat().st_size:,})")
        self._entries = {entry.filename.partition("/")[2]: entry for entry in entries}
        roots = {entry.filename.partition("/")[0] for entry in entries}
        if len(roots) != 1 or len(self._entries) != len(entries):
            self._refuse("its entries are not all in one folder, or one comes twice")

    def _refuse(self, reason: str) -> None:
        self._zip.close()
        raise LoadError(f"{self.path.name} was not written by torch: {reason}. Save the model again.")

    def __enter__(self) -> StoredZip:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def names(self) -> list[str]:
        """Entry names without the root folder."""
        return list(self._entries)

    def size(self, name: str) -> int:
        """Bytes of an entry.

        Raises:
            LoadError: There is no such entry.
        """
        if name not in self._entries:
            raise LoadError(f"{self.path.name} has no entry {name[:200]!r}, which it refers to; it may be damaged.")
        return self._entries[name].file_size

    def read(self, name: str) -> bytearray:
        """The bytes of an entry, in memory of their own; their checksum is verified.

        Raises:
            LoadError: There is no such entry, or it is damaged, compressed or encrypted.
        """
        size = self.size(name)
        if not _is_stored(self._entries[name]):
            self._refuse(f"its entry {name} is compressed or encrypted, which torch never does")
        content = bytearray(size)
        with reading(self.path, "a zip archive"), self._zip.open(self._entries[name]) as file:
            view, done = memoryview(content), 0
            while count := file.readinto(view[done:]):  # type: ignore[attr-defined]  # ZipExtFile is buffered
                done += count
            if done != len(content) or file.read(1):  # the read past the end makes zipfile compare the checksum
                raise LoadError(f"The entry {name} of {self.path.name} is cut short.")
        return content


def _is_stored(entry: zipfile.ZipInfo) -> bool:
    return entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
