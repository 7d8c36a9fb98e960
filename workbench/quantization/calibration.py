"""What the inputs of each layer look like on the calibration examples."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.passes import run_through
from workbench.quantization.finding import ProductMode, storage

T = TypeVar("T")

BINS = 2048  # eight per step at 8 bits: the bins' width adds about 1.5 % to a squared error there


@dataclass(frozen=True, eq=False)
class Observation:
    """A histogram of the values that arrived at a layer."""

    centres: Tensor
    """Shape (BINS,); the outermost two are the smallest and the largest value seen."""
    counts: Tensor
    """Shape (BINS,), float32."""


class Later(dict[str, T]):
    """What is known by layer; what is missing is found out when it is asked for."""

    def __init__(self, missing: Iterable[str], find: Callable[[], object]) -> None:
        """
        Args:
            missing: Layers that were not looked at.
            find: Looks at them and updates this.
        """
        super().__init__()
        self.missing = frozenset(missing)
        self._find = find

    def get(self, name: str, default: Any = None) -> Any:
        """What is known of a layer; the default where nothing reached it."""
        if name in self.missing:
            self._find()
        return super().get(name, default)


class Histograms:
    """Histograms of values that are seen twice: first for their ranges, then to be counted."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._low: dict[str, Tensor] = {}
        self._high: dict[str, Tensor] = {}
        self._counts = {name: torch.zeros(BINS) for name in self.names}
        self._masked: set[str] = set()
        """Where infinities or NaN arrived."""

    def widen(self, name: str, x: Tensor) -> None:
        """First pass: make a layer's range hold these values."""
        x = _as_stored(x)
        if not x.numel():
            return
        least, most = torch.aminmax(x)
        if not (math.isfinite(least) and math.isfinite(most)):
            self._masked.add(name)  # no grid reaches what a mask left
            x = x[torch.isfinite(x)]
            if not x.numel():
                return
            least, most = torch.aminmax(x)
        least, most = least.float(), most.float()
        self._low[name] = torch.minimum(self._low.get(name, least), least)
        self._high[name] = torch.maximum(self._high.get(name, most), most)

    def count(self, name: str, x: Tensor) -> None:
        """Second pass: count these values."""
        if name not in self._low:
            return
        x = _as_stored(x).float()
        if name in self._masked:
            x = x[torch.isfinite(x)]
        low, high = self._low[name], self._high[name]
        if high > low:
            self._counts[name] += torch.histc(x, BINS, min=float(low), max=float(high))
        else:
            self._counts[name][0] += x.numel()

    def ends(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The smallest and the largest value of each, known after the first pass."""
        return {name: (low, self._high[name]) for name, low in self._low.items()}

    def made(self) -> dict[str, Observation]:
        """The histograms of what was seen."""
        return {
            name: Observation(_centres(low, self._high[name]), self._counts[name]) for name, low in self._low.items()
        }


@torch.inference_mode()
def observe(
    model: nn.Module,
    layers: Mapping[str, Layer],
    inputs: Inputs,
    batch: int = 128,
    cancel: threading.Event | None = None,
) -> dict[str, Observation]:
    """Run the fp32 model on calibration inputs and look at what reaches its layers.

    Two passes, so that no more than a batch of activations is held: ranges first, then counts.

    Args:
        model: In evaluation mode; left without hooks.
        layers: The layers to watch, by name.
        inputs: The calibration examples.
        batch: How many run at once.
        cancel: Checked before every batch.

    Returns:
        Observations by name, of the layers that something reached.

    Raises:
        Cancelled: `cancel` was set.
    """
    histograms = widened(model, layers, inputs, batch, cancel)
    with watching(model, layers, histograms.count):
        run_through(model, inputs, batch, cancel)
    return histograms.made()


@torch.inference_mode()
def widened(
    model: nn.Module,
    layers: Mapping[str, Layer],
    inputs: Inputs,
    batch: int = 128,
    cancel: threading.Event | None = None,
) -> Histograms:
    """The first pass of `observe` alone; its arguments and errors are the same.

    Returns:
        Histograms that are empty, but know what they span.
    """
    histograms = Histograms(name for name, layer in layers.items() if not layer.activations)
    with watching(model, layers, histograms.widen):
        run_through(model, inputs, batch, cancel)
    return histograms


@contextmanager
def watching(model: nn.Module, layers: Mapping[str, Layer], look: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Calls `look` with every layer's name and input while the model runs in this thread."""
    watched = [layer for layer in layers.values() if not layer.activations]
    thread = threading.get_ident()

    def hook(name: str) -> Callable[[nn.Module, Sequence[Any], Mapping[str, Any]], None]:
        def heard(_: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
            if threading.get_ident() == thread:
                x = first_tensor(args, kwargs)
                if x is not None:
                    look(name, x)

        return heard

    hooks = [
        model.get_submodule(site).register_forward_pre_hook(hook(layer.name), with_kwargs=True)
        for layer in watched
        for site in layer.sites
    ]
    functions = {
        storage(layer.weight): layer.name for layer in watched if layer.functional and layer.weight is not None
    }

    def hear(_: Any, weight: Tensor, other: Tensor, __: Any) -> Tensor:
        name = functions.get(storage(weight))
        if name is not None:
            look(name, other)
        return other

    try:
        if functions:
            with ProductMode(hear):
                yield
        else:
            yield
    finally:
        for each in hooks:
            each.remove()


def first_tensor(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a layer multiplies its weights by: its first argument that holds floating point numbers."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, PackedSequence):
            return value.data
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    return None


def _as_stored(x: Tensor) -> Tensor:
    """The same values in the order of the memory: to look at images in another one, they would be copied first."""
    strides = x.stride()
    return x.permute(sorted(range(x.dim()), key=lambda dimension: -strides[dimension]))


def _centres(low: Tensor, high: Tensor) -> Tensor:
    edges = torch.lerp(low, high, torch.linspace(0, 1, BINS + 1))
    centres = (edges[:-1] + edges[1:]) / 2
    centres[0], centres[-1] = low, high  # exact ends: zero after a ReLU, and what min-max must span
    return centres
