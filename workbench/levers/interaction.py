"""What each lever of a recipe costs alone, and what all of them cost together."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from workbench.comparisons import fp32
from workbench.errors import RecipeError
from workbench.evaluation import Evaluation, contrast
from workbench.network import Network
from workbench.quantization.quantizer import LayerSpec
from workbench.recipe import Quantization, Recipe
from workbench.report import Estimate, MetricInfo
from workbench.tables import Tabular, interval

Name = Literal["student", "quantization", "fine-tuning"]
SAME = "not distinguishable from the sum"
MORE = "together they lose more than the sum"
LESS = "together they lose less than the sum"
NOT_ALONE = "Fine-tuning learns on grids, so it is counted on top of the quantization alone."
NO_SUM = "quantization and fine-tuning have no sum: the one is made on top of the other"

Ready = Callable[[Recipe], tuple[Network, Mapping[str, LayerSpec]]]
"""Gives a recipe's network, its weights on their grids, and what is asked of its layers."""
Trainings = Callable[[Recipe], Iterator[tuple[str, float]]]
"""Does what a recipe has to learn first; says what that is and the share that is done, 0 to 1."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lever(_Frozen):
    """One lever without the others."""

    name: Name
    label: str
    """Of its setting: ``student ×0.5``, ``W4 A8``."""
    recipe: Recipe
    """What was measured for it."""
    drop: Estimate
    """What it loses against the model in fp32; fine-tuning: against the quantization alone, below 0 where it wins."""
    size: Estimate
    """Bytes of the file."""
    factor: float
    """How many times smaller it makes the file."""


class Interaction(Tabular, _Frozen):
    """The levers of a recipe one by one, all together, and what they do to each other."""

    recipe: Recipe
    metric: MetricInfo = MetricInfo(counted=True)
    levers: tuple[Lever, ...] = ()
    together: Estimate | None = None
    """What the whole recipe loses; None until it was measured."""
    sum: Estimate | None = None
    """What the levers alone lose, added up; None where one is made on top of the other and there is no third."""
    interaction: Estimate | None = None
    """Together minus the sum, paired over the same examples (positive: together they lose more)."""
    size: Estimate | None = None
    """Bytes of the whole recipe's file."""
    factor: float | None = None
    """How many times smaller than the model's it is."""
    stage: str = ""
    """What is being done; empty where nothing is left to do."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return not self.stage

    @property
    def product(self) -> float:
        """How many times smaller the file would be if each lever did what it does alone."""
        return math.prod(lever.factor for lever in self.levers)

    @property
    def verdict(self) -> str:
        """What the interaction says, in words; "" until it is known."""
        if self.interaction is None:
            return NO_SUM if self.complete else ""
        if self.interaction.includes(0):
            return SAME
        return MORE if self.interaction.value > 0 else LESS

    def _headline(self) -> str:
        return f"{self.recipe.label}: {self.verdict or f'{self.stage}…'}"

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        rows: list[tuple[str, ...]] = [
            (each.label, *self._row(each.drop, each.size, each.factor)) for each in self.levers
        ]
        if self.sum is not None:
            rows.append(("sum", *self._row(self.sum, None, self.product)))
        if self.together is not None:
            rows.append(("together", *self._row(self.together, self.size, self.factor)))
        if self.interaction is not None:
            rows.append(("interaction", *self._row(self.interaction, None, None)))
        return ("lever", "loses", "size", "times smaller"), rows

    def _row(self, drop: Estimate, size: Estimate | None, factor: float | None) -> tuple[str, str, str]:
        told = interval(drop, self.metric, "points")
        return told, f"{size.value / 1e3:,.1f} kB" if size else "", f"{factor:.2f}×" if factor else ""

    def _said(self) -> list[str]:
        return [NOT_ALONE] if self.recipe.finetuning is not None else []


def levers(recipe: Recipe) -> tuple[Name, ...]:
    """What a recipe does to the weights of a model, in the order in which it is done."""
    there: dict[Name, bool] = {
        "student": recipe.distillation is not None,
        "quantization": recipe.quantization.active,
        "fine-tuning": recipe.finetuning is not None,
    }
    return tuple(name for name, used in there.items() if used)


class _Part(NamedTuple):
    name: Name
    label: str
    recipe: Recipe
    before: int
    """Which measurement it is counted against: 0 is the model in fp32."""


def taken_apart(
    recipe: Recipe,
    evaluation: Evaluation,
    reference: Network,
    ready: Ready,
    trainings: Trainings,
    cancel: threading.Event | None = None,
) -> Iterator[Interaction]:
    """Measure each lever of a recipe alone, then all together, on the same examples.

    Args:
        recipe: With two levers or more.
        evaluation: The examples.
        reference: The model on the bench.
        ready: Gives the network of a recipe.
        trainings: What has to be learned for one first.
        cancel: Checked before every batch.

    Yields:
        After every lever, and several times a second while one is trained; the last one has no `stage`.

    Raises:
        RecipeError: The recipe has one lever or none.
        Cancelled: `cancel` was set.
    """
    parts = _parts(recipe)
    yield Interaction(recipe=recipe, stage="the model in fp32")
    plain = evaluation.all(reference, fp32(reference), reference, cancel)
    measured = [plain]
    sizes = [_size(reference, Recipe())]
    found = Interaction(recipe=recipe, metric=plain.metrics[0].info, stage=f"{parts[0].name} alone")
    for number, part in enumerate((*parts, None)):
        own = recipe if part is None else part.recipe
        stage = "all together" if part is None else f"{part.name} alone"
        for what, share in trainings(own):
            yield found.model_copy(update={"stage": f"{stage}: {what}, {share:.0%}"})
        found = found.model_copy(update={"stage": stage})
        yield found
        network, asked = ready(own)
        outcomes = evaluation.all(network, asked, reference, cancel)
        measured.append(outcomes)
        sizes.append(_size(network, own))
        if part is None:
            break
        lever = Lever(
            name=part.name,
            label=part.label,
            recipe=own,
            drop=_origin(own, outcomes.drop(measured[part.before])),
            size=Estimate.exact(sizes[-1], "B"),
            factor=sizes[part.before] / sizes[-1],
        )
        found = found.model_copy(update={"levers": (*found.levers, lever), "stage": _next(parts, number)})
    found = found.model_copy(
        update={
            "together": _origin(recipe, measured[-1].drop(plain)),
            "size": Estimate.exact(sizes[-1], "B"),
            "factor": sizes[0] / sizes[-1],
            "stage": "",
        }
    )
    if recipe.distillation is None:  # fine-tuning is on top of the quantization: the sum is what they do together
        yield found
        return
    alone = [(sign, measured[at]) for n, part in enumerate(parts, 1) for sign, at in ((1, part.before), (-1, n))]
    rest = [(1, plain), (-1, measured[-1]), *((-sign, outcomes) for sign, outcomes in alone)]
    yield found.model_copy(update={"sum": contrast(alone), "interaction": contrast(rest)})


def _parts(recipe: Recipe) -> Sequence[_Part]:
    """The levers, in the order in which they are measured."""
    names = levers(recipe)
    if len(names) < 2:
        only = f"{names[0]} alone" if names else "nothing"
        raise RecipeError(
            f"interaction: the recipe has {only}; at least two levers of a student, a quantization and a fine-tuning "
            "are needed for one to change what another does."
        )
    student = recipe.replace(quantization=Quantization(), finetuning=None)
    grids = recipe.replace(distillation=None, finetuning=None)
    parts = {
        "student": _Part("student", student.label, student, 0),
        "quantization": _Part("quantization", grids.label, grids, 0),
        "fine-tuning": _Part("fine-tuning", "fine-tuned", recipe.replace(distillation=None), len(names) - 1),
    }
    return [parts[name] for name in names]


def _next(parts: Sequence[_Part], number: int) -> str:
    return f"{parts[number + 1].name} alone" if number + 1 < len(parts) else "all together"


def _size(network: Network, recipe: Recipe) -> int:
    return len(network.artifact(recipe.quantization, recipe.to_json()))


def _origin(recipe: Recipe, estimate: Estimate) -> Estimate:
    """fp32 is what runs, so it is measured."""
    return estimate if recipe.quantization.active else estimate.model_copy(update={"source": "measured"})
