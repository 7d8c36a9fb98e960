"""Second moments of what each layer multiplies its weights by, on the calibration examples."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.passes import run_through
from workbench.quantization.calibration import first_tensor
from workbench.quantization.finding import CONVOLUTIONS

POSITIONS = (1024, 16_384)
"""Of a layer's input, drawn over all calibration examples: a convolution has thousands in one picture."""
POSITIONS_PER_INPUT = 16
"""Between these: a covariance of n values needs many times n samples."""
WIDEST = 8192
"""Inputs of one output at most; the moments of a wider layer would not fit into memory (n squared numbers)."""
MOMENT_BYTES = 256 * 2**20
"""Memory for moments. Where all layers' do not fit, the model runs again for the next ones."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the n values that one output of a layer is a weighted sum of; groups of a convolution have their own."""

    second: Tensor
    """float32, shape (groups, n, n): the mean of x x^T, over the positions that were drawn."""
    drawn: Tensor
    """float32, shape (groups, n): the mean over the same positions."""
    mean: Tensor
    """float32, shape (groups, n): over all positions."""

    @property
    def covariance(self) -> Tensor:
        """What is left of `second` where the bias follows the weights' change."""
        return self.second - self.drawn[:, :, None] * self.drawn[:, None, :]


Collect = Callable[[Sequence[Layer], threading.Event | None], Mapping[str, Moments]]


class MomentStore:
    """Moments by layer, collected for several layers in one run and forgotten when others need the room."""

    def __init__(self, layers: Mapping[str, Layer], modules: Mapping[str, nn.Module], collect: Collect) -> None:
        """
        Args:
            layers: In the order in which they are probably asked for.
            modules: Those of the model, by name.
            collect: See `collected`.
        """
        self._sizes = {
            name: 4 * shape[0] * shape[1] ** 2
            for name, layer in layers.items()
            if (shape := problem_shape(layer, modules)) is not None
        }
        self._layers = layers
        self._collect = collect
        self._held: OrderedDict[str, Moments] = OrderedDict()
        self._one = threading.RLock()  # two runs at once would take twice the memory

    def has(self, name: str) -> bool:
        """Whether a layer has moments at all."""
        return name in self._sizes

    def get(self, name: str, cancel: threading.Event | None = None) -> Moments:
        """The moments of a layer.

        Raises:
            KeyError: It has none.
            Cancelled: `cancel` was set.
        """
        with self._one:
            if name not in self._held:
                names = list(self._sizes)
                wanted: list[str] = []
                room = MOMENT_BYTES
                for other in names[names.index(name) :] if name in self._sizes else []:
                    room -= self._sizes[other]
                    if wanted and room < 0:
                        break
                    if other not in self._held:
                        wanted.append(other)
                found = self._collect([self._layers[other] for other in wanted], cancel)
                self._held.update(found)
                total = sum(self._sizes[other] for other in self._held)
                for other in list(self._held):
                    if total <= MOMENT_BYTES or other in found:
                        break
                    total -= self._sizes[other]
                    del self._held[other]
            return self._held[name]


def problem_shape(layer: Layer, modules: Mapping[str, nn.Module]) -> tuple[int, int] | None:
    """Groups and inputs of one output; None where a layer is not a sum over its input that is known here.

    Linear layers and convolutions are, which nothing but their modules uses.
    """
    if layer.weight is None or layer.weights or layer.functional or layer.axis != 0 or not layer.sites:
        return None
    used = [modules[site] for site in layer.sites]
    if not all(isinstance(module, (nn.Linear, *CONVOLUTIONS)) for module in used):
        return None
    groups = {int(getattr(module, "groups", 1)) for module in used}
    n = layer.weight[0].numel()
    return (groups.pop(), n) if len(groups) == 1 and n <= WIDEST else None


@torch.inference_mode()
def collected(
    model: nn.Module,
    layers: Sequence[Layer],
    inputs: Inputs,
    batch: int,
    cancel: threading.Event | None = None,
) -> dict[str, Moments]:
    """Run the fp32 model on calibration inputs and sum up what reaches its layers.

    Args:
        model: In evaluation mode; left without hooks.
        layers: Those with a `problem_shape`.
        inputs: The calibration examples.
        batch: How many run at once.
        cancel: Checked before every batch.

    Returns:
        Moments by name; where nothing reached a layer, those of inputs that are independent and alike.

    Raises:
        Cancelled: `cancel` was set.
    """
    thread = threading.get_ident()
    random = torch.Generator().manual_seed(0)
    modules = dict(model.named_modules())
    sums: dict[str, list[Any]] = {}
    shapes = {layer.name: problem_shape(layer, modules) or (1, 1) for layer in layers}
    least, largest = POSITIONS
    most = {
        name: math.ceil(min(max(least, POSITIONS_PER_INPUT * n), largest) * min(1.0, batch / max(len(inputs), 1)))
        for name, (_, n) in shapes.items()
    }

    def hook(name: str, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        x = first_tensor(args, kwargs) if threading.get_ident() == thread else None
        if x is None or not x.numel():
            return
        seen = patches(module, x, most[name], random).float().nan_to_num(0, 0, 0)
        total, count = summed(module, x)
        new = (seen.shape[1], seen.transpose(1, 2) @ seen, seen.sum(1), count, total.float().nan_to_num(0, 0, 0))
        held = sums.get(name)
        sums[name] = list(new) if held is None else [one + other for one, other in zip(held, new, strict=True)]

    hooks = [
        modules[site].register_forward_pre_hook(
            lambda module, args, kwargs, name=layer.name: hook(name, module, args, kwargs), with_kwargs=True
        )
        for layer in layers
        for site in layer.sites
    ]
    run_through(model, inputs, batch, cancel, hooks)
    made = {
        name: Moments(second / drawn, first / drawn, total / count)
        for name, (drawn, second, first, count, total) in sums.items()
    }
    for layer in layers:
        if layer.name not in made:
            groups, n = shapes[layer.name]
            nothing = torch.zeros(groups, n)
            made[layer.name] = Moments(torch.eye(n).expand(groups, n, n), nothing, nothing)
    return made


def patches(module: nn.Module, x: Tensor, most: int, random: torch.Generator) -> Tensor:
    """What a layer multiplies its rows by, at some of its output's positions.

    Args:
        module: A Linear layer or a convolution.
        x: Its input.
        most: Positions at most; others are drawn where there are more.
        random: Draws them.

    Returns:
        Shape (groups, positions, n), n in the order of a row of the weight.
    """
    if isinstance(module, nn.Linear):
        flat = x.reshape(-1, x.shape[-1])
        return flat[_drawn(len(flat), most, random)][None]
    windows = _windows(module, x)
    where = windows.shape[: windows.dim() // 2]  # examples and positions; channels and the kernel follow
    drawn = _drawn(where.numel(), most, random)
    seen = windows[unravelled(drawn, where)]
    return seen.reshape(len(drawn), _groups(module), -1).transpose(0, 1)


def unravelled(places: Tensor, shape: Sequence[int]) -> tuple[Tensor, ...]:
    """Indices by axis of places in a tensor in row-major order.

    As `torch.unravel_index`, which imports sympy when it is first called: seconds in which no cancel is heard.
    """
    indices = []
    for size in reversed(shape):
        indices.append(places % size)
        places = places // size
    return tuple(reversed(indices))


def summed(module: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """The sum of `patches` over all positions, shape (groups, n), and how many there are."""
    if isinstance(module, nn.Linear):
        flat = x.reshape(-1, x.shape[-1])
        return flat.sum(0)[None], len(flat)
    spatial = len(module.kernel_size)  # type: ignore[arg-type]
    batch = x if x.dim() == spatial + 2 else x[None]
    # padding and windows are linear, so that the examples can be added first
    windows = _windows(module, batch.sum(0, keepdim=True))
    positions = tuple(range(spatial + 1))
    total = windows.sum(positions).reshape(_groups(module), -1)
    return total, len(batch) * windows.shape[1 : spatial + 1].numel()


def _windows(module: nn.Module, x: Tensor) -> Tensor:
    """What a convolution sees, as a view: shape (examples, *positions, channels, *kernel)."""
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise TypeError(f"{type(module).__name__} has no patches")
    spatial = len(module.kernel_size)
    if x.dim() == spatial + 1:
        x = x[None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    windows = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    for axis, (size, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True), start=2
    ):
        windows = windows.unfold(axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    return windows.movedim(1, spatial + 1)


def _groups(module: nn.Module) -> int:
    return int(getattr(module, "groups", 1))


def _drawn(count: int, most: int, random: torch.Generator) -> Tensor:
    if count <= most:
        return torch.arange(count)
    return torch.randint(count, (most,), generator=random)
