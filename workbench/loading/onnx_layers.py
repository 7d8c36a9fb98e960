"""ONNX operators with weights, as the torch modules that hold such weights.

A function here returns None where the weights are not constant or the module cannot express the
attributes; the functional form in `FUNCTIONAL`, if there is one, is taken then.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.loading.onnx_spatial import padded, window
from workbench.loading.onnx_values import Node, Untranslatable, Value

_CONV: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORM: dict[int, type[nn.Module]] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
_FUNCTIONAL_CONV: dict[int, Callable[..., Any]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _constants(*values: Value) -> bool:
    return all(value is None or isinstance(value, Tensor) for value in values)


def _with_bias(weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}


def _conv(node: Node, x: Value, weight: Value, bias: Value = None) -> Any:
    if not _constants(weight, bias) or weight.ndim - 2 not in _CONV:
        return None
    outputs, inputs, *kernel = weight.shape
    strides, dilations, before, after = window(node, kernel)
    groups = node.get("group", 1)
    symmetric = before == after
    return node.build.layer(
        node,
        lambda: _CONV[len(kernel)](
            inputs * groups,
            outputs,
            tuple(kernel),
            tuple(strides),
            tuple(before) if symmetric else 0,
            tuple(dilations),
            groups,
            bias is not None,
        ),
        _with_bias(weight, bias),
        [x if symmetric else padded(x, before, after)],
    )


def _conv_transpose(node: Node, x: Value, weight: Value, bias: Value = None) -> Any:
    if not _constants(weight, bias) or weight.ndim - 2 not in _CONV_TRANSPOSE:
        return None
    if node.get("output_shape") is not None or node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Untranslatable("ConvTranspose with an output shape or automatic padding has no torch form here.")
    inputs, outputs, *kernel = weight.shape
    strides, dilations, before, after = window(node, kernel)
    extra = tuple(node.get("output_padding") or (0,) * len(kernel))
    # less is cut off behind than before: the same as output padding
    extra = tuple(add + first - last for add, first, last in zip(extra, before, after, strict=True))
    if min(extra) < 0:
        raise Untranslatable("ConvTranspose with more padding behind than before has no torch form here.")
    groups = node.get("group", 1)
    return node.build.layer(
        node,
        lambda: _CONV_TRANSPOSE[len(kernel)](
            inputs,
            outputs * groups,
            tuple(kernel),
            tuple(strides),
            tuple(before),
            extra,
            groups,
            bias is not None,
            tuple(dilations),
        ),
        _with_bias(weight, bias),
        [x],
    )


def _linear(node: Node, x: Value, weight: Tensor, bias: Tensor | None) -> Any:
    outputs, inputs = weight.shape
    return node.build.layer(node, lambda: nn.Linear(inputs, outputs, bias is not None), _with_bias(weight, bias), [x])


def _gemm(node: Node, x: Value, weight: Value, bias: Value = None) -> Any:
    scaled = node.get("alpha", 1.0) != 1.0 or (bias is not None and node.get("beta", 1.0) != 1.0)
    if not _constants(weight, bias) or scaled or node.get("transA", 0) or weight.ndim != 2:
        return None
    turned = weight if node.get("transB", 0) else node.build.transposed(weight)
    if turned is None:
        return None
    if bias is not None and bias.shape != (turned.shape[0],):
        if bias.numel() not in (1, turned.shape[0]) or bias.numel() != math.prod(bias.shape[-1:]):
            return None
        bias = bias.flatten().expand(turned.shape[0]).clone()
    return _linear(node, x, turned, bias)


def _matmul(node: Node, x: Value, weight: Value) -> Any:
    if not isinstance(weight, Tensor) or isinstance(x, Tensor) or weight.ndim != 2:
        return None
    turned = node.build.transposed(weight)
    if turned is None:
        return None
    return _linear(node, x, turned, node.build.fuse(turned.shape[0]))


def _embedding(node: Node, table: Value, indices: Value) -> Any:
    usable = isinstance(table, Tensor) and table.ndim == 2 and table.is_floating_point()
    if not usable or isinstance(indices, Tensor) or node.get("axis", 0) != 0 or not node.integers(1):
        return None
    entries, width = table.shape
    return node.build.layer(node, lambda: nn.Embedding(entries, width), {"weight": table}, [indices])


def _batch_norm(node: Node, x: Value, scale: Value, bias: Value, mean: Value, variance: Value) -> Any:
    if node.get("training_mode", 0) or not node.get("spatial", 1):
        raise Untranslatable("BatchNormalization as in training has no torch form here.")
    if not _constants(scale, bias, mean, variance) or node.rank() not in _BATCH_NORM:
        return None
    weights = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance}
    eps = node.get("epsilon", 1e-5)
    momentum = 1 - node.get("momentum", 0.9)  # torch weighs the new batch, ONNX the past
    return node.build.layer(node, lambda: _BATCH_NORM[node.rank()](scale.numel(), eps, momentum), weights, [x])


def _layer_norm(node: Node, x: Value, scale: Value, bias: Value = None) -> Any:
    rank, axis = node.rank(), node.get("axis", -1)
    if node.outputs > 1 or not _constants(scale, bias) or scale.ndim != rank - axis % rank:
        return None
    shape, eps = tuple(scale.shape), node.get("epsilon", 1e-5)
    return node.build.layer(node, lambda: nn.LayerNorm(shape, eps, bias=bias is not None), _with_bias(scale, bias), [x])


def _group_norm(node: Node, x: Value, scale: Value, bias: Value) -> Any:
    if not _constants(scale, bias) or node.opset < 21:  # before, one scale per group
        return None
    groups, eps = node.get("num_groups"), node.get("epsilon", 1e-5)
    return node.build.layer(
        node, lambda: nn.GroupNorm(groups, scale.numel(), eps), {"weight": scale, "bias": bias}, [x]
    )


def _instance_norm(node: Node, x: Value, scale: Value, bias: Value) -> Any:
    if not _constants(scale, bias) or node.rank() not in _INSTANCE_NORM:
        return None
    kind, eps = _INSTANCE_NORM[node.rank()], node.get("epsilon", 1e-5)
    return node.build.layer(node, lambda: kind(scale.numel(), eps, affine=True), {"weight": scale, "bias": bias}, [x])


def _rms_norm(node: Node, x: Value, scale: Value) -> Any:
    rank, axis = node.rank(), node.get("axis", -1)
    if not _constants(scale) or scale.ndim != rank - axis % rank:
        return None
    shape, eps = list(scale.shape), node.get("epsilon", 1e-5)
    return node.build.layer(node, lambda: nn.RMSNorm(shape, eps), {"weight": scale}, [x])


LAYERS: dict[str, Callable[..., Any]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gather": _embedding,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "RMSNormalization": _rms_norm,
}


def _lifted(node: Node, *values: Value) -> list[Any]:
    if all(value is None or isinstance(value, Tensor) for value in values):
        return list(values)
    return [value if value is None else node.build.lift(value) for value in values]


def _matmul_of_any(node: Node, first: Value, second: Value) -> Any:
    first, second = _lifted(node, first, second)
    return torch.matmul(first, second)


def _gemm_of_any(node: Node, first: Value, second: Value, third: Value = None) -> Any:
    first, second, third = _lifted(node, first, second, third)
    first = first.t() if node.get("transA", 0) else first
    second = second.t() if node.get("transB", 0) else second
    product = torch.matmul(first, second)
    if node.get("alpha", 1.0) != 1.0:
        product = product * node.get("alpha")
    if third is None:
        return product
    return product + (third if node.get("beta", 1.0) == 1.0 else third * node.get("beta"))


def _conv_of_any(node: Node, x: Value, weight: Value, bias: Value = None) -> Any:
    x, weight, bias = _lifted(node, x, weight, bias)
    shape = node.shapes[1]
    if shape is None or not all(isinstance(size, int) for size in shape) or len(shape) - 2 not in _FUNCTIONAL_CONV:
        raise Untranslatable("Conv with weights of a free shape has no torch form here.")
    kernel = [int(size) for size in shape[2:] if size is not None]
    strides, dilations, before, after = window(node, kernel)
    x = padded(x, before, after)
    return _FUNCTIONAL_CONV[len(kernel)](x, weight, bias, strides, 0, dilations, node.get("group", 1))


def _batch_norm_of_any(node: Node, x: Value, scale: Value, bias: Value, mean: Value, variance: Value) -> Any:
    x, scale, bias, mean, variance = _lifted(node, x, scale, bias, mean, variance)
    return F.batch_norm(x, mean, variance, scale, bias, eps=node.get("epsilon", 1e-5))


FUNCTIONAL: dict[str, Callable[..., Any]] = {
    "BatchNormalization": _batch_norm_of_any,
    "Conv": _conv_of_any,
    "Gemm": _gemm_of_any,
    "MatMul": _matmul_of_any,
}
