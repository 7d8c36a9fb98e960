"""The part of a session that knows what was measured elsewhere, and measures it here."""

from __future__ import annotations

from functools import partial

import traitlets

from widgets.distilling import Distilling
from widgets.lessons import Lesson
from workbench.errors import WorkbenchError
from workbench.recipe import Finetuning, Recipe
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

        A student that is fine-tuned learns twice: beside its control first, and on its grids when that has ended. Where
        it was stopped, or anything else was chosen meanwhile, the fine-tuning is left out.

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
            untuned, tuning = recipe.replace(finetuning=None), recipe.finetuning
            if tuning is not None:
                self._settle_finetuning(tuning)
            if not self.trains(untuned):
                self._apply(untuned)
                self.finetune()
                return
            self._settle_distillation(untuned.distillation)
            self.choose_seeds(1)
            self._apply(untuned.replace(distillation=None))
            self._distil(None if tuning is None else partial(self._then_tune, untuned, tuning))

    def _then_tune(self, untuned: Recipe, tuning: Finetuning, now: Recipe) -> Lesson | None:
        return self._finetuning_of(untuned, tuning) if now == untuned else None
