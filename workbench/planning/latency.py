"""Which kind of kernels keeps a latency: bits do not change it, as 2 to 8 of them run in the same ones."""

from __future__ import annotations

from collections.abc import Callable

from workbench.errors import PlanError
from workbench.recipe import LayerOverride, Recipe
from workbench.report import Report


def fast_enough(template: Recipe, most: float, timed: Callable[[Recipe], Report]) -> Recipe:
    """The template, or with its activations in floating point where only that is fast enough.

    Args:
        template: What a plan starts from.
        most: Seconds per call.
        timed: Measures the latency of a recipe.

    Raises:
        PlanError: Neither is; the faster one is named.
    """
    tried = []
    for candidate in dict.fromkeys((template, _weights_only(template))):
        report = timed(candidate.replace(quantization=candidate.quantization.replace(weight_bits=8)))
        if report.latency is None:
            continue
        if report.latency.value <= most:
            return candidate
        tried.append(report)
    deployment = template.deployment
    where = f"{deployment.runtime} on {deployment.device}"
    if not tried:
        raise PlanError(f"max_latency = {most:g}: {where} cannot be timed here.")
    nearest = min(tried, key=lambda report: report.latency.value)  # type: ignore[union-attr]
    taken = nearest.latency.value if nearest.latency else 0.0
    raise PlanError(
        f"max_latency = {most:g} s: with {where}, the fastest way takes {taken:.3g} s a call, and fewer bits do not "
        f"change that: they run in the same 8-bit kernels. Allow {taken:.3g} s, or try another runtime or batch.",
        nearest,
    )


def _weights_only(template: Recipe) -> Recipe:
    quantization = template.quantization
    layers = {
        name: LayerOverride(**{**override.model_dump(), "activation_bits": None})
        for name, override in quantization.layers.items()
    }
    return template.replace(quantization=quantization.replace(activation_bits=None, layers=layers))
