"""The depthwise-separable form: each convolution as one of each channel by itself, and one across channels."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from workbench.distillation.students.exchanging import pointwise, why_not, windowed
from workbench.distillation.students.reduced import Reduced, finished, layers_of, run
from workbench.twins import exchange

FEWEST_CHANNELS = 5
"""An image's own 1 to 4 channels would leave a depthwise layer as few filters; MobileNet's first layer is dense too."""


def separate(model: nn.Module, example: Tensor) -> Reduced:
    """A copy in which each dense convolution with a window is a depthwise one, followed by a pointwise one.

    The form is that of Howard et al., "MobileNets", 2017, without an activation function between both: so the two
    can begin as the nearest to the model's weight, which is, for each input channel, the first singular vectors of
    its (outputs) x (window) matrix (Guo et al., "Network Decoupling", 2018).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(8, 16, 3))
        >>> separate(model, torch.zeros(1, 8, 4, 4)).module[0]
        Sequential(
          (0): Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1), groups=8, bias=False)
          (1): Conv2d(8, 16, kernel_size=(1, 1), stride=(1, 1))
        )

    Args:
        model: Takes one tensor and returns one; it is left as it is.
        example: A batch of its inputs, shape (n, ...).

    Raises:
        WorkbenchError: The model does not run on the example, or not with its layers exchanged.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        student = copy.deepcopy(model).eval()
        before = run(student, example)
        changed, kept = [], {}
        for name, layer in layers_of(student).items():
            why = _is_linear(layer) or why_not(student, name, layer, before.called) or _why_dense(layer)
            if why:
                kept[name] = why
            elif isinstance(layer, _ConvNd):
                exchange(student, layer, _separated(layer))
                changed.append(name)
        return finished(Reduced(student, tuple(changed), kept), example, before.output, model.training)


def _is_linear(layer: nn.Module) -> str:
    return "no convolution" if isinstance(layer, nn.Linear) else ""


def _why_dense(layer: nn.Module) -> str:
    assert isinstance(layer, _ConvNd)  # noqa: S101 - narrows the type
    window = math.prod(layer.kernel_size)
    if window == 1:
        return "no window"
    if layer.in_channels < FEWEST_CHANNELS:
        return "too few input channels"
    dense = layer.in_channels * layer.out_channels * window
    return "" if layer.in_channels * (window + layer.out_channels) < dense else "not smaller in this form"


def _separated(layer: _ConvNd) -> nn.Sequential:
    depth = windowed(layer, layer.in_channels, groups=layer.in_channels)
    across = pointwise(layer, layer.in_channels)
    matrices = layer.weight.detach().flatten(2).transpose(0, 1)  # (inputs, outputs, window)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    root = values[:, 0].sqrt()
    depth.weight.copy_((root[:, None] * right[:, 0]).reshape(depth.weight.shape))
    across.weight.copy_((left[:, :, 0] * root[:, None]).T.reshape(across.weight.shape))
    if layer.bias is not None and across.bias is not None:
        across.bias.copy_(layer.bias)
    return nn.Sequential(depth, across)
