"""Numbers that a caller gives: refused in words where they are none, before anything is computed with them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from workbench.errors import RecipeError


def number(name: str, value: Any, least: float) -> float:
    """A number, infinity included.

    Raises:
        RecipeError: It is something else (a truth value is), or below the least.
    """
    if not is_number(value) or not value >= least:
        raise RecipeError(f"{name} = {value!r:.40}: a number from {least:g} on is needed.")
    return float(value)


def whole(name: str, value: Any, least: int) -> int:
    """A whole number.

    Raises:
        RecipeError: It is something else (a truth value is), or below the least.
    """
    if not is_number(value) or not isinstance(value, Integral) or value < least:
        raise RecipeError(f"{name} = {value!r:.40}: a whole number from {least} on is needed.")
    return int(value)


def is_number(value: Any) -> bool:
    """Whether something is a number, of Python's or NumPy's, and neither NaN nor a truth value."""
    return isinstance(value, Real) and not isinstance(value, bool) and value == value
