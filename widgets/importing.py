"""The part of a session that knows what was measured elsewhere, and measures it here."""

from __future__ import annotations

import traitlets

from widgets.distilling import Distilling
from workbench.errors import WorkbenchError
from workbench.recipe import Recipe
from workbench.report import Report


class Importing(Distilling):
    """Reports that came along with the model, beside those that were measured here."""

    imported = traitlets.Tuple(read_only=True)
    """Reports that came along with the model, each of them measured elsewhere. Default: ()."""

    def trains(self, recipe: Recipe) -> bool:
        """Whether something has to learn before a recipe can be measured here."""
        if recipe.finetuning is not None:
            return not self.bench.finetuned(recipe)
        return recipe.distillation is not None and not self.bench.distilled(recipe.distillation)

    def measure_imported(self, key: str) -> None:
        """Measure here what came along with the model. What has to learn for it does so first, with its curves.

        Args:
            key: `Recipe.key` of one of `imported`.

        Raises:
            WorkbenchError: No report of that key came along, or a training is under way.
        """
        with self._change():
            found: Report | None = next((each for each in self.imported if each.recipe.key == key), None)
            if found is None:
                raise WorkbenchError(f"No report with the key {key!r:.20} came along with {self.model}.")
            recipe = found.recipe
            if not self.trains(recipe):
                self._apply(recipe)
                return
            self._require_idle("training")
            lesson = recipe.finetuning or recipe.distillation
            if recipe.finetuning is None:
                self._settle_distillation(lesson)
                self.choose_seeds(1)
                self._apply(recipe.replace(distillation=None))
                self.distil()
            else:
                self._settle_finetuning(lesson)
                self._apply(recipe.replace(finetuning=None))
                self.finetune()
