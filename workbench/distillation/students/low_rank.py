"""Low-rank factors: each weight matrix as a product of two smaller ones."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from workbench.distillation.students.exchanging import last_layers, pointwise, why_not, windowed
from workbench.distillation.students.reduced import Reduced, finished, layers_of, run
from workbench.errors import WorkbenchError
from workbench.twins import exchange


def factorize(model: nn.Module, example: Tensor, rank: float) -> Reduced:
    """A copy in which two layers follow each other where one was, with fewer channels between them.

    Of a Linear layer and of a convolution, whose weight is a matrix of (outputs) x (inputs * window): a convolution
    with the window to r channels, then one without (Zhang et al., "Accelerating Very Deep Convolutional Networks for
    Classification and Detection", 2016, without its nonlinear response). The factors are the nearest of rank r to
    the model's weight, by singular value decomposition, each with the square root of the singular values.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> factorize(model, torch.zeros(1, 8), 0.25).module[0]
        Sequential(
          (0): Linear(in_features=8, out_features=2, bias=False)
          (1): Linear(in_features=2, out_features=8, bias=True)
        )

    Args:
        model: Takes one tensor and returns one; it is left as it is.
        example: A batch of its inputs, shape (n, ...), floating point.
        rank: Share of each matrix's full rank, above 0 and at most 1; each has at least 1. A layer that would not
            become smaller stays, as does the last one, whose rank is the number of classes; at 1 all do.

    Raises:
        WorkbenchError: The model does not run on the example, or not with its layers exchanged.
    """
    if not 0 < rank <= 1:
        raise WorkbenchError(f"rank = {rank}: it is a share of the full rank, above 0 and at most 1.")
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        student = copy.deepcopy(model).eval().requires_grad_(False)
        before, layers = run(student, example), layers_of(student)
        last = last_layers(student, layers, example)
        changed, kept = [], {}
        for name, layer in layers.items():
            why = why_not(student, name, layer, before.called) or _wasteful(layer, rank)
            if name in last:
                why = "makes the model's output, of few dimensions already"
            if why:
                kept[name] = why
            else:
                exchange(student, layer, _factors(layer, _rank(layer, rank)))
                changed.append(name)
        return finished(Reduced(student, tuple(changed), kept), example, before.output, model.training)


def _wasteful(layer: nn.Module, rank: float) -> str:
    rows, columns = _matrix(layer)
    r = _rank(layer, rank)
    if r * (rows + columns) < rows * columns:
        return ""
    return "not smaller as two factors of this rank"


def _rank(layer: nn.Module, share: float) -> int:
    return max(1, int(share * min(_matrix(layer)) + 0.5))


def _matrix(layer: nn.Module) -> tuple[int, int]:
    weight = layer.weight
    assert isinstance(weight, Tensor)  # noqa: S101 - narrows the type
    return weight.shape[0], math.prod(weight.shape[1:])


def _factors(layer: nn.Module, rank: int) -> nn.Sequential:
    first: nn.Linear | _ConvNd
    second: nn.Linear | _ConvNd
    if isinstance(layer, _ConvNd):
        first, second = windowed(layer, rank), pointwise(layer, rank)
    else:
        assert isinstance(layer, nn.Linear)  # noqa: S101 - narrows the type
        first = nn.Linear(layer.in_features, rank, bias=False, dtype=layer.weight.dtype)
        second = nn.Linear(rank, layer.out_features, layer.bias is not None, dtype=layer.weight.dtype)
    left, values, right = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
    root = values[:rank].sqrt()
    first.weight.copy_((root[:, None] * right[:rank]).reshape(first.weight.shape))
    second.weight.copy_((left[:, :rank] * root).reshape(second.weight.shape))
    if layer.bias is not None and second.bias is not None:
        second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)
