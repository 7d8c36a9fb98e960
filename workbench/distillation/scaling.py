"""Numbers of any size are learned as numbers of mean 0 and deviation 1; the last layer then takes over their scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.distillation.goal import Score
from workbench.report import Estimate
from workbench.tracing import running

LOOKED_AT = 64
"""Examples for which the last layer's output must be the network's own."""


@dataclass(frozen=True, eq=False)
class Scale:
    """The teacher's outputs, as far as a network's last Linear can take them over."""

    layer: str
    """Name of that Linear."""
    mean: Tensor
    """Shape (d,)."""
    deviation: Tensor
    """Shape (d,)."""

    def standardised(self, numbers: Tensor) -> Tensor:
        """Outputs or targets, a row for each example: shape (n, ...) to (n, d)."""
        return (numbers.reshape(len(numbers), -1) - self.mean) / self.deviation

    def unfolded(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a network whose outputs are the numbers, as one whose outputs are standardised."""
        weight, bias = (state[f"{self.layer}.{part}"] for part in ("weight", "bias"))
        return {
            **state,
            f"{self.layer}.weight": weight / self.deviation[:, None],
            f"{self.layer}.bias": (bias - self.mean) / self.deviation,
        }

    def folded(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The reverse of `unfolded`."""
        weight, bias = (state[f"{self.layer}.{part}"] for part in ("weight", "bias"))
        return {
            **state,
            f"{self.layer}.weight": weight * self.deviation[:, None],
            f"{self.layer}.bias": bias * self.deviation + self.mean,
        }


@dataclass(frozen=True, eq=False)
class ScaledScore:
    """How good a network is whose outputs are standardised."""

    score: Score
    scale: Scale

    def __call__(self, network: nn.Module, inputs: Tensor, targets: Tensor) -> Estimate:
        """Of the numbers that it stands for."""
        return self.score(_Rescaled(network, self.scale), inputs, targets)


class _Rescaled(nn.Module):
    def __init__(self, network: nn.Module, scale: Scale) -> None:
        super().__init__()
        self.network = network
        self.scale = scale

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.network(inputs)
        rows = outputs.reshape(len(outputs), -1) * self.scale.deviation + self.scale.mean
        return rows.reshape(outputs.shape)


@torch.inference_mode()
def scale_of(network: nn.Module, inputs: Tensor, said: Tensor) -> Scale | None:
    """The scale of a teacher's outputs; None where no Linear of a network makes its output.

    Args:
        network: In evaluation mode.
        inputs: Some of its inputs, shape (n, ...).
        said: The teacher's outputs, shape (n, ..., d).
    """
    left: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            left[name] = output.reshape(-1).clone()  # what follows may write into it

        return hook

    linear = {name: each for name, each in network.named_modules() if isinstance(each, nn.Linear)}
    hooks = [each.register_forward_hook(keep(name)) for name, each in linear.items() if each.bias is not None]
    try:
        with running():
            output = network(inputs[:LOOKED_AT]).reshape(-1)
    finally:
        for hook in hooks:
            hook.remove()
    rows = said.reshape(-1, said.shape[-1])
    with torch.inference_mode(False):
        mean, deviation = rows.mean(0).clone(), rows.std(0, correction=0).clone()
        deviation = torch.where(deviation > 0, deviation, 1.0)
    for name, each in left.items():
        if linear[name].out_features == len(mean) and torch.equal(each, output):
            return Scale(name, mean, deviation)
    return None
