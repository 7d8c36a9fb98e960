"""How far what runs agrees with what is simulated."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from workbench.metrics import Cosine, ExactMatch, MeanIoU, Metric, MultiLabelF1, RSquared, TokenAccuracy, TopK
from workbench.recipe import Recipe
from workbench.report import Estimate, MetricInfo

LISTED = 20
"""Differing examples that are named at most."""
SAME_DIRECTION = 0.999
"""Outputs that are vectors differ where their cosine is below."""
NEAR = 0.01
"""Outputs that are one number differ by more than this share of the largest one."""


class Agreement(BaseModel):
    """Outputs of what runs beside those of the simulation, on the same examples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    runtime: str
    """What ran: a runtime, or the program that read a file."""
    metric: MetricInfo
    """What `rate` is: share of examples with the same answer, of tokens or pixels; mean cosine, or R²."""
    rate: Estimate
    examples: int
    """Compared so far."""
    total: int
    """Examples that will be compared."""
    disagreements: int
    """Examples whose answer differs; where outputs are no classes, whose cosine is below
    0.999, or whose one number is off by more than 1 % of the largest."""
    differing: tuple[int, ...] = ()
    """Places in the task of the first of them, 20 at most."""
    largest: float
    """Largest difference of two outputs, in the outputs' unit."""
    span: float
    """Largest magnitude of a simulated output."""
    layer: str | None = None
    """Where the disagreement starts: with all layers before it on their grids both still give the same."""
    distance: float | None = None
    """Largest difference of outputs with the layers up to `layer` on their grids, as a share of `span`."""
    reason: str = ""
    """Why, where it is known."""
    note: str | None = None
    """What really runs, where that is not what the bits suggest."""
    done: bool = False
    """Whether nothing is left to compare or to look for."""

    @property
    def alike(self) -> bool:
        """Whether no example differs so far."""
        return self.disagreements == 0

    @property
    def sentence(self) -> str:
        """What a page says of it."""
        percent = f"{100 * self.rate.value:.2f} %"
        if self.metric.counted:
            said = f"{self.runtime} gives the simulation's answer on {percent} of {self.examples:,} examples"
        elif self.metric.share:
            said = f"{self.runtime} gives {percent} of the simulation's answers on {self.examples:,} examples"
        else:
            said = f"{self.runtime} against the simulation on {self.examples:,} examples: "
            said += f"{self.metric.name} {self.rate.value:.4f}"
        if self.layer is not None:
            said += f"; the disagreement starts at {self.layer}"
        return f"{said}. {self.reason}".rstrip()

    def __str__(self) -> str:
        return self.sentence


def likeness(metrics: Sequence[Metric], outputs: Tensor) -> Metric:
    """How outputs are compared with other outputs, by what a task is measured by.

    Args:
        metrics: Of the task.
        outputs: Of a batch, shape (k, ...).

    Returns:
        The share of same answers where there are answers; R² where an output is one number, else the cosine.
    """
    first = metrics[0]
    if isinstance(first, TopK):
        return TopK(1, "agreement")
    if isinstance(first, MultiLabelF1 | ExactMatch):
        return ExactMatch()
    if isinstance(first, TokenAccuracy | MeanIoU):
        return TokenAccuracy()
    return RSquared() if outputs[0].numel() == 1 else Cosine()


def compared(metrics: Sequence[Metric], runs: Tensor, simulated: Tensor) -> tuple[Tensor, Tensor]:
    """What each example contributes to `likeness`, and whether it differs.

    Args:
        metrics: Of the task.
        runs: Outputs of what runs, shape (k, ...).
        simulated: Of the simulation, the same shape.

    Returns:
        Statistics as `Metric.statistics` has them, and booleans of shape (k,).
    """
    metric = likeness(metrics, simulated)
    if isinstance(metric, TopK):
        found = metric.statistics(runs, simulated.argmax(1))
    elif isinstance(metric, ExactMatch):
        found = metric.statistics(runs, (simulated > 0).float())
    elif isinstance(metric, TokenAccuracy):
        if isinstance(metrics[0], MeanIoU):  # classes are the second axis there
            runs, simulated = (x.movedim(1, -1).flatten(1, -2) for x in (runs, simulated))
        found = metric.statistics(runs, simulated.argmax(-1))
    else:
        found = metric.statistics(runs, simulated)
        apart = (runs - simulated).reshape(len(runs), -1).abs().amax(1)
        if isinstance(metric, RSquared):
            return found, apart > NEAR * simulated.abs().max()
        found[apart == 0] = 1.0  # two vectors of zeros have no cosine, and are the same
        return found, found[:, 0] < SAME_DIRECTION
    return found, metric.scores(found) < 1
