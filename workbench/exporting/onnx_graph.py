"""``.onnx``: the graph with QDQ nodes and whole-number weights in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.errors import WorkbenchError
from workbench.exporting.comparing import Run
from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.recipe import Recipe
from workbench.runtimes.graph import export_reason
from workbench.runtimes.onnx_runtime import DISABLED, written


class OnnxGraph:
    """Integer kernels take the place of the QDQ nodes wherever a runtime has some."""

    ending = ".onnx"
    program = "onnxruntime"

    def refusal(self, network: Network, layers: Mapping[str, QuantizedLayer]) -> str | None:
        """Where there is no graph, or a layer has no node of its own in it."""
        try:
            absent = sorted(layers.keys() - network.graph.present)
        except WorkbenchError as error:
            return f"the model cannot be exported to ONNX: {full_stop(export_reason(error))}"
        if absent:
            return (
                f"no node of the exported graph has the weights of {', '.join(absent[:5])} as they are; leave these "
                "layers in floating point."
            )
        return None

    def write(
        self,
        path: Path,
        network: Network,
        layers: Mapping[str, QuantizedLayer],
        recipe: Recipe,  # noqa: ARG002 - the graph has the numbers
    ) -> None:
        """See `Format.write`."""
        path.write_bytes(network.graph.quantized(layers) if layers else network.graph.fp32())

    def reload(self, path: Path, network: Network) -> Run:
        """See `Format.reload`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                path, options, ["CPUExecutionProvider"], disabled_optimizers=list(DISABLED)
            )
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise WorkbenchError(f"{path.name}: onnxruntime cannot load it: {error}") from error
        names = network.graph.inputs
        return lambda batch: torch.from_numpy(session.run(None, fed(names, batch))[0])


class OwnGraph(OnnxGraph):
    """For onnxruntime alone: the very graph that is timed, with the operators of its own for 4-bit weights."""

    def write(
        self,
        path: Path,
        network: Network,
        layers: Mapping[str, QuantizedLayer],
        recipe: Recipe,  # noqa: ARG002 - the graph has the numbers
    ) -> None:
        """See `Format.write`."""
        path.write_bytes(written(network.graph, layers)[0])


def fed(names: tuple[str, ...], batch: Inputs) -> dict[str, Any]:
    """A batch under the names of a graph's inputs; an argument that the output does not depend on is not in it."""
    return {
        name: np.ascontiguousarray(tensor.numpy()) for name, tensor in zip(names, batch.tensors, strict=True) if name
    }


def full_stop(text: str) -> str:
    """A sentence of a library's, to which another one is added."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
