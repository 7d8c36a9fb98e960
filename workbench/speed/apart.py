"""Two recipes that were timed apart from each other, each against its own baseline."""

from __future__ import annotations

from workbench.errors import WorkbenchError
from workbench.report import Estimate, Report


def times_faster(report: Report, other: Report) -> Estimate:
    """How many times as many examples a second a recipe gets through as another one; below 1: fewer.

    They were not timed in turn, so the interval holds every quotient of the two intervals; what the machine did
    between the two timings is not in it.

    Args:
        report: Of the recipe.
        other: What it is compared with.

    Raises:
        WorkbenchError: One of them has no latency.
    """
    mine, its = _each(report), _each(other)
    return Estimate(
        value=its.value / mine.value, low=its.low / mine.high, high=its.high / mine.low, unit="×", source="measured"
    )


def _each(report: Report) -> Estimate:
    """Seconds for an example."""
    latency, batch = report.latency, report.recipe.deployment.batch
    if latency is None:
        raise WorkbenchError(f"{report.recipe.label} was not timed yet; `bench.measure` times it.")
    ends = {name: getattr(latency, name) / batch for name in ("low", "value", "high")}
    return latency.model_copy(update=ends)
