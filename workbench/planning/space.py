"""The mixes that a plan chooses from: for each layer a few bit-widths and grids, all else as one recipe says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.errors import RecipeError
from workbench.layers import Layer
from workbench.planning.sensitivity import Term
from workbench.quantization.quantizer import LayerSpec, specs
from workbench.recipe import MAX_BITS, MIN_BITS, Recipe, Scheme

Options = tuple[int, ...]
"""Which of its bit-widths and grids each layer has."""
MOST_STEPS = 24
"""With more single steps than this, trades between two layers are not tried: there are too many."""


class Space:
    """Every mix of the bit-widths and grids of every free layer."""

    def __init__(
        self, template: Recipe, bits: Sequence[int], layers: Mapping[str, Layer], schemes: Sequence[Scheme] = ()
    ) -> None:
        """
        Args:
            template: Its bits for all layers' inputs, method, deployment; layers that it names keep their bits.
            bits: Of weights, that a free layer can have.
            layers: By name.
            schemes: Grids that a free layer's weights can have; none: the template's.

        Raises:
            RecipeError: No bit-width, or one that is not allowed; or a scheme that there is not.
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
        if template.quantization.activation_range == "dynamic":
            raise RecipeError(
                "template: what activation_range='dynamic' costs a layer is not predicted; plan with 'static', then "
                "measure the plan with it."
            )
        if template.finetuning is not None:
            raise RecipeError("finetuning: each mix would be trained anew; plan without it, then fine-tune the plan.")
        if template.distillation is not None:
            raise RecipeError("distillation: a plan is made for the model itself; plan for the exported student.")
        self.template = template
        self.bits = tuple(sorted(set(bits), reverse=True))
        quantization = template.quantization
        self.schemes = tuple(dict.fromkeys(schemes)) or (quantization.scheme,)
        levels = [
            specs(quantization.replace(weight_bits=each, scheme=scheme), layers)
            for each in self.bits
            for scheme in self.schemes
        ]
        self.layers = tuple(layers)
        self.options: tuple[tuple[LayerSpec, ...], ...] = tuple(
            tuple(dict.fromkeys(level[name] for level in levels)) for name in layers
        )
        """For each layer, from the most bits to the fewest."""
        self._steps = [[_steps(own, at) for at in range(len(own))] for own in self.options]

    def asked(self, options: Options) -> dict[str, LayerSpec]:
        """What a mix asks of each layer."""
        return {name: own[at] for name, own, at in zip(self.layers, self.options, options, strict=True)}

    def recipe(self, options: Options) -> Recipe:
        """The recipe of a mix, with the commonest bits and grid for all and the others by name."""
        asked = {
            name: own[at].weight
            for name, own, at in zip(self.layers, self.options, options, strict=True)
            if len(own) > 1
        }
        free = {name: weight for name, weight in asked.items() if weight is not None}
        quantization = self.template.quantization
        if not free:
            return self.template.replace(quantization=quantization.replace(weight_bits=self.bits[0]))
        bits = Counter(weight.bits for weight in free.values()).most_common(1)[0][0]
        layers: dict[str, Any] = dict(quantization.layers)
        for name, weight in free.items():
            own: dict[str, Any] = {} if weight.bits == bits else {"weight_bits": weight.bits}
            own |= {} if weight.scheme == quantization.scheme_for(name) else {"scheme": weight.scheme}
            if own:
                layers[name] = {**(layers[name].model_dump() if name in layers else {}), **own}
        changed = quantization.replace(weight_bits=bits, layers=layers)
        return self.template.replace(quantization=changed)

    def terms(self) -> list[list[tuple[Term, ...]]]:
        """What each option of each layer puts on grids."""
        return [[tuple(term for term in spec if term is not None) for spec in own] for own in self.options]

    def neighbours(self, options: Options) -> list[Options]:
        """Mixes in which one layer has the next more or fewer bits or another grid, or two layers trade bits."""
        steps = [(layer, at) for layer, own in enumerate(self._steps) for at in own[options[layer]]]
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

    def lower(self, layer: int, at: int) -> int | None:
        """The option of a layer that has the next fewer bits on the same grid; None at the fewest."""
        own = self.options[layer]
        return next((to for to in self._steps[layer][at] if to > at and _scheme(own[to]) == _scheme(own[at])), None)


def _steps(own: Sequence[LayerSpec], at: int) -> list[int]:
    """Options that are one step away: the next more or fewer bits on the same grid, and other grids."""
    alike = [to for to, spec in enumerate(own) if _scheme(spec) == _scheme(own[at])]
    place = alike.index(at)
    others = [to for to, spec in enumerate(own) if _bits(spec) == _bits(own[at]) and to != at and to not in alike]
    return sorted([*alike[max(place - 1, 0) : place], *alike[place + 1 : place + 2], *others])


def _scheme(spec: LayerSpec) -> str | None:
    return spec.weight.scheme if spec.weight else None


def _bits(spec: LayerSpec) -> int | None:
    return spec.weight.bits if spec.weight else None
