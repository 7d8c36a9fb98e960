"""Reading profiles: those that come along, and a user's own TOML file."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workbench.errors import nearest
from workbench.hardware.profile import Profile, ProfileError

TABLE = "profile"


def load_profiles(path: str | Path) -> tuple[Profile, ...]:
    """Profiles of a TOML file: one ``[[profile]]`` table each, as in ``workbench/hardware/profiles.toml``.

    Raises:
        ProfileError: The file cannot be read or is not TOML; a figure is missing, negative, without a source, or
            contradicts another one. Row and field are named.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(
            f"{file}: a TOML file of hardware profiles is needed; it cannot be read ({error})."
        ) from None
    return parsed(text, file.name)


@cache
def profiles() -> tuple[Profile, ...]:
    """Those that come along, from microcontroller to data centre."""
    text = resources.files("workbench.hardware").joinpath("profiles.toml").read_text(encoding="utf-8")
    return parsed(text, "profiles.toml")


def profile(name: str) -> Profile:
    """One of those that come along.

    Raises:
        ProfileError: There is none of that name.
    """
    known = {each.name: each for each in profiles()}
    if name not in known:
        raise ProfileError(f"There is no hardware profile {name!r}. {nearest(str(name), known)}")
    return known[name]


def parsed(text: str, origin: str) -> tuple[Profile, ...]:
    """Profiles of a TOML text.

    Args:
        text: The text.
        origin: What errors call it.

    Raises:
        ProfileError: See `load_profiles`.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{origin}: this is not TOML ({error}).") from None
    rows = document.pop(TABLE, None)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows) or document:
        beside = f"; there is {', '.join(map(repr, document))}" if document else ""
        raise ProfileError(f"{origin}: one [[profile]] table for each device is needed, and nothing else{beside}.")
    found: dict[str, Profile] = {}
    for number, row in enumerate(rows, 1):
        read = _row(row, f"{origin}, profile {number} ({row.get('name', 'without a name')!s:.40})")
        if read.name in found:
            raise ProfileError(f"{origin}, profile {number}: name: {read.name!r} is there twice.")
        found[read.name] = read
    return tuple(found.values())


def _row(row: dict[str, Any], where: str) -> Profile:
    for field in ("scale", "pinned"):
        if field in row:
            raise ProfileError(f"{where}: {field}: this is set by a measured latency, not written down.")
    try:
        return Profile(**row)
    except ValidationError as error:
        raise ProfileError(f"{where}: {_in_words(error)}") from None


def _in_words(error: ValidationError) -> str:
    sentences = []
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        if problem["type"] == "missing":
            sentences.append(f"{field}: missing")
        elif problem["type"] == "extra_forbidden":
            sentences.append(f"{field}: there is no such field. {nearest(field, Profile.model_fields)}".rstrip("."))
        elif field:
            sentences.append(f"{field} = {problem['input']!r}: {problem['msg']}")
        else:
            sentences.append(problem["msg"].removeprefix("Value error, "))
    return "; ".join(sentences) + "."
