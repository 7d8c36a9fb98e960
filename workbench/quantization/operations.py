"""How much a model computes for one example, without tracing it: by what its layers give and take in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.passes import run_once
from workbench.quantization.calibration import first_tensor
from workbench.quantization.finding import CHANNELS_FIRST, RECURRENT, TABLES, TRANSPOSED, ProductMode, storage


@torch.no_grad()
def operations(model: nn.Module, layers: Mapping[str, Layer], example: Inputs) -> float:
    """Floating point operations of the products with weights, per example.

    torch's own counter knows more, and takes more than a second to import. A convolution that a function
    computes is counted at the positions of its input.

    Args:
        model: In evaluation mode.
        layers: Of the model.
        example: A batch.
    """
    total = 0.0
    used: dict[str, int] = {}
    for layer in layers.values():
        for site in layer.sites:
            used[site] = used.get(site, 0) + (0 if layer.weight is None else layer.weight.numel())

    def after(name: str, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> None:
        nonlocal total
        total += 2 * used[name] * _positions(module, first_tensor(args, kwargs), output)

    functions = {storage(layer.weight) for layer in layers.values() if layer.functional and layer.weight is not None}

    def hear(func: Any, weight: Tensor, other: Tensor, _: Sequence[Any]) -> Tensor:
        nonlocal total
        if storage(weight) in functions:
            width = other.shape[1] if func in CHANNELS_FIRST[1:] else other.shape[-1]
            total += 2 * weight.numel() * other.numel() / max(width, 1)
        return other

    hooks = [
        module.register_forward_hook(
            lambda m, args, kwargs, output, name=name: after(name, m, args, kwargs, output), with_kwargs=True
        )
        for name, module in model.named_modules()
        if name in used and not isinstance(module, TABLES)
    ]
    with ProductMode(hear):
        run_once(model, example, hooks)
    return total / len(example)


def _positions(module: nn.Module, x: Tensor | None, output: Any) -> float:
    """How often a module multiplies by its whole weight."""
    if isinstance(module, TRANSPOSED):
        return 0.0 if x is None else x.numel() / module.in_channels
    first = output[0] if isinstance(output, tuple) and not isinstance(output, PackedSequence) else output
    found = first.data if isinstance(first, PackedSequence) else first
    if not isinstance(found, Tensor):
        return 0.0
    if isinstance(module, RECURRENT):
        return found.numel() / max(found.shape[-1], 1)
    channels = getattr(module, "out_channels", None) or getattr(module, "out_features", None) or found.shape[-1]
    return found.numel() / max(int(channels), 1)
