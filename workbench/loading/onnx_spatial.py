"""ONNX operators over space: pooling, padding, resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.loading.onnx_values import Node, Untranslatable, Value, number, numbers

_MAX_POOL: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL: dict[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE_MEAN: dict[int, Callable[..., Any]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def window(node: Node, kernel: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], list[int], list[int]]:
    """How a window moves over the input of a convolution or a pooling.

    Args:
        node: With the attributes ``strides``, ``dilations``, ``pads`` and ``auto_pad``.
        kernel: Sizes of the window, one per spatial dimension.

    Returns:
        Strides, dilations, and the padding before and after, one per spatial dimension.

    Raises:
        Untranslatable: ``auto_pad`` needs an input size that is free.
    """
    dims = len(kernel)
    strides = node.get("strides") or (1,) * dims
    dilations = node.get("dilations") or (1,) * dims
    if not all(len(given) == dims and min(given) > 0 for given in (strides, dilations, kernel)):
        raise Untranslatable(f"{node.op} has strides, dilations or a kernel that do not fit its dimensions.")
    mode = node.get("auto_pad", "NOTSET")
    if mode == "VALID":
        return strides, dilations, [0] * dims, [0] * dims
    if mode == "NOTSET":
        pads = list(node.get("pads") or (0,) * 2 * dims)
        return strides, dilations, pads[:dims], pads[dims:]
    before, after = [], []
    known = node.shapes[0] or ()
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        length = known[axis + 2] if len(known) == dims + 2 else None
        reach = (size - 1) * dilation + 1
        if stride == 1:
            total = reach - 1
        elif isinstance(length, int):
            total = max((-(-length // stride) - 1) * stride + reach - length, 0)
        else:
            raise Untranslatable(f"The padding of {node.op} depends on the input's size.")
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return strides, dilations, before, after


def padded(x: Any, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Any:
    """Space added around the last dimensions; `F.pad` names the last one first."""
    pairs = [size for pair in reversed(list(zip(before, after, strict=True))) for size in pair]
    return F.pad(x, pairs, value=value) if any(pairs) else x


def _max_pool(node: Node, x: Value) -> Any:
    if node.outputs > 1:
        raise Untranslatable("MaxPool with the places of its maxima has no torch form here.")
    kernel = node.get("kernel_shape")
    strides, dilations, before, after = window(node, kernel)
    ceil = bool(node.get("ceil_mode", 0))
    inner: list[int] | int = before
    if before != after or any(pad > size // 2 for pad, size in zip(before, kernel, strict=True)):
        _refuse_ceil(node)
        x, inner = padded(x, before, after, float("-inf")), 0
    return _pool(_MAX_POOL, kernel)(x, kernel, strides, inner, dilations, ceil)


def _average_pool(node: Node, x: Value) -> Any:
    kernel = node.get("kernel_shape")
    strides, dilations, before, after = window(node, kernel)
    count = bool(node.get("count_include_pad", 0))
    ceil = bool(node.get("ceil_mode", 0))
    if any(dilation != 1 for dilation in dilations):
        raise Untranslatable("AveragePool with dilations has no torch form here.")
    pool = _pool(_AVERAGE_POOL, kernel)
    if before == after and all(pad <= size // 2 for pad, size in zip(before, kernel, strict=True)):
        return pool(x, kernel, strides, before, ceil, count)
    _refuse_ceil(node)
    if count:
        return pool(padded(x, before, after), kernel, strides, 0)
    # the mean of what is there: mean over the padded input, divided by the mean of ones
    ones = padded(torch.ones_like(x), before, after)
    return pool(padded(x, before, after), kernel, strides, 0) / pool(ones, kernel, strides, 0)


def _refuse_ceil(node: Node) -> None:
    """A last window within the padding is dropped; torch cannot tell when the padding is in the input."""
    if node.get("ceil_mode", 0):
        raise Untranslatable(f"{node.op} padded on one side and rounded up has no torch form here.")


def _pool(functions: dict[int, Callable[..., Any]], kernel: Sequence[int]) -> Callable[..., Any]:
    if len(kernel) not in functions:
        raise Untranslatable(f"Pooling over {len(kernel)} dimensions has no torch form here.")
    return functions[len(kernel)]


def _global_mean(node: Node, x: Value) -> Any:
    dims = node.rank() - 2
    if dims not in _ADAPTIVE_MEAN:
        raise Untranslatable(f"Pooling over {dims} dimensions has no torch form here.")
    return _ADAPTIVE_MEAN[dims](x, 1)


def _global_max(node: Node, x: Value) -> Any:
    return torch.amax(x, tuple(range(2, node.rank())), True)


def _pad(node: Node, x: Value, pads: Value = None, value: Value = None, axes: Value = None) -> Any:
    mode = node.get("mode", "constant")
    given = numbers(pads) if pads is not None else list(node.get("pads", ()))
    filling = node.get("value", 0.0) if value is None else number(value)
    before, after = given[: len(given) // 2], given[len(given) // 2 :]
    if axes is not None:
        rank = node.rank()
        places = [axis % rank for axis in node.axes(axes) or ()]
        before, after = (
            [dict(zip(places, side, strict=True)).get(axis, 0) for axis in range(rank)] for side in (before, after)
        )
    pairs = list(zip(before, after, strict=True))
    while pairs and all(isinstance(size, int) and size == 0 for size in pairs[0]):
        pairs.pop(0)  # torch reflects the last dimensions only
    flat = [size for pair in reversed(pairs) for size in pair]
    if not flat:
        return x
    if mode not in _PAD_MODES:
        raise Untranslatable(f"Pad in the mode {mode} has no torch form here.")
    if mode == "constant":
        return F.pad(x, flat, value=filling)
    return F.pad(x, flat, mode=_PAD_MODES[mode])


def _resize(node: Node, x: Value, roi: Value = None, scales: Value = None, target: Value = None) -> Any:
    if node.opset < 11:  # the factors stood in the place of the region
        return _interpolated(node, x, scale_factor=_scales(roi))
    kept = node.get("keep_aspect_ratio_policy", "stretch") != "stretch"
    if node.get("axes") is not None or node.get("antialias", 0) or kept:
        raise Untranslatable("Resize with chosen axes, antialiasing or a kept aspect ratio has no torch form here.")
    if target is not None:
        return _interpolated(node, x, size=numbers(target)[2:])
    return _interpolated(node, x, scale_factor=_scales(scales))


def _upsample(node: Node, x: Value, scales: Value = None) -> Any:
    """Resize as it was before opset 10: no coordinates to choose."""
    factors = _scales(scales) if scales is not None else [float(factor) for factor in node.get("scales")[2:]]
    if node.get("mode", "nearest") == "nearest":
        return F.interpolate(x, scale_factor=factors, mode="nearest")
    raise Untranslatable("Upsample other than to the nearest has no torch form here.")


def _scales(scales: Value) -> list[float]:
    if not isinstance(scales, Tensor) or not scales.numel():
        raise Untranslatable("The factors of Resize depend on the data.")
    factors = scales.tolist()
    if factors[:2] != [1.0, 1.0]:
        raise Untranslatable("Resize over batch or channels has no torch form here.")
    return factors[2:]


def _interpolated(node: Node, x: Value, **how: Any) -> Any:
    mode = node.get("mode", "nearest")
    default = "asymmetric" if node.opset < 11 else "half_pixel"
    coordinates = node.get("coordinate_transformation_mode", default)
    dims = node.rank() - 2
    if mode == "nearest":
        rounding = node.get("nearest_mode", "floor" if node.opset < 11 else "round_prefer_floor")
        if coordinates == "asymmetric" and rounding == "floor":
            return F.interpolate(x, mode="nearest", **how)
        if coordinates in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round_prefer"):
            return F.interpolate(x, mode="nearest-exact", **how)
    elif mode in ("linear", "cubic") and coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        if mode == "cubic" and (dims != 2 or round(node.get("cubic_coeff_a", -0.75), 3) != -0.75):
            raise Untranslatable("Resize by other cubics than torch has no torch form here.")
        kind = "bicubic" if mode == "cubic" else {1: "linear", 2: "bilinear", 3: "trilinear"}.get(dims)
        if kind:
            return F.interpolate(x, mode=kind, align_corners=coordinates == "align_corners", **how)
    raise Untranslatable(f"Resize ({mode}, {coordinates}) has no torch form here.")


OPERATORS: dict[str, Callable[..., Any]] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_mean,
    "GlobalMaxPool": _global_max,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _upsample,
}
