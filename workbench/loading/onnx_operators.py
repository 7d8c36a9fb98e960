"""ONNX operators in torch, where one follows from the other by name, by element, or by reduction.

Each function takes the node and its inputs, and works on tensors and on recorded values alike. The
semantics are those of the ONNX operator specification, opsets 7 to 23.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Proxy

from workbench.loading.onnx_values import DTYPES, Node, Untranslatable, Value, number, numbers

Operator = Callable[..., Any]


def _plain(function: Callable[..., Any]) -> Operator:
    """An operator of the same meaning, whose inputs are all tensors."""
    return lambda node, *inputs: function(*_same_kind(node, inputs))


def _same_kind(node: Node, inputs: tuple[Value, ...]) -> list[Value]:
    if all(isinstance(value, Tensor) for value in inputs):
        return list(inputs)
    return [node.build.lift(value) for value in inputs]


def _arithmetic(function: Callable[[Any, Any], Any]) -> Operator:
    """With a scalar constant as a number, for it keeps the code readable and the device free."""

    def run(node: Node, first: Value, second: Value) -> Any:
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            return function(first, second)
        pair = [
            value.item() if isinstance(value, Tensor) and value.ndim == 0 else node.build.lift(value)
            for value in (first, second)
        ]
        return function(*pair)

    return run


def _divide(node: Node, first: Value, second: Value) -> Any:
    """Integers towards zero, as in C."""
    if node.integers(0):
        first, second = _same_kind(node, (first, second))
        return torch.div(first, second, rounding_mode="trunc")
    return _arithmetic(operator.truediv)(node, first, second)


def _modulo(node: Node, first: Value, second: Value) -> Any:
    first, second = _same_kind(node, (first, second))
    return torch.fmod(first, second) if node.get("fmod", 0) else torch.remainder(first, second)


def _chain(function: Callable[[Any, Any], Any]) -> Operator:
    """Of any number of inputs, from left to right."""

    def run(node: Node, *inputs: Value) -> Any:
        result, *others = _same_kind(node, inputs)
        for other in others:
            result = function(result, other)
        return result

    return run


def _mean_of_inputs(node: Node, *inputs: Value) -> Any:
    return _chain(torch.add)(node, *inputs) / len(inputs)


def _clip(node: Node, x: Value, low: Value = None, high: Value = None) -> Any:
    if isinstance(low, Proxy) or isinstance(high, Proxy):
        if low is not None:
            x = torch.maximum(*_same_kind(node, (x, low)))
        return x if high is None else torch.minimum(*_same_kind(node, (x, high)))
    least = node.get("min") if low is None else number(low)
    most = node.get("max") if high is None else number(high)
    if least is None and most is None:
        return x
    if (least, most) == (0, 6):
        return F.relu6(x)
    return torch.clamp(x, min=least, max=most)


def _hard_sigmoid(node: Node, x: Value) -> Any:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, min=0.0, max=1.0)


def _prelu(node: Node, x: Value, slope: Value) -> Any:
    x, slope = _same_kind(node, (x, slope))
    return torch.clamp(x, min=0) + torch.clamp(x, max=0) * slope


def _thresholded(node: Node, x: Value) -> Any:
    return F.threshold(x, node.get("alpha", 1.0), 0.0)


def _celu(node: Node, x: Value) -> Any:
    return F.celu(x, node.get("alpha", 1.0))


def _selu(node: Node, x: Value) -> Any:
    alpha = node.get("alpha", 1.6732632423543772)
    return node.get("gamma", 1.0507009873554805) * F.elu(x, alpha)


def _shrink(node: Node, x: Value) -> Any:
    threshold, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    if bias == 0:
        return F.hardshrink(x, threshold)
    if bias == threshold:
        return F.softshrink(x, threshold)
    raise Untranslatable("Shrink with a bias of its own has no torch form here.")


def _softmax(function: Callable[..., Any]) -> Operator:
    def run(node: Node, x: Value) -> Any:
        if node.opset >= 13:
            return function(x, dim=node.get("axis", -1))
        # before opset 13: over everything from the axis on
        axis, rank = node.get("axis", 1), node.rank()
        if axis % rank == rank - 1:
            return function(x, dim=axis)
        flat = function(torch.flatten(x, axis), dim=-1)
        return flat.reshape(*(x.size(place) for place in range(rank)))

    return run


def _cast(node: Node, x: Value) -> Any:
    dtype = DTYPES.get(node.get("to"))
    if dtype is None:
        raise Untranslatable("Cast goes to a data type that torch does not compute with.")
    return x.to(dtype)


def _cast_like(node: Node, x: Value, like: Value) -> Any:
    x, like = _same_kind(node, (x, like))
    return x.to(like.dtype)


def _identity(node: Node, x: Value, *_unused: Value) -> Any:
    """Identity, and Dropout as it is in inference."""
    if node.outputs > 1:
        raise Untranslatable(f"The mask of {node.op} has no torch form here.")
    return x


def _reduction(function: Callable[[Any, tuple[int, ...], bool], Any]) -> Operator:
    """Over axes that are an attribute or an input; all of them where none are named."""

    def run(node: Node, x: Value, given: Value = None) -> Any:
        axes = node.axes(given)
        if not axes:
            if node.get("noop_with_empty_axes", 0):
                return x
            axes = tuple(range(node.rank()))
        return function(x, axes, bool(node.get("keepdims", 1)))

    return run


def _product(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, dim=axis, keepdim=keep)
    return x


def _arg(function: Callable[..., Any]) -> Operator:
    def run(node: Node, x: Value) -> Any:
        if node.get("select_last_index", 0):
            raise Untranslatable(f"{node.op} of the last of equal values has no torch form here.")
        return function(x, dim=node.get("axis", 0), keepdim=bool(node.get("keepdims", 1)))

    return run


def _top_k(node: Node, x: Value, k: Value = None) -> Any:
    count = node.get("k") if k is None else number(k)
    largest, in_order = bool(node.get("largest", 1)), bool(node.get("sorted", 1))
    found = torch.topk(x, count, dim=node.get("axis", -1), largest=largest, sorted=in_order)
    return found[0], found[1]


def _cumulative_sum(node: Node, x: Value, axis: Value) -> Any:
    along = number(axis)
    backwards = bool(node.get("reverse", 0))
    summed = torch.cumsum(torch.flip(x, (along,)) if backwards else x, dim=along)
    if backwards:
        summed = torch.flip(summed, (along,))
    return summed - x if node.get("exclusive", 0) else summed


def _triangle(node: Node, x: Value, k: Value = None) -> Any:
    diagonal = 0 if k is None else number(k)
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)


def _einsum(node: Node, *inputs: Value) -> Any:
    return torch.einsum(node.get("equation", ""), *_same_kind(node, inputs))


def _gelu(node: Node, x: Value) -> Any:
    return F.gelu(x, approximate=node.get("approximate", "none"))


def _is_infinite(node: Node, x: Value) -> Any:
    positive, negative = node.get("detect_positive", 1), node.get("detect_negative", 1)
    if positive and negative:
        return torch.isinf(x)
    return torch.isposinf(x) if positive else torch.isneginf(x)


def _normalized(node: Node, x: Value) -> Any:
    return F.normalize(x, p=float(node.get("p", 2)), dim=node.get("axis", -1), eps=1e-12)


def _local_response(node: Node, x: Value) -> Any:
    return F.local_response_norm(
        x, node.get("size"), alpha=node.get("alpha", 1e-4), beta=node.get("beta", 0.75), k=node.get("bias", 1.0)
    )


def _where(node: Node, condition: Value, first: Value, second: Value) -> Any:
    return torch.where(*_same_kind(node, (condition, first, second)))


def _power(node: Node, base: Value, exponent: Value) -> Any:
    """The result has the base's type."""
    if node.integers(0) and not node.integers(1):
        raise Untranslatable("Pow of integers to a broken exponent has no torch form here.")
    return _arithmetic(operator.pow)(node, base, exponent)


def _one_hot(node: Node, indices: Value, depth: Value, values: Value) -> Any:
    if node.get("axis", -1) != -1:
        raise Untranslatable("OneHot along an inner axis has no torch form here.")
    off, on = numbers(values)
    classes = number(depth)
    hot = F.one_hot(torch.remainder(indices, classes).long(), classes)
    return hot.to(values.dtype) * (on - off) + off


OPERATORS: dict[str, Operator] = {
    "Abs": _plain(torch.abs),
    "Acos": _plain(torch.acos),
    "Acosh": _plain(torch.acosh),
    "Add": _arithmetic(operator.add),
    "And": _plain(torch.logical_and),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "Asin": _plain(torch.asin),
    "Asinh": _plain(torch.asinh),
    "Atan": _plain(torch.atan),
    "Atanh": _plain(torch.atanh),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _plain(torch.ceil),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": _plain(torch.cos),
    "Cosh": _plain(torch.cosh),
    "CumSum": _cumulative_sum,
    "Div": _divide,
    "Dropout": _identity,
    "Einsum": _einsum,
    "Elu": lambda node, x: F.elu(x, node.get("alpha", 1.0)),
    "Equal": _arithmetic(operator.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Floor": _plain(torch.floor),
    "Gelu": _gelu,
    "Greater": _arithmetic(operator.gt),
    "GreaterOrEqual": _arithmetic(operator.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Identity": _identity,
    "IsInf": _is_infinite,
    "IsNaN": _plain(torch.isnan),
    "LRN": _local_response,
    "LeakyRelu": lambda node, x: F.leaky_relu(x, node.get("alpha", 0.01)),
    "Less": _arithmetic(operator.lt),
    "LessOrEqual": _arithmetic(operator.le),
    "Log": _plain(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "LpNormalization": _normalized,
    "Max": _chain(torch.maximum),
    "Mean": _mean_of_inputs,
    "Min": _chain(torch.minimum),
    "Mish": _plain(F.mish),
    "Mod": _modulo,
    "Mul": _arithmetic(operator.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "OneHot": _one_hot,
    "Or": _plain(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceL1": _reduction(lambda x, axes, keep: torch.sum(torch.abs(x), axes, keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceLogSum": _reduction(lambda x, axes, keep: torch.log(torch.sum(x, axes, keep))),
    "ReduceLogSumExp": _reduction(torch.logsumexp),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceMin": _reduction(torch.amin),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(torch.sum),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: torch.sum(x * x, axes, keep)),
    "Relu": _plain(torch.relu),
    "Round": _plain(torch.round),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": _plain(torch.sigmoid),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Sinh": _plain(torch.sinh),
    "Softmax": _softmax(torch.softmax),
    "Softplus": _plain(F.softplus),
    "Softsign": _plain(F.softsign),
    "Sqrt": _plain(torch.sqrt),
    "Sub": _arithmetic(operator.sub),
    "Sum": _chain(torch.add),
    "Swish": lambda node, x: x * torch.sigmoid(x * node.get("alpha", 1.0)),
    "Tan": _plain(torch.tan),
    "Tanh": _plain(torch.tanh),
    "ThresholdedRelu": _thresholded,
    "TopK": _top_k,
    "Trilu": _triangle,
    "Where": _where,
    "Xor": _plain(torch.logical_xor),
}
