"""Recipes that look at the whole network: what is made layer by layer first, and what then looks at it as one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.quantization.finding import CONVOLUTIONS, TRANSPOSED
from workbench.quantization.quantizer import Settled, specs
from workbench.quantization.reconstruction import Goal, reconstructed, steps_for
from workbench.quantization.reestimation import reestimated
from workbench.quantization.rounding import Watch
from workbench.quantization.simulation import Simulation
from workbench.recipe import Quantization

STARTED = 0.15
"""Share of the time that the first roundings take."""


def settle(
    quantization: Quantization,
    simulation: Simulation,
    layers: Mapping[str, Layer],
    inputs: Inputs,
    goal: Goal,
    operations: float,
    watch: Watch,
) -> dict[str, Settled]:
    """Every layer of a joint recipe.

    Args:
        quantization: The recipe's part; it is `joint`.
        simulation: Runs the network.
        layers: Of the network, by name.
        inputs: Calibration examples.
        goal: How the network's outputs are compared.
        operations: Floating point operations of one example.
        watch: Told how far it is, and looked at before every batch.

    Raises:
        Cancelled: As the watch says; nothing is kept then but the first roundings.
    """
    first = start(quantization)
    asked = specs(first, layers)
    brecq = quantization.method == "brecq"
    began = STARTED if brecq else 0.8
    simulation.quantizer.prepare(asked, watch.part(0.0, began))
    made = {}
    for name, spec in asked.items():
        layer = simulation.quantizer.layer(name, spec)
        bias = layer.bias_values().clone() if layer.bias is not None else None
        made[name] = Settled(layer.weight, layer.weight_grid, layer.activation_grid, bias)
    own = followed(layers, simulation.model)
    if brecq:
        plain = specs(first.replace(method="nearest"), layers)
        more = 0.9 if quantization.correction == "batchnorm" else 1.0
        steps = steps_for(operations, inputs)
        learn_bias = quantization.correction != "none"
        part = watch.part(began, more)
        made |= reconstructed(simulation, made, asked, plain, own, inputs, goal, steps, part, learn_bias=learn_bias)
    if quantization.correction == "batchnorm":
        made |= reestimated(simulation, made, asked, own, inputs, watch)
    return made


def start(quantization: Quantization) -> Quantization:
    """The recipe that a joint one starts from, whose layers are made each by itself."""
    method = "quantease" if quantization.method == "brecq" else quantization.method
    looks = method != "nearest" or quantization.range in ("hessian", "auto")
    # what is rounded by moments takes it into account that the mean is put right afterwards
    correction = "bias" if quantization.correction != "none" and looks else "none"
    return quantization.replace(method=method, correction=correction)


def followed(layers: Mapping[str, Layer], model: nn.Module) -> dict[str, Layer]:
    """Layers that these methods reach, by the module that is one: plain ones, used at one place, by no function."""
    found = {}
    for layer in layers.values():
        if len(layer.sites) == 1 and not layer.functional and layer.weight is not None and not layer.weights:
            module = model.get_submodule(layer.sites[0])
            if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)) and module.weight is layer.weight:
                found[layer.sites[0]] = layer
    return found


def remarks(
    quantization: Quantization, layers: Mapping[str, Layer], model: nn.Module, operations: float, inputs: Inputs
) -> tuple[str, ...]:
    """What a reader of the numbers has to know of how a joint recipe was followed."""
    if not quantization.joint:
        return ()
    said = []
    own = {layer.name for layer in followed(layers, model).values()}
    past = [name for name, spec in specs(quantization, layers).items() if spec.weight and name not in own]
    what = " and ".join(
        ["brecq"] * (quantization.method == "brecq") + ["batchnorm"] * (quantization.correction == "batchnorm")
    )
    if past:
        more = f" and {len(past) - 3} more" if len(past) > 3 else ""
        said.append(f"{what} cannot follow {', '.join(past[:3])}{more}: rounded each by itself.")
    if quantization.method == "brecq" and not steps_for(operations, inputs):
        said.append("brecq: the network is too large to be trained in a minute here; it is rounded as by quantease.")
    return tuple(said)
