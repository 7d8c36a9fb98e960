"""Whether a teacher helps a network that learns on its grids, over several seeds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from workbench.comparisons import fp32
from workbench.errors import Cancelled, RecipeError
from workbench.evaluation import Evaluation
from workbench.finetuning.trainer import Progress
from workbench.levers.interaction import Ready
from workbench.levers.seed_study import SeedStudy, require_seeds
from workbench.network import Network
from workbench.recipe import Recipe
from workbench.report import Comparison

Train = Callable[[Recipe], Iterator[Progress]]
"""Fine-tunes a recipe's network, or finds it; the last progress is done."""


def against_labels(recipe: Recipe, seeds: int) -> list[tuple[Recipe, Recipe]]:
    """A recipe with seeds that follow each other, and beside each the same fine-tuning from the labels alone.

    Raises:
        RecipeError: The recipe's fine-tuning has no teacher in its loss, or the number of seeds is not allowed.
    """
    require_seeds(seeds)
    settings = recipe.finetuning
    if settings is None or settings.distillation == 0:
        raise RecipeError(
            "finetuning: only one that a teacher has a share in is compared with its control; choose "
            "finetuning.distillation above 0."
        )
    taught = [settings.replace(seed=settings.seed + number) for number in range(seeds)]
    return [
        (recipe.replace(finetuning=each), recipe.replace(finetuning=each.replace(distillation=0.0, teacher=None)))
        for each in taught
    ]


def finetuned_over_seeds(
    recipe: Recipe,
    seeds: int,
    train: Train,
    ready: Ready,
    teacher: Network,
    evaluation: Evaluation,
    reference: Network,
    cancel: threading.Event | None = None,
) -> Iterator[SeedStudy]:
    """Fine-tune with the teacher and without, from the same seeds, in the same order, for as many steps.

    Args:
        recipe: Its fine-tuning's seed is the first.
        seeds: How many.
        train: Fine-tunes.
        ready: Gives what was fine-tuned.
        teacher: Whose outputs are learned from, in fp32.
        evaluation: The test examples.
        reference: The model on the bench.
        cancel: Ends it; what was finished is kept.

    Yields:
        With the progress of a training, several times a second, and after every seed. After a cancel the last one
        has the seeds that were measured until then.

    Raises:
        RecipeError: See `against_labels`.
        Cancelled: `cancel` was set before a seed was measured.
    """
    pairs = against_labels(recipe, seeds)
    study = SeedStudy(recipe, tuple(one.finetuning.seed for one, _ in pairs if one.finetuning))
    try:
        for pair in pairs:
            steps, seconds = 0, 0.0
            for each in pair:
                for progress in train(each):
                    if progress.cancelled:
                        raise Cancelled
                    yield replace(study, progress=progress)
                steps, seconds = progress.step, seconds + progress.seconds
            made, plain = (evaluation.all(*ready(each), reference, cancel) for each in pair)
            told = evaluation.all(teacher, fp32(teacher), reference, cancel).accuracy()
            comparison = Comparison(
                student=made.accuracy(),
                control=plain.accuracy(),
                difference=plain.drop(made),
                teacher=told.model_copy(update={"source": "measured"}),
                parameters=ready(pair[0])[0].parameters,
                steps=steps,
                seconds=seconds,
            )
            metric = made.metrics[0].info
            study = replace(study, comparisons=(*study.comparisons, comparison), metric=metric, progress=None)
            yield study
    except Cancelled:
        if not study.comparisons:
            raise
        yield study
