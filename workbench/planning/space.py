"""The mixes that a plan chooses from: for each layer a few bit-widths, all else as one recipe says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.errors import RecipeError
from workbench.layers import Layer
from workbench.planning.sensitivity import Term
from workbench.quantization.quantizer import LayerSpec, specs
from workbench.recipe import MAX_BITS, MIN_BITS, Recipe

Options = tuple[int, ...]
"""Which of its bit-widths each layer has."""
MOST_STEPS = 24
"""With more single steps than this, trades between two layers are not tried: there are too many."""


class Space:
    """Every mix of the bit-widths of every free layer."""

    def __init__(self, template: Recipe, bits: Sequence[int], layers: Mapping[str, Layer]) -> None:
        """
        Args:
            template: Its bits for all layers' inputs, method, deployment; layers that it names keep their bits.
            bits: Of weights, that a free layer can have.
            layers: By name.

        Raises:
            RecipeError: No bit-width, or one that is not allowed.
        """
        wrong = [b for b in bits if isinstance(b, bool) or not isinstance(b, int) or not MIN_BITS <= b <= MAX_BITS]
        if wrong or not bits:
            raise RecipeError(f"bits = {tuple(bits)!r}: whole numbers from {MIN_BITS} to {MAX_BITS} are needed.")
        if template.quantization.joint or template.quantization.equalize:
            raise RecipeError(
                "template: a plan adds up what single layers cost, and method='brecq', correction='batchnorm' and "
                "equalize=True make them depend on each other; plan with method='quantease', then measure the plan "
                "with these."
            )
        if template.finetuning is not None:
            raise RecipeError("finetuning: each mix would be trained anew; plan without it, then fine-tune the plan.")
        if template.distillation is not None:
            raise RecipeError("distillation: a plan is made for the model itself; plan for the exported student.")
        self.template = template
        self.bits = tuple(sorted(set(bits), reverse=True))
        quantization = template.quantization
        levels = [specs(quantization.replace(weight_bits=each), layers) for each in self.bits]
        self.layers = tuple(layers)
        self.options: tuple[tuple[LayerSpec, ...], ...] = tuple(
            tuple(dict.fromkeys(level[name] for level in levels)) for name in layers
        )
        """For each layer, from the most bits to the fewest."""

    def asked(self, options: Options) -> dict[str, LayerSpec]:
        """What a mix asks of each layer."""
        return {name: own[at] for name, own, at in zip(self.layers, self.options, options, strict=True)}

    def recipe(self, options: Options) -> Recipe:
        """The recipe of a mix, with the commonest bits for all and the others by name."""
        asked = {
            name: own[at].weight
            for name, own, at in zip(self.layers, self.options, options, strict=True)
            if len(own) > 1
        }
        bits = {name: weight.bits for name, weight in asked.items() if weight is not None}
        quantization = self.template.quantization
        if not bits:
            return self.template.replace(quantization=quantization.replace(weight_bits=self.bits[0]))
        common = Counter(bits.values()).most_common(1)[0][0]
        layers: dict[str, Any] = dict(quantization.layers)
        for name, own in bits.items():
            if own != common:
                before = layers[name].model_dump() if name in layers else {}
                layers[name] = {**before, "weight_bits": own}
        changed = quantization.replace(weight_bits=common, layers=layers)
        return self.template.replace(quantization=changed)

    def terms(self) -> list[list[tuple[Term, ...]]]:
        """What each option of each layer puts on grids."""
        return [[tuple(term for term in spec if term is not None) for spec in own] for own in self.options]

    def neighbours(self, options: Options) -> list[Options]:
        """Mixes in which one layer has the next more or fewer bits, or two layers trade."""
        steps = [
            (layer, at)
            for layer, own in enumerate(self.options)
            for at in (options[layer] - 1, options[layer] + 1)
            if 0 <= at < len(own)
        ]
        made = [(*options[:layer], at, *options[layer + 1 :]) for layer, at in steps]
        if len(steps) > MOST_STEPS:
            return made
        for place, (layer, at) in enumerate(steps):
            for other, to in steps[place + 1 :]:
                if other != layer and (at - options[layer]) * (to - options[other]) < 0:
                    traded = list(options)
                    traded[layer], traded[other] = at, to
                    made.append(tuple(traded))
        return made
