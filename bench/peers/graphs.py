"""Quantizers of exported graphs, each behind two functions: a graph and calibration inputs -> a file -> what runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
"""A batch, by the names of the graph's inputs."""


class GraphJob(NamedTuple):
    """What a peer is given; the same for all of them."""

    exported: Path
    """An fp32 graph (ONNX)."""
    calibration: Sequence[Arrays]
    folder: Path
    """For its files."""
    transformer: bool
    """Some have settings of their own for these."""


class Opened(NamedTuple):
    """A model that is ready for one batch."""

    work: Callable[[], object]
    """One call with the batch at hand: nothing but the runtime's own work."""
    output: Callable[[], NDArray[np.float32]]


class GraphPeer(NamedTuple):
    """A quantizer and the runtime that it is made for."""

    name: str
    runtime: str
    make: Callable[[GraphJob], Path]
    """Quantizes to 8 bits, per channel, with its own recommended settings; gives the file that it wrote."""
    open: Callable[[Path, int, Arrays], Opened]
    """From a file, the threads within an operator, and a batch."""
