"""What runs in a process of its own, where a runtime is tried on a model that it has not seen.

`isolation` starts it as ``python -c "from workbench.runtimes.trial import main; main()"`` and keeps it for the next
trials, since most of the time goes into starting.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from workbench.errors import WorkbenchError
from workbench.grid import QuantizedLayer
from workbench.helper_process import answers
from workbench.inputs import Inputs
from workbench.recipe import Deployment
from workbench.runtimes.base import Runtime
from workbench.runtimes.graph import ExportedGraph


@dataclass(frozen=True)
class Shipped:
    """A `Source` that fits through a pipe: the graph is all there is of the model."""

    graph: ExportedGraph
    example: Inputs
    graph_only: bool = True
    output: None = None
    """The graph has the one output that is measured."""

    @property
    def module(self) -> nn.Module:
        """It stayed behind.

        Raises:
            WorkbenchError: Always.
        """
        raise WorkbenchError("In a trial there is the graph of a model and no module.")


@dataclass(frozen=True)
class Trial:
    """What is tried."""

    runtime: Runtime
    source: Shipped
    layers: Mapping[str, QuantizedLayer]
    deployment: Deployment

    def run(self) -> None:
        """Prepare the model, run a batch of the deployment's size.

        Raises:
            Exception: Whatever the runtime raises.
        """
        prepared = self.runtime.prepare(self.source, self.layers, self.deployment)
        prepared.run(self.source.example.cycled(self.deployment.batch))


def main() -> None:
    """For every line of the input, a folder: try what is there, and answer; a crash is an answer too."""
    file = answers()
    for line in sys.stdin:
        print(json.dumps(_tried(Path(line.rstrip("\n")))), file=file, flush=True)


def _tried(path: Path) -> str | None:
    """Why a trial in a file failed; None where it did not."""
    try:
        with path.open("rb") as file:  # our parent wrote it a moment ago
            sys.path[:] = pickle.load(file)  # noqa: S301 - a runtime's own module may be there
            trial: Trial = pickle.load(file)  # noqa: S301
        trial.run()
    except WorkbenchError as reason:
        return str(reason)
    except Exception as reason:  # runtimes' own errors share no base
        return f"{type(reason).__name__}: {(str(reason).strip().splitlines() or ['no reason is given'])[0][:300]}"
    return None
