"""What the inputs of each layer look like on the calibration examples."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.passes import run_through
from workbench.quantization.finding import ProductMode, storage

BINS = 2048  # eight per step at 8 bits: the bins' width adds about 1.5 % to a squared error there


@dataclass(frozen=True, eq=False)
class Observation:
    """A histogram of the values that arrived at a layer."""

    centres: Tensor
    """Shape (BINS,); the outermost two are the smallest and the largest value seen."""
    counts: Tensor
    """Shape (BINS,), float32."""


class Histograms:
    """Histograms of values that are seen twice: first for their ranges, then to be counted."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._low: dict[str, Tensor] = {}
        self._high: dict[str, Tensor] = {}
        self._counts = {name: torch.zeros(BINS) for name in self.names}

    def widen(self, name: str, x: Tensor) -> None:
        """First pass: make a layer's range hold these values."""
        least, most = torch.aminmax(x)
        self._low[name] = torch.minimum(self._low.get(name, least), least)
        self._high[name] = torch.maximum(self._high.get(name, most), most)

    def count(self, name: str, x: Tensor) -> None:
        """Second pass: count these values."""
        low, high = self._low[name], self._high[name]
        if high > low:
            self._counts[name] += torch.histc(x, BINS, min=float(low), max=float(high))
        else:
            self._counts[name][0] += x.numel()

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
    histograms = Histograms(name for name, layer in layers.items() if not layer.activations)
    for look in (histograms.widen, histograms.count):
        with watching(model, layers, look):
            run_through(model, inputs, batch, cancel)
    return histograms.made()


@contextmanager
def watching(model: nn.Module, layers: Mapping[str, Layer], look: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Calls `look` with every layer's name and input while the model runs in this thread."""
    watched = [layer for layer in layers.values() if not layer.activations]
    thread = threading.get_ident()

    def looked(name: str, x: Tensor) -> None:
        if x.numel() and not all(map(math.isfinite, map(float, torch.aminmax(x)))):
            x = x[torch.isfinite(x)]  # no grid reaches what a mask left; looking at every value takes 20 times as long
        if x.numel():
            look(name, x.float())

    def hook(name: str) -> Callable[[nn.Module, Sequence[Any], Mapping[str, Any]], None]:
        def heard(_: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
            if threading.get_ident() == thread:
                x = first_tensor(args, kwargs)
                if x is not None:
                    looked(name, x)

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
            looked(name, other)
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


def _centres(low: Tensor, high: Tensor) -> Tensor:
    edges = torch.lerp(low, high, torch.linspace(0, 1, BINS + 1))
    centres = (edges[:-1] + edges[1:]) / 2
    centres[0], centres[-1] = low, high  # exact ends: zero after a ReLU, and what min-max must span
    return centres
