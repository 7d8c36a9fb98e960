"""What the inputs of each layer look like on the calibration examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.tracing import running

BINS = 2048  # eight per step at 8 bits: the bins' width adds about 1.5 % to a squared error there
BATCH = 128


@dataclass(frozen=True, eq=False)
class Observation:
    """A histogram of the values that arrived at a layer."""

    centres: Tensor
    """Shape (BINS,); the outermost two are the smallest and the largest value seen."""
    counts: Tensor
    """Shape (BINS,), float32."""


@torch.inference_mode()
def observe(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Tensor) -> dict[str, Observation]:
    """Run the fp32 model on calibration inputs and look at what reaches its layers.

    Two passes, so that no more than a batch of activations is held: ranges first, then counts.

    Args:
        model: In evaluation mode; left without hooks.
        layers: The modules to watch, by name.
        inputs: Shape (m, ...).
    """
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}
    counts = {name: torch.zeros(BINS) for name in layers}

    def widen(name: str, x: Tensor) -> None:
        least, most = torch.aminmax(x)
        low[name] = torch.minimum(low.get(name, least), least)
        high[name] = torch.maximum(high.get(name, most), most)

    def count(name: str, x: Tensor) -> None:
        if high[name] > low[name]:
            counts[name] += torch.histc(x, BINS, min=float(low[name]), max=float(high[name]))
        else:
            counts[name][0] += x.numel()

    for look in (widen, count):
        hooks = [
            module.register_forward_pre_hook(lambda _, args, name=name, look=look: look(name, args[0].float()))
            for name, module in layers.items()
        ]
        try:
            for batch in inputs.split(BATCH):
                with running():
                    model(batch)
        finally:
            for hook in hooks:
                hook.remove()
    return {name: Observation(_centres(low[name], high[name]), counts[name]) for name in low}


def _centres(low: Tensor, high: Tensor) -> Tensor:
    edges = torch.lerp(low, high, torch.linspace(0, 1, BINS + 1))
    centres = (edges[:-1] + edges[1:]) / 2
    centres[0], centres[-1] = low, high  # exact ends: zero after a ReLU, and what min-max must span
    return centres
