"""Names by which recipes can be told apart on one page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from workbench.recipe import Recipe


def names_of(recipes: Sequence[Recipe]) -> dict[str, str]:
    """A name for each recipe, by its key: its label, and where several share one, what they differ in.

    Returns:
        For instance ``{"…": "W4 A8 · batch 1", "…": "W4 A8 · batch 32", "…": "W8 A8"}``.
    """
    by_label: dict[str, list[Recipe]] = defaultdict(list)
    for recipe in recipes:
        by_label[recipe.label].append(recipe)
    names = {}
    for label, group in by_label.items():
        fields = {recipe.key: _fields(recipe) for recipe in group}
        telling = [f for f in next(iter(fields.values())) if len({repr(each.get(f)) for each in fields.values()}) > 1]
        for key, each in fields.items():
            names[key] = " · ".join([label, *(f"{field} {each[field]}" for field in telling if field in each)])
    return names


def _fields(recipe: Recipe) -> dict[str, Any]:
    """What a label leaves out, flat."""
    parts = (recipe.quantization, recipe.deployment, recipe.distillation, recipe.finetuning)
    return {name: getattr(part, name) for part in parts if part for name in type(part).model_fields if name != "layers"}
