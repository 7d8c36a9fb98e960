"""What one recipe has against another, on the same examples."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

from workbench.evaluation import Evaluation, Outcomes
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


def affordable(network: Network, runs: int, examples: int) -> int:
    """On how many examples so many runs of a network can be compared; 0 where they would be too few.

    Args:
        network: What runs.
        runs: How often.
        examples: How many there are.
    """
    most = min(COST_EXAMPLES, int(COST_OPERATIONS // (max(runs, 1) * max(network.operations, 1))), examples)
    return most if most >= min(LEAST_COST_EXAMPLES, examples) else 0


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
    rows = {row.name: row for row in network.rows(quantization)}
    examples = affordable(network, len(quantized(asked)), len(evaluation.task))
    for name, cost, _ in one_layer_off(evaluation, network, reference, asked, examples, cancel):
        rows[name] = rows[name].model_copy(update={"cost": cost})
        yield tuple(rows.values())


def quantized(asked: Mapping[str, LayerSpec]) -> list[str]:
    """The layers of which anything is on a grid."""
    return [name for name, spec in asked.items() if any(spec)]


def one_layer_off(
    evaluation: Evaluation,
    network: Network,
    reference: Network,
    asked: Mapping[str, LayerSpec],
    examples: int,
    cancel: threading.Event | None,
) -> Iterator[tuple[str, Estimate, Outcomes]]:
    """What is won back when one layer alone returns to fp32, for each quantized layer.

    Args:
        evaluation: The examples.
        network: What runs.
        reference: Whose fp32 output counts as right where the task has no targets.
        asked: What is asked of each layer.
        examples: On how many it is measured; 0: nothing is.
        cancel: Checked before every batch.

    Yields:
        Name, gain (positive: the layer hurts) and what came out without it.

    Raises:
        Cancelled: `cancel` was set.
    """
    names = quantized(asked)
    if not names or not examples:
        return
    own = first(evaluation, network, reference, asked, examples, cancel)
    for name in reversed(names):  # the last layers first: what comes before them is remembered
        restored = {**asked, name: LayerSpec(None, None)}
        outcomes = first(evaluation, network, reference, restored, examples, cancel)
        lost = outcomes.drop(own)
        won = {"value": 0.0 - lost.value, "low": 0.0 - lost.high, "high": 0.0 - lost.low}  # 0 has no sign
        yield name, lost.model_copy(update=won), outcomes


def first(
    evaluation: Evaluation,
    network: Network,
    reference: Network,
    asked: Mapping[str, LayerSpec],
    examples: int,
    cancel: threading.Event | None,
) -> Outcomes:
    """What comes out for the first examples.

    Raises:
        Cancelled: `cancel` was set.
    """
    for outcomes in evaluation.stream(network, asked, reference, cancel):
        if len(outcomes) >= examples:
            break
    return outcomes.first(examples)


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


def paired(
    evaluation: Evaluation,
    one: tuple[Network, Mapping[str, LayerSpec]],
    other: tuple[Network, Mapping[str, LayerSpec]],
    reference: Network,
    cancel: threading.Event | None,
) -> Estimate:
    """By how much one network is better than another, on the same examples; in the metric's unit.

    Raises:
        Cancelled: `cancel` was set.
    """
    mine, theirs = (evaluation.all(*each, reference, cancel) for each in (one, other))
    difference = theirs.drop(mine)
    exact = not any(any(spec) for _, asked in (one, other) for spec in asked.values())
    return difference.model_copy(update={"source": "measured"}) if exact else difference


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
