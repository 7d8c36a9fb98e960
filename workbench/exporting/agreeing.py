"""What a runtime does with a recipe, against the simulation; and where they part."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

import torch

from workbench.evaluation import Evaluation
from workbench.exporting.agreement import Agreement
from workbench.exporting.comparing import Comparison, Run, simulated
from workbench.exporting.onset import EXAMPLES as LOOKED_AT
from workbench.exporting.onset import NOISE, Onset, onset, upto
from workbench.exporting.ties import tie
from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import LayerSpec
from workbench.recipe import Recipe
from workbench.runtimes import Prepared

Prepares = Callable[[Mapping[str, QuantizedLayer]], Prepared]
"""Makes a runtime ready to run the network with these layers on their grids."""


def agreeing(
    evaluation: Evaluation,
    network: Network,
    asked: Mapping[str, LayerSpec],
    recipe: Recipe,
    prepare: Prepares,
    cancel: threading.Event | None = None,
) -> Iterator[Agreement]:
    """Agreements that grow with the examples; the last one says where the disagreement starts, and why.

    Args:
        evaluation: Whose examples.
        network: The recipe's.
        asked: What the recipe asks of each layer.
        recipe: What is simulated, and which runtime is compared with it.
        prepare: Of that runtime.
        cancel: Checked before every batch.

    Raises:
        Cancelled: `cancel` was set.
        WorkbenchError: The runtime cannot take the network.
    """
    prepared = prepare(network.quantized(asked))
    runtime = recipe.deployment.runtime
    comparison = Comparison(evaluation, network, asked, recipe, prepared.run, runtime, prepared.note)
    for agreement in comparison.stream(cancel):
        yield agreement
    if not agreement.alike:
        examples = evaluation.task.inputs[list(agreement.differing)]
        examples = examples[examples.batches(torch.arange(len(examples)), LOOKED_AT)[0]]
        found = onset(network, asked, examples, lambda layers: prepare(layers).run, cancel)
        reason = found.reason or _reason(network, asked, found, examples, prepared, prepare)
        where = {"layer": found.layer, "distance": found.distance, "reason": reason}
        agreement = agreement.model_copy(update=where)
    yield agreement.model_copy(update={"done": True})


def _reason(
    network: Network,
    asked: Mapping[str, LayerSpec],
    found: Onset,
    examples: Inputs,
    prepared: Prepared,
    prepare: Prepares,
) -> str:
    """Why what runs differs from a layer on, in words, or nothing."""
    if found.layer is None:
        return ""
    if not prepared.integer:
        if asked[found.layer].activation is not None:
            return f"No integer kernel runs there, so its input may not be rounded. {prepared.note or ''}".rstrip()
        return prepared.note or ""
    kept = upto(asked, found.layer)
    run: Run = prepare(network.quantized(kept)).run
    theirs, ours = run(examples), simulated(network, kept, examples)
    apart = (theirs - ours).abs().reshape(len(ours), -1).amax(1)
    at = int(torch.where(apart > NOISE * ours.abs().max(), apart, torch.inf).argmin())  # the fewest ties
    return tie(network, kept, found.layer, examples[[at]], theirs[[at]], float(NOISE * ours.abs().max()))
