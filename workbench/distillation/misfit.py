"""Where a network does not take the inputs of another one, in words."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from workbench.tracing import running

SIDES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def misfit(network: nn.Module, example: Tensor) -> str:
    """The layer that does not take what arrives at it, with both shapes; nothing where the network runs.

    Args:
        network: Is copied, and the copy run in evaluation mode.
        example: A batch of inputs, shape (n, ...).

    Returns:
        ``its layer fc1 takes (9,), and (64,) arrives there``; of a layer that does not say what it takes, what it says.
    """
    made = copy.deepcopy(network).eval()
    entered: list[tuple[str, nn.Module, Any]] = []
    for name, module in made.named_modules():
        module.register_forward_pre_hook(
            lambda entering, args, name=name: entered.append((name, entering, args[0] if args else None))
        )
        module.register_forward_hook(lambda *_: entered.pop() and None)
    try:
        with torch.inference_mode(), running():
            made(example)
    except Exception as error:  # whatever the network's own code raises
        name, module, arrived = entered[-1] if entered else ("", made, example)
        return _said(name, module, arrived, error)
    return ""


def _said(name: str, module: nn.Module, arrived: Any, error: Exception) -> str:
    where = f"its layer {name}" if name else f"its only layer, {type(module).__name__},"
    if not isinstance(arrived, Tensor):
        return f"{where} says: {error}"
    shape = tuple(arrived.shape[1:])
    if isinstance(module, nn.Linear) and shape[-1:] != (module.in_features,):
        return f"{where} takes {(*shape[:-1], module.in_features)}, and {shape} arrives there"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        sides = ", ".join(SIDES[len(module.kernel_size)])
        return f"{where} takes ({module.in_channels}, {sides}), and {shape} arrives there"
    return f"{where} stops where {shape} arrives: {error}"
