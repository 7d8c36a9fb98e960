"""Cross-layer equalisation: channels are rescaled between two layers, so that the weights of both have ranges alike.

A positive factor passes through whatever is positively homogeneous (ReLU, pooling, dropout): what one layer
divides its output channel by, the next one multiplies its input channel with, and the network computes what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.outputs import Output
from workbench.quantization.finding import CONVOLUTIONS, TRANSPOSED
from workbench.quantization.preparation import agrees, outputs_of
from workbench.quantization.simulation import traced
from workbench.twins import exchange, substituted, twin

SWEEPS = 50
"""Over all pairs at most; a factor through a depthwise convolution needs some to reach the layers around it."""
CONVERGED = 1e-3
"""Largest change of a factor in a sweep, after which it ends."""
LARGEST = 2.0**12
"""Of a channel's factor: a channel that is almost dead must not be blown up to the limits of float32."""

MODULES = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Flatten),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.Upsample),
)
"""Positively homogeneous, channel by channel. ReLU6 is not among them: it cuts off at 6 whatever the scale."""
FUNCTIONS: frozenset[Any] = frozenset(
    {F.relu, torch.relu, torch.relu_, F.leaky_relu, F.prelu, F.dropout, F.dropout2d, torch.flatten}
    | {F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d}
    | {torch.max_pool1d, torch.max_pool2d, torch.max_pool3d, torch.avg_pool1d, F.interpolate}
    | {F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d}
    | {F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d}
)
METHODS = frozenset({"relu", "relu_", "flatten", "contiguous", "view", "reshape"})
SHAPES = frozenset({"size", "dim"})
"""Methods that read nothing of a tensor but its shape."""


class Pair(NamedTuple):
    """Two layers' modules, and nothing but homogeneous things between them."""

    first: str
    second: str


@dataclass(frozen=True, eq=False)
class _Ends:
    """The weights of a pair as rows per channel that both share."""

    first: Callable[[], Tensor]
    """The largest absolute weight that makes each channel."""
    second: Callable[[], Tensor]
    """The largest absolute weight that reads each channel."""
    scale: Callable[[Tensor], None]
    """Divides the first by a factor per channel, and multiplies the second with it."""


def equalized(
    model: nn.Module, layers: Mapping[str, Layer], example: Inputs, output: Output = None
) -> dict[str, Tensor]:
    """Weights and biases with ranges that are alike, as far as a network's structure lets factors pass.

    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.1:
    ``s = sqrt(r1 / r2)`` per channel, pair after pair until nothing changes. What is rewritten is run on the
    example, and undone where the output changed.

    Args:
        model: In evaluation mode; left as it is.
        layers: Its layers.
        example: A batch.
        output: Which part of the model's output counts.

    Returns:
        What takes the place of the model's own, by their names in its state; empty where no factor can pass.
    """
    pairs = find_pairs(model, layers, example)
    if not pairs:
        return {}
    wanted = outputs_of(model, example, output)
    made = rescaled(model, pairs)
    if not agrees(made, example, output, wanted):
        kept: list[Pair] = []
        for pair in pairs:  # one at a time, and only those that change nothing
            if agrees(rescaled(model, [*kept, pair]), example, output, wanted):
                kept.append(pair)
        pairs, made = kept, rescaled(model, kept)
    weights = {}
    for layer in layers.values():
        if any(layer.sites == (name,) for pair in pairs for name in pair):
            module = made.get_submodule(layer.sites[0])
            for name, own in ((layer.weight_name, module.weight), (layer.bias_name, module.bias)):
                if name:
                    weights[name] = own.detach()  # type: ignore[operator]
    return weights


def find_pairs(model: nn.Module, layers: Mapping[str, Layer], example: Inputs) -> list[Pair]:
    """Layers whose output goes to one other layer alone, through homogeneous things; none where torch.fx cannot trace.

    Args:
        model: In evaluation mode.
        layers: Its layers by name.
        example: A batch.
    """
    graph = traced(model, layers, example)
    if graph is None:
        return []
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    own = {}
    for layer in layers.values():
        if len(layer.sites) == 1 and not layer.functional and layer.weight is not None:
            site = layer.sites[0]
            module = model.get_submodule(site)
            plain = isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)) and layer.weight is module.weight
            if plain and called.count(site) == 1:
                own[site] = module
    pairs = []
    for node in graph.nodes:
        if node.op == "call_module" and node.target in own:
            reader = _reader(model, node, set(own))
            if reader is not None and _ends(own[str(node.target)], own[reader]) is not None:
                pairs.append(Pair(str(node.target), reader))
    return pairs


def rescaled(model: nn.Module, pairs: Sequence[Pair]) -> nn.Module:
    """A twin in which the layers of pairs are equalised.

    Args:
        model: Left as it is.
        pairs: Whose layers fit each other.
    """
    with torch.inference_mode(False), torch.no_grad():  # the exporter takes no tensors made in inference mode
        return _rescaled(model, pairs)


def _rescaled(model: nn.Module, pairs: Sequence[Pair]) -> nn.Module:
    made = twin(model)
    names = dict.fromkeys(name for pair in pairs for name in (pair.first, pair.second))
    modules: dict[str, nn.Module] = {}
    for name in names:
        old = made.get_submodule(name)
        modules[name] = substituted(old, {n: p.detach().clone() for n, p in old.named_parameters(recurse=False)})
        exchange(made, old, modules[name])
    ends = [_ends(modules[pair.first], modules[pair.second]) for pair in pairs]
    total = [torch.ones(()) for _ in pairs]
    for _ in range(SWEEPS):
        largest = 0.0
        for index, end in enumerate(ends):
            if end is None:
                continue
            ones, others = end.first(), end.second()
            usable = (ones > 0) & (others > 0) & torch.isfinite(ones) & torch.isfinite(others)
            factor = torch.where(usable, (ones / others).sqrt(), torch.ones_like(ones))
            # bounded over all sweeps together
            factor = (total[index] * factor).clamp(1 / LARGEST, LARGEST) / total[index]
            total[index] = total[index] * factor
            end.scale(factor)
            largest = max(largest, float(factor.log().abs().max()))
        if largest < CONVERGED:
            break
    return made


def _reader(model: nn.Module, node: fx.Node, layers: set[str]) -> str | None:
    """The layer that alone reads a node's value."""
    while True:
        users = [user for user in node.users if not _looks_at_shape(user)]
        if len(users) != 1 or users[0].op == "output":
            return None
        user = users[0]
        if user.op == "call_module" and user.target in layers:
            return str(user.target) if user.args[:1] == (node,) and len(user.all_input_nodes) == 1 else None
        if not _homogeneous(model, user, node):
            return None
        node = user


def _looks_at_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in SHAPES
    return node.op == "call_function" and node.target is getattr and node.args[1] in ("shape", "dtype", "device")


def _homogeneous(model: nn.Module, node: fx.Node, value: fx.Node) -> bool:
    if node.args[:1] != (value,):
        return False
    if node.op == "call_module":
        return type(model.get_submodule(str(node.target))) in MODULES
    if node.op == "call_method":
        return node.target in METHODS or (node.target == "mean" and _over_positions(node))
    return node.target in FUNCTIONS or (node.target is torch.mean and _over_positions(node))


def _over_positions(node: fx.Node) -> bool:
    """Whether a mean leaves examples and channels as they are."""
    axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    axes = (axes,) if isinstance(axes, int) else axes
    return isinstance(axes, tuple | list) and all(isinstance(axis, int) and axis not in (0, 1) for axis in axes)


def _ends(first: nn.Module, second: nn.Module) -> _Ends | None:
    """How the channels of two layers meet; None where their numbers do not fit."""
    channels = _outputs(first).shape[:2].numel()
    columns = _inputs(second).shape[:2].numel()
    if columns != channels and (columns % channels or not isinstance(second, nn.Linear)):
        return None

    def made() -> Tensor:
        return _outputs(first)

    def read() -> Tensor:
        found = _inputs(second)
        # a Linear layer behind a flattening reads each channel at several places, one after the other
        return found if columns == channels else found.unflatten(1, (channels, -1))

    def scale(factor: Tensor) -> None:
        for weight, change in ((made(), factor.reciprocal()), (read(), factor)):
            weight.mul_(change.reshape(*weight.shape[:2], *(1,) * (weight.dim() - 2)))
        if isinstance(first.bias, Tensor):
            first.bias.div_(factor)

    return _Ends(lambda: _largest(made()), lambda: _largest(read()), scale)


def _largest(weight: Tensor) -> Tensor:
    return weight.abs().flatten(2).amax(2).flatten()


def _outputs(layer: nn.Module) -> Tensor:
    """A view of a weight whose first two axes are groups and the output channels of each."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    if isinstance(layer, TRANSPOSED):  # (inputs, outputs / groups, ...)
        return weight.unflatten(0, (layer.groups, -1)).transpose(1, 2)
    return weight[None]


def _inputs(layer: nn.Module) -> Tensor:
    """A view of a weight whose first two axes are groups and the input channels of each."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    if isinstance(layer, CONVOLUTIONS):  # (outputs, inputs / groups, ...)
        return weight.unflatten(0, (layer.groups, -1)).transpose(1, 2)
    return weight[None] if isinstance(layer, TRANSPOSED) else weight.t()[None]
