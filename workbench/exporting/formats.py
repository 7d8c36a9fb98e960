"""What a recipe can be written as. A new format is a file beside these and an entry in `FORMATS`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from workbench.errors import WorkbenchError
from workbench.exporting.comparing import Run
from workbench.exporting.integer_weights import IntegerWeights
from workbench.exporting.intermediate import IntermediateRepresentation
from workbench.exporting.onnx_graph import OnnxGraph
from workbench.exporting.program import Program
from workbench.grid import QuantizedLayer
from workbench.network import Network
from workbench.recipe import Recipe


class Format(Protocol):
    """One way to write a quantized network down, and to run what was written."""

    ending: str
    program: str
    """What reads it again."""

    def refusal(self, network: Network, layers: Mapping[str, QuantizedLayer]) -> str | None:
        """Why a network cannot be written so, in a sentence; None where it can, as far as is known at once."""

    def write(self, path: Path, network: Network, layers: Mapping[str, QuantizedLayer], recipe: Recipe) -> None:
        """Write a file, and what belongs beside it under the same stem.

        Args:
            path: In a folder of its own.
            network: The recipe's.
            layers: Those on grids.
            recipe: What is written.

        Raises:
            WorkbenchError: The network cannot be written so.
            OSError: The disk does not take it.
        """

    def reload(self, path: Path, network: Network) -> Run:
        """Read a file again and make it ready to run, through nothing but the file.

        Args:
            path: That was written.
            network: Says how examples are arguments.

        Raises:
            WorkbenchError: It cannot be read.
        """


FORMATS: tuple[Format, ...] = (OnnxGraph(), Program(), IntermediateRepresentation(), IntegerWeights())


def format_of(path: Path) -> Format:
    """The format that a file's ending names.

    Raises:
        WorkbenchError: None.
    """
    for each in FORMATS:
        if path.suffix.lower() == each.ending:
            return each
    endings = ", ".join(each.ending for each in FORMATS)
    raise WorkbenchError(
        f"{path.name}: the ending says what is written: {endings} are known, and a path without an ending is a folder "
        "with everything that is needed to run the model."
    )


def possible(network: Network, layers: Mapping[str, QuantizedLayer], other: Format) -> str:
    """The end of a refusal: what can be written of a network in the place of another format."""
    working = [each.ending for each in FORMATS if each is not other and each.refusal(network, layers) is None]
    return f"{' and '.join(working)} can be written." if working else "No other format takes it either."
