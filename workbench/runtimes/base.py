"""What a runtime is: it says whether it is here and what it takes, prepares a model for a recipe, and runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from torch import Tensor, nn

from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.outputs import Output
from workbench.recipe import Deployment
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
    def example(self) -> Inputs:
        """A batch of two."""

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

    @property
    def takes(self) -> Literal["graph", "module"]:
        """What it is prepared from. A graph is tried in another process first, see `isolation`; torch runs the module
        here anyway."""

    @property
    def compiles(self) -> bool:
        """Whether preparing a model takes seconds or more, so that it is not done unless it is asked for."""

    def unavailable(self) -> str | None:
        """Why it cannot be used here and what to do; None where it can."""

    def devices(self) -> Sequence[str]:
        """Devices that it runs on here."""

    def version(self) -> str:
        """Its library's version."""

    def supports(self, deployment: Deployment, source: Source) -> str | None:
        """Why it cannot run a model as a deployment asks for, in words and at once; None as far as can be told.

        Args:
            deployment: On one of `devices`.
            source: The model; nothing of it is exported or run.
        """

    def prepare(self, source: Source, layers: Mapping[str, QuantizedLayer], deployment: Deployment) -> Prepared:
        """Make a model ready. Other batches than the deployment's run as well, perhaps after a while of compiling.

        Args:
            source: The fp32 model.
            layers: Quantized layers by name; those that are missing stay in floating point.
            deployment: One that `supports` has nothing against.

        Raises:
            WorkbenchError: The runtime cannot take the model.
        """


def only_fp32(deployment: Deployment, others: str) -> str | None:
    """What a runtime without bfloat16 kernels says."""
    if deployment.precision == "fp32":
        return None
    return f"{deployment.runtime} has no kernels for {deployment.precision}; choose fp32, or the runtime {others}."


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


def what_runs(
    runtime: str, layers: Mapping[str, QuantizedLayer], integer: int, absent: Sequence[str], floating: str = "fp32"
) -> str | None:
    """What really runs where that is not what the bits suggest, from the kernels that a runtime chose.

    Args:
        runtime: Its name.
        layers: On grids.
        integer: How many of them run in integer kernels.
        absent: Those that the graph has no node for.
        floating: The precision of what is not integer.
    """
    said = _kernels(runtime, layers, integer, floating)
    if absent:
        names = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        said = (
            f"{said or ''} No node of the graph has the weights of {names} as they are: fp32 kernels run there.".strip()
        )
    return said


def _kernels(runtime: str, layers: Mapping[str, QuantizedLayer], integer: int, floating: str) -> str | None:
    uneven = without_integer_kernels(layers)
    if uneven and integer:
        return (
            f"{integer} of {len(layers)} quantized layers run in integer kernels; "
            f"{uneven} run in {floating} kernels here."
        )
    if uneven and any(layer.activation_grid for layer in layers.values()):
        return f"{uneven} run in {floating} kernels here, with rounding between them."
    if uneven:
        return f"{uneven} run in {floating} kernels here."
    if integer >= len(layers):
        low = bits_in_words(layers)
        return f"{low[0].upper()}{low[1:]} run in 8-bit kernels on this machine." if low else None
    if integer:
        return f"{integer} of {len(layers)} quantized layers run in integer kernels here, the others in {floating}."
    if not any(layer.activation_grid for layer in layers.values()):
        return f"Weights alone are quantized: they are unpacked when the model is loaded, and {floating} kernels run."
    return f"{runtime} has no integer kernels for these grids: {floating} kernels run, with rounding between them."
