"""What a runtime is: it says whether it is here, prepares a model for a recipe, and runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.outputs import Output
from workbench.runtimes.graph import ExportedGraph


class Source(Protocol):
    """What a runtime can be prepared from."""

    @property
    def module(self) -> nn.Module:
        """The fp32 module, in evaluation mode."""

    @property
    def graph_only(self) -> bool:
        """Whether there is a graph and no torch module."""

    @property
    def output(self) -> Output:
        """Which part of what it returns is measured."""

    @property
    def graph(self) -> ExportedGraph:
        """The fp32 graph; exported when it is first asked for, which takes seconds."""


class Prepared(Protocol):
    """A model that is ready to run."""

    note: str | None
    """What really runs, where that is not what the bits suggest."""
    integer: int
    """How many layers run in integer kernels."""

    def run(self, batch: Inputs) -> Tensor:
        """The output that is measured, for a batch; returns when it is computed."""

    def bound(self, batch: Inputs) -> Callable[[], object]:
        """A call with this batch at hand, to be timed: nothing but the runtime's own work."""


class Runtime(Protocol):
    """One way to execute a model here."""

    name: str

    def unavailable(self) -> str | None:
        """Why it cannot be used here and what to do; None where it can."""

    def devices(self) -> Sequence[str]:
        """Devices that it runs on here."""

    def version(self) -> str:
        """Its library's version."""

    def prepare(self, source: Source, layers: Mapping[str, QuantizedLayer], device: str, threads: int) -> Prepared:
        """Make a model ready.

        Args:
            source: The fp32 model.
            layers: Quantized layers by name; those that are missing stay in fp32.
            device: One of `devices`.
            threads: Within one operator.

        Raises:
            WorkbenchError: The runtime cannot take the model.
        """


def bits_in_words(layers: Mapping[str, QuantizedLayer]) -> str:
    """What is on grids below 8 bits: ``4-bit weights``, ``2- to 4-bit weights and activations``; or nothing."""
    low: dict[str, set[int]] = {
        "weights": {g.bits for layer in layers.values() if (g := layer.weight_grid) and g.bits < 8},
        "activations": {g.bits for layer in layers.values() if (g := layer.activation_grid) and g.bits < 8},
    }
    found = sorted(set().union(*low.values()))
    if not found:
        return ""
    span = f"{found[0]}-bit" if len(found) == 1 else f"{found[0]}- to {found[-1]}-bit"
    return f"{span} {' and '.join(what for what, bits in low.items() if bits)}"


def without_integer_kernels(layers: Mapping[str, QuantizedLayer]) -> str:
    """What lies on grids that no integer kernel multiplies: ``4-bit floats and 2-bit codebooks``; or nothing."""
    found = {grid.words for layer in layers.values() if (grid := layer.weight_grid) and not grid.integer}
    return " and ".join(sorted(found))
