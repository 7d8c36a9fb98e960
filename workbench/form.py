"""How the state of a network that is quantized differs from that of the model it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Folded(NamedTuple):
    """A BatchNorm that is gone."""

    features: int
    eps: float
    affine: bool
    new_bias: str
    """Name of the bias that the layer before it got for it; empty where it had one already."""


class Normed(NamedTuple):
    """A weight that the model holds as length and direction (Salimans and Kingma 2016)."""

    length: str
    direction: str
    dim: int


@dataclass(frozen=True)
class Form:
    """What was rewritten, so that it can be undone."""

    root: str = ""
    """Begins every name here but none of the model's: a model that is a single layer was put into another module."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Names of tensors that are another one, and which."""
    folded: Mapping[str, Folded] = field(default_factory=dict)
    """BatchNorm modules that were folded into the layer before them."""
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tensors of the model that are several now, one after the other along the first axis."""
    normed: Mapping[str, Normed] = field(default_factory=dict)
    """Weights that were made of two tensors of the model."""

    def restored(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state as the model loads it; a BatchNorm that was folded does nothing there."""
        made = state | {name: state[first] for name, first in self.tied.items()}
        gone = {part for parts in self.joined.values() for part in parts} | set(self.normed)
        for name, (features, eps, affine, new_bias) in self.folded.items():
            if not 0 < features <= 2**20:
                raise ValueError(f"{name} has {features} features")
            zeros, ones = torch.zeros(features), torch.ones(features)
            made[f"{name}.running_mean"] = -made[new_bias] if new_bias else zeros
            made[f"{name}.running_var"] = ones - eps
            made[f"{name}.num_batches_tracked"] = torch.tensor(0)
            if affine:
                made |= {f"{name}.weight": ones, f"{name}.bias": zeros}
            if new_bias:
                gone |= {new_bias, *(n for n, first in self.tied.items() if first == new_bias)}
        for name, parts in self.joined.items():
            made[name] = torch.cat([made[part] for part in parts])
        for name, (length, direction, dim) in self.normed.items():
            norm = torch.norm_except_dim(made[name], 2, dim)
            made[length] = norm
            # a channel of zeros has no direction: any will do for the length 0
            made[direction] = torch.where(norm > 0, made[name], torch.ones_like(made[name]))
        return {name.removeprefix(self.root): tensor for name, tensor in made.items() if name not in gone}
