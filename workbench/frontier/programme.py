"""Which recipes a frontier is made of: students of several forms and sizes, each on grids of few bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.recipe import Distillation, Finetuning, Quantization, Recipe

if TYPE_CHECKING:
    from workbench.bench import Bench

IMAGES = 18_000
"""Training images of a student at most, all with their labels."""
LEARNED = {"initial": "model", "loss": "kd", "temperature": 2.0, "weight": 0.5}
FORMS: tuple[dict[str, Any], ...] = (
    *({"width": width} for width in (0.75, 0.5, 0.375, 0.25, 0.1875, 0.125)),
    {"form": "separable"},
    *({"form": "low_rank", "rank": rank} for rank in (0.5, 0.25)),
    *({"form": "depth", "depth": depth} for depth in (0.75, 0.5)),
)
INFORMED = {"method": "gptq", "range": "auto", "correction": "bias"}
CODEBOOK = {"method": "quantease", "range": "auto", "scheme": "codebook"}
GRIDS = (
    Quantization(),
    Quantization(weight_bits=8, activation_bits=8),
    Quantization(weight_bits=6, activation_bits=8),
    Quantization(weight_bits=4, activation_bits=8, **INFORMED),
    Quantization(weight_bits=3, activation_bits=8, **INFORMED),
    Quantization(weight_bits=2, activation_bits=8, **INFORMED, scheme="midrise"),
    Quantization(weight_bits=3, activation_bits=8, **CODEBOOK),
    Quantization(weight_bits=2, activation_bits=8, **CODEBOOK),
)
"""From 4 bits on, methods that look at data; codebooks where they are worth the two bytes of each of their values."""
TRAINED_BITS = (2, 3, 4)
"""Of one network that is trained to be good at all of them."""
QUICK = (Quantization(), Quantization(weight_bits=4, activation_bits=8))


def programme(bench: Bench, *, quick: bool = False) -> tuple[Recipe, ...]:
    """The recipes of a model's frontier.

    Args:
        bench: The model. Students that cannot be made of it are left out; all are where its task has nothing to
            train on.
        quick: Few recipes, and students that learn for a second: to see that it works.
    """
    if quick:
        students = _students(bench, ({"width": 0.25}, {"width": 0.125}), 500, epochs=1)
        return tuple(_crossed((None, *students), QUICK))
    students = _students(bench, FORMS, IMAGES)
    fresh = students[1:2] and (students[1].replace(initial="random"),)
    return (*_crossed((None, *students, *fresh), GRIDS), *_finetuned(bench, (None, *students[1:2])))


def _students(bench: Bench, forms: Iterable[dict[str, Any]], most: int, **settings: Any) -> list[Distillation]:
    teachers = [offer.name for offer in bench.teachers() if offer.reason is None]
    if not bench.training_images or not teachers:
        return []
    images = min(most, bench.training_images)
    found = []
    for form in forms:
        student = Distillation(**LEARNED, teacher=teachers[0], images=images, labels=images, **form, **settings)
        try:
            bench.student(student)
        except WorkbenchError:  # the model has nothing that this form could reduce
            continue
        found.append(student)
    return found


def _crossed(students: Iterable[Distillation | None], grids: Sequence[Quantization]) -> Iterator[Recipe]:
    for student in students:
        for grid in grids:
            yield Recipe(quantization=grid, distillation=student)


def _finetuned(bench: Bench, students: Iterable[Distillation | None]) -> Iterator[Recipe]:
    if not bench.training_images:
        return
    training = Finetuning(images=min(IMAGES, bench.training_images), nested=TRAINED_BITS)
    for student in students:
        for bits in TRAINED_BITS:
            grid = Quantization(weight_bits=bits, activation_bits=8)
            yield Recipe(quantization=grid, distillation=student, finetuning=training)
