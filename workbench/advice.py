"""The sentence under the numbers: what they mean, and the one change that would help most."""

from __future__ import annotations

from collections.abc import Callable

from workbench.recipe import Recipe
from workbench.report import Advice, Estimate, LayerRow, Report

Try = Callable[[Recipe], tuple[Estimate, float]]
"""Accuracy won by another recipe against the one on the screen (paired), and the bytes it adds."""


def advise(report: Report, baseline: Report, attempt: Try) -> Advice:
    """Read a finished report.

    Args:
        report: With latency and layer costs.
        baseline: The same model in fp32.
        attempt: Measures the accuracy and size of a recipe that is about to be suggested.
    """
    verdict, reason = _verdict(report, baseline), " ".join(filter(None, (*report.notes, report.running)))
    if report.recipe.finetuning is not None:  # other bits would be trained anew, which cannot be tried in passing
        return Advice(verdict=verdict, reason=reason)
    if not report.recipe.quantization.active:
        return _first_step(report, verdict, attempt)
    worst = max((row for row in report.layers if row.cost), key=lambda row: row.cost.value, default=None)  # type: ignore[union-attr]
    if worst is not None and worst.cost is not None and worst.cost.low > 0 and report.drop.low > 0:
        return _mend(report, verdict, reason, worst, worst.cost, attempt)
    if report.drop.low > 0 and 0 < (report.recipe.quantization.weight_bits or 0) < 8:
        return _go_higher(report, verdict, reason, attempt)
    if report.drop.includes(0) and (report.recipe.quantization.weight_bits or 0) > 2:
        return _go_lower(report, verdict, reason, attempt)
    return Advice(verdict=verdict, reason=reason)


def _verdict(report: Report, baseline: Report) -> str:
    ratio = baseline.size.value / report.size.value
    size = f"{ratio:.1f}× smaller" if ratio >= 1.05 else "As large as before"
    if report.speedup is None:
        return size
    if report.speedup.includes(1):
        return f"{size}, not distinguishable in speed here"
    if abs(report.speedup.value - 1) < 0.01:
        return f"{size}, as fast here"
    if report.speedup.value > 1:
        return f"{size}, {report.speedup.value:.2f}× faster here"
    return f"{size}, {1 / report.speedup.value:.2f}× slower here"


def _amount(estimate: Estimate, report: Report) -> str:
    """How much of the metric: ``0.60 points``, ``1.2 dB``."""
    metric, value = report.metric, abs(estimate.value)
    if metric.share:
        return f"{value * 100:.2f} points"
    return f"{value:.3g} {metric.unit or f'of {metric.name}'}"


def _kilobytes(count: float) -> str:
    return f"{abs(count) / 1000:,.1f} kB"


def _first_step(report: Report, verdict: str, attempt: Try) -> Advice:
    quantization = report.recipe.quantization.replace(weight_bits=8, activation_bits=8)
    recipe = report.recipe.replace(quantization=quantization)
    won, added = attempt(recipe)
    outcome = "no measurable loss" if won.includes(0) else f"a loss of {_amount(won, report)}"
    if report.recipe.distillation is None:
        verdict = "The baseline: nothing is quantized"
    return Advice(
        verdict=verdict, suggestion=f"8 bits everywhere would save {_kilobytes(added)}, with {outcome}.", recipe=recipe
    )


def _mend(report: Report, verdict: str, reason: str, worst: LayerRow, cost: Estimate, attempt: Try) -> Advice:
    quantization = report.recipe.quantization
    now = {"weight_bits": worst.weight_bits, "activation_bits": worst.activation_bits}
    better: dict[str, int | None] = {name: 8 for name, bits in now.items() if bits and bits < 8}
    if not better:
        better = {name: None for name, bits in now.items() if bits}
    own = quantization.layers.get(worst.name)
    layers = {**quantization.layers, worst.name: {**(own.model_dump() if own else {}), **better}}
    recipe = report.recipe.replace(quantization=quantization.replace(layers=layers))
    won, added = attempt(recipe)
    share = cost.value / report.drop.value
    part = "All" if share >= 0.95 else "Most" if share >= 0.65 else "Half" if share >= 0.4 else f"{share * 100:.0f} %"
    blame = f"{part} of the loss comes from {worst.name}"
    if won.low <= 0:
        return Advice(verdict=verdict, reason=reason, suggestion=f"{blame}.")
    where = "at 8 bits" if 8 in better.values() else "in fp32"
    suggestion = f"{blame}; {where} it would cost {_kilobytes(added)} more and win back {_amount(won, report)}."
    return Advice(verdict=verdict, reason=reason, suggestion=suggestion, recipe=recipe)


def _go_higher(report: Report, verdict: str, reason: str, attempt: Try) -> Advice:
    quantization = report.recipe.quantization
    bits = (quantization.weight_bits or 8) + 1
    recipe = report.recipe.replace(quantization=quantization.replace(weight_bits=bits))
    won, added = attempt(recipe)
    if won.low <= 0:
        return Advice(verdict=verdict, reason=reason, suggestion="No single layer stands out.")
    suggestion = (
        f"No single layer stands out; {bits}-bit weights would cost {_kilobytes(added)} more "
        f"and win back {_amount(won, report)}."
    )
    return Advice(verdict=verdict, reason=reason, suggestion=suggestion, recipe=recipe)


def _go_lower(report: Report, verdict: str, reason: str, attempt: Try) -> Advice:
    quantization = report.recipe.quantization
    bits = (quantization.weight_bits or 8) - 1
    recipe = report.recipe.replace(quantization=quantization.replace(weight_bits=bits))
    won, added = attempt(recipe)
    outcome = (
        "cost nothing measurable" if won.includes(0) else f"{'cost' if won.value < 0 else 'win'} {_amount(won, report)}"
    )
    suggestion = f"No loss can be measured; {bits}-bit weights would save {_kilobytes(added)} and {outcome}."
    return Advice(verdict=verdict, reason=reason, suggestion=suggestion, recipe=recipe)
