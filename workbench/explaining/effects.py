"""Measures what each layer does: without it, with it alone, and with each of its two parts alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

from workbench.comparisons import COST_OPERATIONS, affordable, first, fp32, one_layer_off, quantized
from workbench.evaluation import Evaluation, Outcomes
from workbench.explaining.explanation import Explanation, LayerEffect
from workbench.explaining.noise import input_sqnr
from workbench.network import Network
from workbench.quantization.quantizer import LayerSpec, specs
from workbench.recipe import Recipe
from workbench.report import MetricInfo

Parts = dict[str, LayerSpec]


def explained(
    evaluation: Evaluation,
    network: Network,
    reference: Network,
    recipe: Recipe,
    metric: MetricInfo,
    cancel: threading.Event | None,
) -> Iterator[Explanation]:
    """Explanations that grow: first what comes back without each layer, then what each does alone.

    Args:
        evaluation: The examples; all effects are paired on the same ones.
        network: What the recipe quantizes.
        reference: Whose fp32 output counts as right where the task has no targets.
        recipe: What is explained.
        metric: What effects are counted in.
        cancel: Checked before every batch.

    Raises:
        Cancelled: `cancel` was set.
    """
    asked = specs(recipe.quantization, network.layers)
    names = quantized(asked)
    examples = affordable(network, len(names), len(evaluation.task)) if names else 0
    effects = {name: _effect(network, name, asked[name]) for name in names}
    alone = {name: _alone(asked[name]) for name in names}
    total = len(names) + sum(map(len, alone.values())) if examples else 0
    notes = _notes(network, recipe, bool(names), examples)
    made = Explanation(
        recipe=recipe,
        metric=metric,
        layers=tuple(effects.values()),
        examples=examples,
        total=total,
        notes=notes,
    )
    yield made
    if not total:
        return
    without: dict[str, Outcomes] = {}
    on = (evaluation, network, reference)
    for name, off, outcomes in one_layer_off(*on, asked, examples, cancel):
        without[name] = outcomes
        effects[name] = effects[name].model_copy(update={"off": off})
        if len(without) < len(names):
            made = made.model_copy(update={"layers": tuple(effects.values()), "done": len(without)})
            yield made
    hurts, beside = worst(effects, without)
    chosen = _worth_it(network, effects, alone, examples)
    if len(chosen) < len(names):
        notes = (
            *notes,
            f"How much a layer hurts alone was measured for the {len(chosen)} with the largest effects: "
            "the network is large.",
        )
    made = made.model_copy(
        update={
            "layers": tuple(effects.values()),
            "hurts": hurts,
            "beside": beside,
            "done": len(names),
            "total": len(names) + sum(len(alone[name]) for name in chosen),
            "notes": notes,
        }
    )
    yield made
    none = fp32(network)
    plain = first(*on, none, examples, cancel) if chosen else None
    for name in chosen:
        for part, spec in alone[name].items():
            assert plain is not None  # noqa: S101 - something was chosen
            drop = first(*on, {**none, name: spec}, examples, cancel).drop(plain)
            update = {part: drop}
            if len(alone[name]) == 1:  # one part is all there is
                update["weights" if spec.weight is not None else "activations"] = drop
            effects[name] = effects[name].model_copy(update=update)
            made = made.model_copy(update={"layers": tuple(effects.values()), "done": made.done + 1})
            yield made


def worst(effects: Mapping[str, LayerEffect], without: Mapping[str, Outcomes]) -> tuple[str | None, tuple[str, ...]]:
    """The layer that hurts most, and those that cannot be told from it.

    Args:
        effects: With `off` measured.
        without: What came out without each of the layers.

    Returns:
        None and nothing where no effect is distinguishable.
    """
    gains = {name: effect.off for name, effect in effects.items() if effect.off is not None}
    certain = [name for name, gain in gains.items() if gain.low > 0]
    if not certain:
        return None, ()
    worst_of_all = max(certain, key=lambda each: gains[each].value)
    as_large = [name for name, gain in gains.items() if gain.value >= gains[worst_of_all].value]
    others = sorted({*certain, *as_large} - {worst_of_all}, key=lambda each: -gains[each].value)
    return worst_of_all, tuple(name for name in others if without[name].drop(without[worst_of_all]).includes(0))


def _alone(spec: LayerSpec) -> Parts:
    """The runs with this layer alone: as it is, and its parts where it has both."""
    both = {"on": spec}
    if spec.weight is not None and spec.activation is not None:
        both |= {"weights": LayerSpec(spec.weight, None), "activations": LayerSpec(None, spec.activation)}
    return both


def _worth_it(
    network: Network, effects: Mapping[str, LayerEffect], alone: Mapping[str, Parts], examples: int
) -> list[str]:
    """As many layers as the budget lets run alone, those with the largest effects; the last ones come first."""
    runs = COST_OPERATIONS / (examples * max(network.operations, 1))
    chosen: set[str] = set()
    for name in sorted(effects, key=lambda each: -(off.value if (off := effects[each].off) else 0.0)):
        runs -= len(alone[name])
        if runs < 0:
            break
        chosen.add(name)
    return [name for name in reversed(list(effects)) if name in chosen]


def _effect(network: Network, name: str, spec: LayerSpec) -> LayerEffect:
    quantizer = network.quantizer
    return LayerEffect(
        name=name,
        kind=network.layers[name].kind,
        weight_bits=spec.weight.bits if spec.weight else None,
        activation_bits=spec.activation.bits if spec.activation else None,
        weight_sqnr=quantizer.sqnr(spec.weight) if spec.weight else None,
        activation_sqnr=input_sqnr(quantizer, spec.activation) if spec.activation else None,
    )


def _notes(network: Network, recipe: Recipe, active: bool, examples: int) -> tuple[str, ...]:
    notes = []
    if active and not examples:
        notes.append("The network is too large to be run once without each of its layers; there is SQNR alone.")
    if recipe.distillation is not None:
        notes.append("What a layer does alone is counted against the student in fp32.")
    elif recipe.finetuning is not None:
        notes.append("What a layer does alone is counted against the fine-tuned network in fp32.")
    if recipe.quantization.joint:
        notes.append("When one layer returns to fp32, the others stay as the method left them together.")
    if network.graph_only:
        notes.append("The layers are products in an ONNX graph; what happens between them stays in fp32.")
    return tuple(notes)
