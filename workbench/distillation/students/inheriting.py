"""A narrower student's first weights: the model's, of the channels that matter most."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from workbench.tracing import running


class Cut(NamedTuple):
    """How many of a layer's channels a student has."""

    of: int
    left: int
    blocks: int
    """Equal runs of channels, each of which keeps as many."""


class _Ends(NamedTuple):
    """Channels of the model that come to a layer, and leave it, in the student."""

    entering: Tensor
    leaving: Tensor


def is_depthwise(module: _ConvNd) -> bool:
    """Whether each output channel is made of one input channel."""
    return 1 < module.groups == module.in_channels


def outputs_of(module: nn.Module) -> int:
    """Channels that leave a Linear layer or a convolution."""
    return int(getattr(module, "out_features", 0) or getattr(module, "out_channels", 0))


@torch.no_grad()
def inherit(
    student: nn.Module,
    model: nn.Module,
    layers: Sequence[str],
    cuts: Mapping[str, Cut],
    sets: Mapping[str, int],
    example: Tensor,
) -> tuple[str, ...]:
    """Give a narrower student the model's weights.

    Of each layer, the filters with the largest L1 norm are kept (Li et al., "Pruning Filters for Efficient
    ConvNets", 2017), of layers whose outputs meet by the sum of their norms; the layers behind take the weights
    that belong to them. Which of its inputs these are is seen in a run of the model in which the other channels
    are NaN: whatever the model does with its channels, NaN arrives where they do.

    Args:
        student: Gets the values.
        model: Left as it is.
        layers: Names of those that have values to give.
        cuts: Of the layers that choose their width.
        sets: Which of these have to keep the same channels.
        example: A batch of inputs, shape (n, ...).

    Returns:
        Layers that keep the student's own values, because what arrives at them does not match.
    """
    kept = _chosen(model, cuts, sets)
    with torch.inference_mode(False), running():
        ends = _followed(copy.deepcopy(model).eval(), layers, kept, example.detach().clone())
    fresh = []
    for name in ends:  # layers that are never called were not made anew
        ours, theirs = student.get_submodule(name), model.get_submodule(name)
        values = _values(theirs, ours, ends[name])
        if values is None or any(value.shape != getattr(ours, key).shape for key, value in values.items()):
            fresh.append(name)
            continue
        for key, value in values.items():
            getattr(ours, key).copy_(value)
    return tuple(fresh)


def _chosen(model: nn.Module, cuts: Mapping[str, Cut], sets: Mapping[str, int]) -> dict[str, Tensor]:
    """Channels that each layer keeps, ascending."""
    norms: dict[tuple[int, Cut], Tensor] = {}
    for name, cut in cuts.items():
        module = model.get_submodule(name)
        weight = module.weight
        assert isinstance(weight, Tensor)  # noqa: S101 - narrows the type
        if isinstance(module, _ConvTransposeNd):  # (inputs, outputs / groups, window)
            weight = weight.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(0, 1)
        norm = weight.detach().abs().flatten(1).sum(1)
        norm = norm / norm.mean().clamp_min(torch.finfo(norm.dtype).tiny)
        key = (sets[name], cut)
        norms[key] = norms[key] + norm if key in norms else norm
    found = {}
    for key, norm in norms.items():
        blocks = norm.unflatten(0, (key[1].blocks, -1))
        best = blocks.argsort(dim=1, descending=True, stable=True)[:, : key[1].left // key[1].blocks].sort(1).values
        found[key] = (best + blocks.shape[1] * torch.arange(len(blocks))[:, None]).flatten()
    return {name: found[sets[name], cut] for name, cut in cuts.items()}


def _followed(model: nn.Module, layers: Sequence[str], kept: Mapping[str, Tensor], example: Tensor) -> dict[str, _Ends]:
    """Run a model in which channels that are not kept are NaN, and see where they arrive."""
    ends: dict[str, _Ends] = {}
    hooks = []
    for name in layers:
        module = model.get_submodule(name)

        def enter(module: nn.Module, args: tuple[Tensor, ...], *, name: str = name) -> tuple[Tensor, ...]:
            axis = _axis(module, args[0])
            lost = args[0].isnan().movedim(axis, -1).flatten(0, -2).any(0)
            entering = (~lost).nonzero().flatten()
            leaving = kept.get(name, entering)
            if isinstance(module, _ConvNd) and is_depthwise(module):
                each = module.out_channels // module.in_channels
                leaving = (entering[:, None] * each + torch.arange(each)).flatten()
            if isinstance(module, nn.LayerNorm):
                dims = tuple(range(args[0].dim() - len(module.normalized_shape)))
                entering = (~args[0].isnan().any(dims)).flatten().nonzero().flatten()
            ends.setdefault(name, _Ends(entering, leaving))
            return (args[0].nan_to_num(), *args[1:])

        def leave(module: nn.Module, _: Any, output: Tensor, *, name: str = name) -> Tensor:
            axis = _axis(module, output)
            marked = torch.full_like(output, torch.nan)
            index = ends[name].leaving
            return marked.index_copy(axis, index, output.index_select(axis, index))

        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return ends


def _axis(module: nn.Module, x: Tensor) -> int:
    """Of the channels."""
    if isinstance(module, _ConvNd):
        return x.dim() - 1 - len(module.kernel_size)
    return x.dim() - 1 if isinstance(module, nn.Linear | nn.LayerNorm) else 1


def _values(module: nn.Module, smaller: nn.Module, ends: _Ends) -> dict[str, Tensor] | None:
    """A model's layer's values for the student's layer; None where its channels do not match."""
    if isinstance(module, nn.Linear | _ConvNd):
        if isinstance(module, nn.Linear):
            weight: Tensor | None = module.weight[ends.leaving][:, ends.entering]
        else:
            weight = _convolution(module, smaller, ends)
        if weight is None:
            return None
        return {"weight": weight} | ({} if module.bias is None else {"bias": module.bias[ends.leaving]})
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return {"weight": module.weight}
    values = {key: getattr(module, key).flatten()[ends.entering] for key in _own(module)}
    if isinstance(module, nn.LayerNorm):  # over several dimensions, what is kept need not be a box of them
        fits = all(value.numel() == getattr(smaller, key).numel() for key, value in values.items())
        return {key: v.reshape(getattr(smaller, key).shape) for key, v in values.items()} if fits else None
    if isinstance(module, _NormBase) and module.num_batches_tracked is not None:
        values["num_batches_tracked"] = module.num_batches_tracked
    return values


def _own(module: nn.Module) -> list[str]:
    """Names of a layer's tensors that have a value for each channel."""
    names = ("weight", "bias", "running_mean", "running_var")
    return [key for key in names if isinstance(getattr(module, key, None), Tensor)]


def _convolution(module: _ConvNd, smaller: nn.Module, ends: _Ends) -> Tensor | None:
    """The weight, group by group."""
    transposed = isinstance(module, _ConvTransposeNd)
    if is_depthwise(module):
        return module.weight[ends.entering if transposed else ends.leaving]
    groups = module.groups
    if smaller.groups != groups:
        return None
    inputs, outputs = module.in_channels // groups, module.out_channels // groups
    parts = []
    for group in range(groups):
        entering = ends.entering[ends.entering // inputs == group] % inputs
        leaving = ends.leaving[ends.leaving // outputs == group] % outputs
        if len(entering) * groups != len(ends.entering) or len(leaving) * groups != len(ends.leaving):
            return None
        rows = module.weight.narrow(0, group * (inputs if transposed else outputs), inputs if transposed else outputs)
        parts.append(rows[entering][:, leaving] if transposed else rows[leaving][:, entering])
    return torch.cat(parts)
