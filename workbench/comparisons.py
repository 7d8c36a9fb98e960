"""What one recipe has against another, on the same examples."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from workbench.evaluation import Evaluation
from workbench.network import Network
from workbench.quantization.quantizer import LayerSpec, specs
from workbench.recipe import Quantization, Recipe
from workbench.report import Comparison, Estimate, LayerRow
from workbench.trained_students import TrainedStudent

COST_EXAMPLES = 5000
"""Examples on which the cost of each layer is measured at most."""
LEAST_COST_EXAMPLES = 10
COST_OPERATIONS = 1e12
"""Floating point operations for the costs of all layers together at most; a large model gets fewer examples."""


def fp32(network: Network) -> dict[str, LayerSpec]:
    """No layer on any grid."""
    return {name: LayerSpec(None, None) for name in network.layers}


def layer_costs(
    evaluation: Evaluation,
    network: Network,
    reference: Network,
    quantization: Quantization,
    cancel: threading.Event | None,
) -> Iterator[tuple[LayerRow, ...]]:
    """Layer rows with the accuracy won back when one layer alone returns to fp32, filled in as they come.

    Args:
        evaluation: The examples.
        network: What the recipe quantizes.
        reference: Whose fp32 output counts as right where the task has no targets.
        quantization: The recipe's part.
        cancel: Checked before every batch.

    Raises:
        Cancelled: `cancel` was set.
    """
    asked = specs(quantization, network.layers)
    quantized = [name for name, spec in asked.items() if any(spec)]
    if not quantized:
        return
    affordable = int(COST_OPERATIONS // (len(quantized) * max(network.operations, 1)))
    examples = min(COST_EXAMPLES, affordable, len(evaluation.task))
    if examples < min(LEAST_COST_EXAMPLES, len(evaluation.task)):
        return
    own = evaluation.all(network, asked, reference, cancel)
    rows = {row.name: row for row in network.rows(quantization)}
    for name in reversed(quantized):  # the last layers first: what comes before them is remembered
        restored = {**asked, name: LayerSpec(None, None)}
        for outcomes in evaluation.stream(network, restored, reference, cancel):
            if len(outcomes) >= examples:
                break
        lost = outcomes.first(examples).drop(own)
        cost = lost.model_copy(update={"value": -lost.value, "low": -lost.high, "high": -lost.low})
        rows[name] = rows[name].model_copy(update={"cost": cost})
        yield tuple(rows.values())


def against(
    evaluation: Evaluation,
    network: Network,
    reference: Network,
    recipes: tuple[Recipe, Recipe],
    cancel: threading.Event | None,
) -> tuple[Estimate, float]:
    """Accuracy that the second recipe wins against the first, paired, and the bytes that it adds.

    Raises:
        Cancelled: `cancel` was set.
    """
    first, second = (
        evaluation.all(network, specs(recipe.quantization, network.layers), reference, cancel) for recipe in recipes
    )
    sizes = [len(network.artifact(recipe.quantization, recipe.to_json())) for recipe in recipes]
    return first.drop(second), sizes[1] - sizes[0]


def student_against_control(
    evaluation: Evaluation, trained: TrainedStudent, reference: Network, cancel: threading.Event | None
) -> Comparison:
    """Student, control and teacher in fp32.

    Raises:
        Cancelled: `cancel` was set.
    """
    outcomes = {
        who: evaluation.all(network, fp32(network), reference, cancel) for who, network in trained.networks.items()
    }
    reached = {who: each.accuracy() for who, each in outcomes.items()}
    estimates = {**reached, "difference": outcomes["control"].drop(outcomes["student"])}
    return Comparison(
        **{name: estimate.model_copy(update={"source": "measured"}) for name, estimate in estimates.items()},
        parameters=trained.networks["student"].parameters,
        steps=trained.steps,
        seconds=trained.seconds,
    )
