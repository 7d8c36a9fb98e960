"""What of a model can be put on grids, one weight or operand each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

SUM = "Sum operand"
"""The kind of what is added to another activation."""


class LayerInfo(NamedTuple):
    """A layer that can be quantized."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    weights: str = ""
    """Why its weights cannot; empty where they can."""
    activations: str = ""
    """Why its input cannot; empty where it can."""
    by_name_only: bool = False
    """The bits of all layers do not count for it; a recipe has to name it, or to ask for `sums` if it is one's."""
    shortcut: bool = False
    """Of a sum's operand: whether it goes around the layer whose output is added."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One weight that is multiplied with activations, or the operand of a product without weights."""

    name: str
    """As a recipe names it: the module, or the parameter where a module has several or none shows it."""
    kind: str
    """``Conv2d``, ``LSTM``, ``linear`` (a function)."""
    weight_name: str = ""
    """In the model's state."""
    weight: Tensor | None = None
    bias_name: str = ""
    bias: Tensor | None = None
    """Added to the product."""
    axis: int | None = 0
    """Of the weight, along which the output channels run; None where they cannot be told."""
    sites: tuple[str, ...] = ()
    """Modules that use it; several where it is tied."""
    functional: bool = False
    """Whether a function reads the weight as well, past the module that owns it."""
    weights: str = ""
    """Why the weights stay in floating point; empty where they need not."""
    activations: str = ""
    """Why the input stays in floating point; empty where it need not."""
    by_name_only: bool = False
    """Quantized where a recipe names it, not by a recipe's common bits; see `follows`."""
    shortcut: bool = False
    """See `LayerInfo`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return () if self.weight is None else tuple(self.weight.shape)

    @property
    def info(self) -> LayerInfo:
        """What a page or a table says of it."""
        told = self.weights, self.activations, self.by_name_only, self.shortcut
        return LayerInfo(self.name, self.kind, self.shape, self.parameters, *told)

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return sum(tensor.numel() for tensor in (self.weight, self.bias) if tensor is not None)


def follows(layer: Layer | LayerInfo, sums: Literal["none", "shortcut", "both"]) -> bool:
    """Whether a recipe's common bits count for a layer.

    Args:
        layer: Of a model.
        sums: Which operands of sums the recipe asks for.
    """
    return not layer.by_name_only or (layer.kind == SUM and (sums == "both" or (sums == "shortcut" and layer.shortcut)))


@dataclass(frozen=True)
class LeftAlone:
    """A module whose parameters always stay in floating point."""

    name: str
    kind: str
    reason: str
