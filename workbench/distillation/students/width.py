"""The model's form with narrower hidden layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from workbench.distillation.students.inheriting import Cut, inherit, is_depthwise, outputs_of
from workbench.distillation.students.reduced import Reduced
from workbench.distillation.students.shares import shares_of, why_kept
from workbench.distillation.ties import Calls, names_its_layers, ties
from workbench.errors import WorkbenchError
from workbench.tracing import running

SCALABLE = (nn.Linear, _ConvNd, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.PReLU)
Widths = Callable[[str, int], int]
"""(layer, its outputs in the model) -> its outputs in the student."""


def scale_width(model: nn.Module, example: Tensor, width: float, seed: int) -> nn.Module:
    """A new model of the same form in which every hidden layer has a share of the channels: see `narrow`.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> scale_width(model, torch.zeros(1, 8), 0.5, seed=0)[0]
        Linear(in_features=8, out_features=3, bias=True)
    """
    return narrow(model, example, width, seed).module


def narrow(
    model: nn.Module,
    example: Tensor,
    width: float,
    seed: int,
    layers: Mapping[str, float] | None = None,
    initial: Literal["random", "model"] = "random",
) -> Reduced:
    """A new model of the same form in which hidden layers have a share of the channels.

    A copy runs on the example, and each layer is made anew for the channels that really arrive, just before it
    is called: a Linear behind a Flatten follows by itself. The model's outputs keep their number, and so do
    layers that are added to its input or its output. Groups stay as many as divide the new channels.

    Nothing is traced symbolically: `torch.fx` exchanges ``nn.Module.__call__`` for the whole process while it
    traces, which breaks models that run in other threads.

    Args:
        model: Takes one tensor and returns one; it is left as it is.
        example: A batch of its inputs, shape (n, ...), floating point.
        width: Share of the channels, above 0 and at most 1; each layer has at least one.
        seed: Of the initialisation. PyTorch's global random state is left as it is.
        layers: Shares of single layers, by name or wildcard; those whose outputs meet follow them.
        initial: ``model`` copies, where shapes allow, the model's values of the channels with the largest filters.

    Returns:
        Its module is of the same class, in training or evaluation mode like `model`.

    Raises:
        WorkbenchError: The model has a part that cannot be made narrower, or none of a name; it is named.
    """
    for share in (width, *(layers or {}).values()):
        if not 0 < share <= 1:
            raise WorkbenchError(f"width = {share}: it is a share of the model's channels, above 0 and at most 1.")
    with torch.inference_mode(False), torch.enable_grad(), running():
        student = copy.deepcopy(model).eval().requires_grad_(False)
        scalable = _scalable(student)
        example = example.detach().clone()
        tied = ties(student, scalable, {n for n, m in scalable.items() if _sets_width(m)}, example)
    shares = shares_of(tied, width, layers or {})

    def cut(name: str, channels: int) -> Cut:
        return Cut(channels, channels, 1) if name in tied.fixed else _rounded(channels, shares[name], tied.groups[name])

    rebuilding = _Rebuilding(scalable, lambda name, n: cut(name, n).left)
    after = Calls(scalable)
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
        running(),
        rebuilding,
        after,
        names_its_layers(student, "cannot be made narrower"),
    ):
        torch.default_generator.manual_seed(seed)
        output = student(example)
    after.compare(tied.calls, output)
    cuts = {name: cut(name, outputs_of(model.get_submodule(name))) for name in tied.sets}
    fresh: tuple[str, ...] = ()
    if initial == "model":
        fresh = inherit(student, model, list(scalable), cuts, tied.sets, example)
    changed = tuple(name for name, each in cuts.items() if each.left < each.of)
    kept = {name: why_kept(name in tied.fixed, shares[name]) for name in cuts if name not in changed}
    return Reduced(student.train(model.training), changed, kept, fresh)


def _scalable(model: nn.Module) -> dict[str, nn.Module]:
    """Layers by name that can be made anew.

    Raises:
        WorkbenchError: A module has parameters of its own that nobody knows the meaning of.
    """
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        own = {key for key, value in module._parameters.items() if value is not None}
        if isinstance(module, SCALABLE) and own <= {"weight", "bias"} and not hasattr(module, "parametrizations"):
            layers[name] = module
        elif own or hasattr(module, "parametrizations"):
            raise WorkbenchError(
                f"{name or 'The model'} ({type(module).__name__}) cannot be made narrower: it has parameters of its "
                f"own ({', '.join(sorted(own)) or 'parametrized ones'}). Known are Linear, convolutions, "
                "Batch-, Instance-, Group- and LayerNorm, and PReLU."
            )
    if not any(map(_sets_width, layers.values())):
        raise WorkbenchError(f"{type(model).__name__} has no Linear or convolution that could be made narrower.")
    return layers


def _rounded(channels: int, share: float, groups: int) -> Cut:
    """To a multiple of `groups`, or of their largest divisor that is not above the share; at least 1."""
    wanted = channels * share
    multiple = max((d for d in range(1, groups + 1) if groups % d == 0 and d <= wanted), default=1)
    return Cut(channels, multiple * max(1, int(wanted / multiple + 0.5)), multiple)


def _sets_width(module: nn.Module) -> bool:
    """Whether a layer chooses how many channels leave it; a depthwise convolution has as many as arrive."""
    return isinstance(module, nn.Linear) or (isinstance(module, _ConvNd) and not is_depthwise(module))


class _Rebuilding:
    """While entered, each layer is made anew when it is called for the first time."""

    def __init__(self, layers: dict[str, nn.Module], widths: Widths) -> None:
        self._layers = layers
        self._widths = widths
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        for name, module in self._layers.items():
            self._hooks.append(module.register_forward_pre_hook(self._once(name)))

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _once(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        waiting = [name]  # a layer that is called again stays as it was made for its first input

        def hook(module: nn.Module, arriving: tuple[Tensor, ...]) -> None:
            if waiting:
                _rebuild(module, waiting.pop(), tuple(arriving[0].shape), self._widths)

        return hook


def _rebuild(module: nn.Module, name: str, arriving: tuple[int, ...], widths: Widths) -> None:
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = arriving[-1], widths(name, module.out_features)
        _renew(module, weight=(module.out_features, module.in_features), bias=(module.out_features,))
    elif isinstance(module, _ConvNd):
        _rebuild_convolution(module, name, arriving[-1 - len(module.kernel_size)], widths)
    elif isinstance(module, _NormBase):
        n = module.num_features = arriving[1]
        _renew(module, weight=(n,), bias=(n,), running_mean=(n,), running_var=(n,))
    elif isinstance(module, nn.GroupNorm):
        n = module.num_channels = arriving[1]
        module.num_groups = math.gcd(module.num_groups, n)
        _renew(module, weight=(n,), bias=(n,))
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = arriving[-len(module.normalized_shape) :]
        _renew(module, weight=module.normalized_shape, bias=module.normalized_shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = arriving[1] if module.num_parameters > 1 else 1
        _renew(module, weight=(module.num_parameters,))


def _rebuild_convolution(module: _ConvNd, name: str, arriving: int, widths: Widths) -> None:
    if is_depthwise(module):
        module.out_channels = arriving * (module.out_channels // module.in_channels)
        module.groups = arriving
    else:
        module.out_channels = widths(name, module.out_channels)
        module.groups = math.gcd(module.groups, arriving, module.out_channels)
    module.in_channels = arriving
    ends = (module.out_channels, arriving // module.groups)
    if isinstance(module, _ConvTransposeNd):
        ends = (arriving, module.out_channels // module.groups)
    _renew(module, weight=(*ends, *module.kernel_size), bias=(module.out_channels,))


def _renew(module: nn.Module, **shapes: tuple[int, ...]) -> None:
    """New tensors of these shapes in place of those that the layer has, initialised as its class does it."""
    for name, shape in shapes.items():
        old = getattr(module, name, None)
        if old is not None:
            new = old.new_empty(shape)
            setattr(module, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    module.reset_parameters()  # type: ignore[operator]
