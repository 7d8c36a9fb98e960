"""Which layers two others can stand for, and the two for a convolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from workbench.distillation.ties import Calls, reached
from workbench.tracing import running

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def why_not(model: nn.Module, name: str, layer: nn.Module, called: frozenset[str]) -> str:
    """Why a layer cannot be exchanged, or nothing."""
    if not name:
        return "the whole model"
    if type(layer) not in (nn.Linear, *PLAIN):  # of others, it is not known what else they compute
        return f"of class {type(layer).__name__}"
    if name not in called:
        return "not called as a layer"
    if getattr(layer, "groups", 1) != 1:
        return "in groups already"
    parent = model.get_submodule(name.rpartition(".")[0])
    if type(parent).__module__.startswith("torch.nn.") and not isinstance(parent, CONTAINERS):
        return f"read by its {type(parent).__name__}"  # whose fast path takes the weights without calling the layer
    owners = [m for m in model.modules() if any(p is layer.weight for p in m._parameters.values())]
    return "weight shared with another layer" if len(owners) > 1 else ""


def windowed(layer: _ConvNd, outputs: int, groups: int = 1) -> _ConvNd:
    """A convolution with a layer's window and other outputs, without a bias."""
    kind: Any = type(layer)  # of PLAIN, which need less said than their common base
    made: _ConvNd = kind(
        layer.in_channels,
        outputs,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=groups,
        padding_mode=layer.padding_mode,
        bias=False,
        dtype=layer.weight.dtype,
    )
    return made


def pointwise(layer: _ConvNd, inputs: int) -> _ConvNd:
    """A convolution without a window from so many channels to a layer's outputs, with a bias if the layer has one."""
    kind: Any = type(layer)
    made: _ConvNd = kind(inputs, layer.out_channels, 1, bias=layer.bias is not None, dtype=layer.weight.dtype)
    return made


@torch.enable_grad()
def last_layers(model: nn.Module, layers: Mapping[str, nn.Module], example: Tensor) -> frozenset[str]:
    """Layers that make the model's output: between them and it there is no other layer and no addition.

    Args:
        model: In evaluation mode, one that runs on the example; no parameter requires a gradient.
        layers: Of the model, by name.
        example: A batch of its inputs, shape (n, ...), floating point.
    """
    calls = Calls(layers)
    with calls, running():
        output = model(example.detach().clone().requires_grad_().clone())
    if output.grad_fn is None:
        return frozenset()
    ends = reached(output.grad_fn, through=lambda n: n not in calls.made and not n.name().startswith("AddBackward"))
    return frozenset(calls.made[node] for node in ends if node in calls.made)
