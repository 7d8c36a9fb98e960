"""What a recipe asks of each operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from workbench.hardware.counts import Count
from workbench.recipe import Quantization

UNEVEN = ("codebook", "float", "float_wide", "mx")
"""Schemes whose values no integer kernel multiplies: weights are unpacked first."""

Bits = tuple[int | None, int | None]
"""Of weights and activations; None stays in floating point."""


class Asked(NamedTuple):
    """Bits of an operator; None is floating point."""

    weight: int | None
    activation: int | None
    whole: int | None
    """Bits of a kernel that multiplies whole numbers; None where an operand is in floating point."""


class Precision:
    """A recipe's bits, found for the operators of a network."""

    def __init__(self, quantization: Quantization, layers: Mapping[str, Bits], weights: Mapping[str, str]) -> None:
        """
        Args:
            quantization: The recipe's.
            layers: Weight and activation bits of every layer as they are put on grids, by its name.
            weights: Layers by the names of their weights in the state.
        """
        self._layers = layers
        self._weights = weights
        self._owners = set(weights.values())
        self._uneven = {
            name for name in layers if quantization.method != "naive" and quantization.scheme_for(name) in UNEVEN
        }
        self.between = quantization.activation_bits or _widest([activation for _, activation in layers.values()])
        """Bits of activations where no layer says it: those of all layers, or of the widest; None in floating point."""

    def of(self, row: Count) -> Asked:
        """What is asked of an operator."""
        layers = [self._layers[self._weights[name]] for name, _ in row.weights if name in self._weights]
        if layers:
            weight, activation = (_widest([bits[part] for bits in layers]) for part in (0, 1))
            both = weight is not None and activation is not None and self._uneven.isdisjoint(self.layers_of(row))
            return Asked(weight, activation, max(weight or 0, activation or 0) if both else None)
        if not row.macs:
            return Asked(None, self.between, self.between)
        bits = _widest([self._layers[name][1] for name in self.layers_of(row)])
        return Asked(None, bits, bits)

    def layers_of(self, row: Count) -> list[str]:
        """Layers of a recipe that say how an operator runs: those of its weights, or the operands at its place."""
        layers = [self._weights[name] for name, _ in row.weights if name in self._weights]
        place = row.name.rpartition(".")[0]
        operands = (name for name in self._layers if name not in self._owners and name.rpartition(".")[0] == place)
        return layers or list(operands)

    def weight(self, name: str) -> int | None:
        """Bits of a tensor of the state; None where it stays in floating point."""
        return self._layers[self._weights[name]][0] if name in self._weights else None


def _widest(bits: list[int | None]) -> int | None:
    found = [each for each in bits if each is not None]
    return max(found) if found and len(found) == len(bits) else None
