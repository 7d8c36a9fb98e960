"""Which channels of a network can change places without changing what it computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from workbench.distillation.students.inheriting import is_depthwise, outputs_of
from workbench.distillation.ties import ties
from workbench.errors import WorkbenchError
from workbench.tracing import running

State = dict[str, Tensor]
CHANNELWISE = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.PReLU)
SAME = 1e-5
"""Outputs that differ by less, against the largest of them, are those of another order of the same sums."""


class Place(NamedTuple):
    """Where channels lie along an axis of a tensor."""

    tensor: str
    """Its name in the network's state."""
    axis: int
    positions: Tensor
    """Of each channel, shape (channels, k): behind a flattened picture a channel has many."""


class Symmetry(NamedTuple):
    """Channels that can be put in any order, as long as it is done in all these places."""

    channels: int
    places: tuple[Place, ...]

    def permuted(self, state: Mapping[str, Tensor], order: Tensor) -> State:
        """The state of the same function with the channels in another order.

        Args:
            state: Left as it is.
            order: Which channel comes to each place, shape (channels,).
        """
        made = dict(state)
        for tensor, axis, positions in self.places:
            index = torch.arange(made[tensor].shape[axis])
            index[positions.flatten()] = positions[order].flatten()
            made[tensor] = made[tensor].index_select(axis, index)
        return made

    def rows(self, state: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
        """All values that belong to each channel, shape (channels, values), float64.

        Args:
            state: Of the network.
            names: Of the tensors that count.
        """
        parts = [
            state[tensor].double().movedim(axis, 0)[positions].flatten(1)
            for tensor, axis, positions in self.places
            if tensor in names
        ]
        return torch.cat(parts, 1)


@torch.no_grad()
def symmetries(model: nn.Module, example: Tensor) -> tuple[Symmetry, ...]:
    """Find the sets of channels by running the model, and keep those whose order is seen not to matter.

    Layers whose outputs meet share a set. Where a set's channels arrive is seen by marking them with NaN, a run for
    each set and one for each bit of a channel's number. A set whose places would be found wrongly, or that a layer
    tells apart (groups, attention heads), changes the outputs when it is put in another order, and is left out.

    Args:
        model: Takes one tensor and returns one; left as it is.
        example: A batch of its inputs, shape (n, ...), floating point.

    Raises:
        WorkbenchError: The model does not run on the example.
    """
    with torch.inference_mode(False):
        model = copy.deepcopy(model).eval().requires_grad_(False)
        layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, _ConvNd, *CHANNELWISE))}
        choosers = {name for name, module in layers.items() if _sets_width(module)}
        if not choosers:
            return ()
        with torch.enable_grad(), running():
            tied = ties(model, layers, choosers, example.detach().clone())
        sets: dict[int, list[str]] = {}
        for name, number in tied.sets.items():
            if name not in tied.fixed:
                sets.setdefault(number, []).append(name)
        free = [names for names in sets.values() if len({outputs_of(layers[name]) for name in names}) == 1]
        arrivals = _arrivals(model, layers, free, example)
        found = (_symmetry(layers, names, arrivals, number) for number, names in enumerate(free))
        return tuple(each for each in found if each is not None and _harmless(model, each, example))


def _sets_width(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, _ConvNd) and not is_depthwise(module))


class _Arrived(NamedTuple):
    """What comes to a layer, by its position among the layer's inputs."""

    set: Tensor
    """Number of the set, or -1."""
    channel: Tensor


def _arrivals(
    model: nn.Module, layers: Mapping[str, nn.Module], sets: Sequence[Sequence[str]], example: Tensor
) -> dict[str, _Arrived]:
    """Where the channels of each set come to.

    Args:
        model: In evaluation mode.
        layers: By name, all that have values for channels.
        sets: Names of the layers that make each set's channels.
        example: A batch of inputs.
    """
    counts = [outputs_of(layers[names[0]]) for names in sets]
    found: dict[str, _Arrived] = {}
    for number, names in enumerate(sets):
        everything = torch.ones(counts[number], dtype=torch.bool)
        for name, seen in _marked(model, layers, dict.fromkeys(names, everything), example).items():
            own = found.setdefault(name, _Arrived(torch.full(seen.shape, -1), torch.zeros(seen.shape).long()))
            own.set[seen] = number
    for bit in range(max(counts, default=0).bit_length()):
        ones = [(torch.arange(count) >> bit & 1).bool() for count in counts]
        marks = {name: ones[number] for number, names in enumerate(sets) for name in names}
        for name, seen in _marked(model, layers, marks, example).items():
            found[name].channel[seen] += 1 << bit
    return found


def _marked(
    model: nn.Module, layers: Mapping[str, nn.Module], marks: Mapping[str, Tensor], example: Tensor
) -> dict[str, Tensor]:
    """Run a model with some channels NaN: which inputs of each layer were.

    Args:
        model: In evaluation mode.
        layers: By name. What comes to them is noted and cleaned, and marked again behind layers that keep channels.
        marks: Channels that are marked behind the layers that make them, shape (channels,).
        example: A batch of inputs.
    """
    seen: dict[str, Tensor] = {}

    def enter(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            axis = _axis(module, args[0])
            seen.setdefault(name, args[0].isnan().movedim(axis, -1).flatten(0, -2).any(0))
            return (args[0].nan_to_num(), *args[1:])

        return hook

    def leave(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Tensor) -> Tensor:
            mark = marks.get(name)
            if mark is None:
                if _sets_width(module):
                    return output
                mark = seen[name].repeat_interleave(output.shape[_axis(module, output)] // len(seen[name]))
            shape = [1] * output.dim()
            shape[_axis(module, output)] = -1
            return output.masked_fill(mark.reshape(shape), torch.nan)

        return hook

    hooks = []
    for name, module in layers.items():
        hooks += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave(name))]
    try:
        with running():
            model(example.detach().clone())
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _axis(module: nn.Module, x: Tensor) -> int:
    """Of the channels."""
    if isinstance(module, _ConvNd):
        return x.dim() - 1 - len(module.kernel_size)
    return x.dim() - 1 if isinstance(module, nn.Linear | nn.LayerNorm) else 1


def _symmetry(
    layers: Mapping[str, nn.Module], makers: Sequence[str], arrivals: Mapping[str, _Arrived], number: int
) -> Symmetry | None:
    """The places of a set; None where its channels do not all come as often."""
    channels = outputs_of(layers[makers[0]])
    places: list[Place] = []
    for name, module in layers.items():
        if name in makers:
            rows = torch.arange(channels)[:, None]
            places += [Place(f"{name}.weight", _leaving(module), rows), *_others(name, module, rows)]
        if name not in arrivals or not bool((arrivals[name].set == number).any()):
            continue
        here = (arrivals[name].set == number).nonzero().flatten()
        order = arrivals[name].channel[here].argsort(stable=True)
        if len(here) % channels or not torch.equal(
            arrivals[name].channel[here][order], torch.arange(channels).repeat_interleave(len(here) // channels)
        ):
            return None
        positions = here[order].reshape(channels, -1)
        if _sets_width(module):
            if getattr(module, "groups", 1) > 1:
                return None
            places.append(Place(f"{name}.weight", 1 - _leaving(module), positions))
        elif isinstance(module, _ConvNd):
            each = module.out_channels // module.in_channels
            leaving = (positions[..., None] * each + torch.arange(each)).flatten(1)
            weight = positions if isinstance(module, _ConvTransposeNd) else leaving
            places += [Place(f"{name}.weight", 0, weight), *_others(name, module, leaving)]
        elif not isinstance(module, nn.PReLU) or module.num_parameters > 1:
            values = [key for key in ("weight",) if isinstance(getattr(module, key, None), Tensor)]
            places += [*(Place(f"{name}.{key}", 0, positions) for key in values), *_others(name, module, positions)]
    return Symmetry(channels, tuple(places))


def _others(name: str, module: nn.Module, positions: Tensor) -> list[Place]:
    """What a layer has for each channel beside its weight."""
    keys = ("bias", "running_mean", "running_var")
    return [Place(f"{name}.{key}", 0, positions) for key in keys if isinstance(getattr(module, key, None), Tensor)]


def _leaving(module: nn.Module) -> int:
    """Axis of a weight along which the outputs lie."""
    return 1 if isinstance(module, _ConvTransposeNd) else 0


def _harmless(model: nn.Module, symmetry: Symmetry, example: Tensor) -> bool:
    """Whether the outputs stay when the channels change places."""
    order = torch.randperm(symmetry.channels, generator=torch.Generator().manual_seed(0))
    if symmetry.channels > 1 and torch.equal(order, torch.arange(symmetry.channels)):
        order = order.roll(1)
    changed = copy.deepcopy(model)
    try:
        changed.load_state_dict(symmetry.permuted(model.state_dict(), order))
    except (KeyError, IndexError, RuntimeError):  # a tensor of another name or form than layers of its kind have
        return False
    with running():
        before, after = (each(example.detach().clone()) for each in (model, changed))
    if not isinstance(before, Tensor):
        raise WorkbenchError(f"{type(model).__name__} returns a {type(before).__name__}; one tensor is needed.")
    return bool((before - after).abs().max() <= SAME * before.abs().max())
