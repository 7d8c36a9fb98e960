"""``.xml``: OpenVINO's intermediate representation, with its ``.bin`` beside it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from workbench.errors import WorkbenchError
from workbench.exporting.comparing import Run
from workbench.exporting.onnx_graph import OnnxGraph, fed
from workbench.grid import QuantizedLayer
from workbench.network import Network
from workbench.recipe import Recipe
from workbench.runtimes.dynamic import refusal as dynamic_refusal
from workbench.runtimes.openvino import library, written


class IntermediateRepresentation:
    """Converted from the graph with QDQ nodes. Where a processor has bfloat16, OpenVINO takes it by itself; to get the
    numbers of the recipe, compile with ``INFERENCE_PRECISION_HINT`` set to ``f32``."""

    ending = ".xml"
    program = "openvino"

    def refusal(self, network: Network, layers: Mapping[str, QuantizedLayer]) -> str | None:
        """Where OpenVINO is not here, or there is no such graph."""
        if importlib.util.find_spec("openvino") is None:
            return "OpenVINO writes it, and is not here; pip install openvino."
        reason = dynamic_refusal("openvino") if any(layer.dynamic for layer in layers.values()) else None
        return reason or OnnxGraph().refusal(network, layers)

    def write(
        self,
        path: Path,
        network: Network,
        layers: Mapping[str, QuantizedLayer],
        recipe: Recipe,
    ) -> None:
        """See `Format.write`."""
        openvino = _openvino()
        try:
            model = openvino.Core().read_model(written(network.graph, layers))
        except Exception as error:  # its exceptions share no base
            raise WorkbenchError(f"OpenVINO cannot convert the graph: {_first_line(error)}") from error
        model.set_rt_info(recipe.to_json(), "recipe")
        # else OpenVINO would round inputs by itself where a recipe rounds weights alone
        model.set_rt_info("0", ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
        try:
            openvino.save_model(model, path, compress_to_fp16=False)
        except RuntimeError as error:  # what it says when the disk is full
            raise OSError(f"OpenVINO could not write it ({_first_line(error)}); the disk may be full") from error

    def reload(self, path: Path, network: Network) -> Run:
        """See `Format.reload`."""
        openvino = _openvino()
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            compiled = openvino.Core().compile_model(path, "CPU", settings)
        except Exception as error:  # its exceptions share no base
            raise WorkbenchError(f"{path.name}: OpenVINO cannot load it: {_first_line(error)}") from error
        request = compiled.create_infer_request()
        names = network.graph.inputs
        return lambda batch: torch.from_numpy(request.infer(fed(names, batch))[0].copy())


def _openvino() -> Any:
    try:
        return library()
    except ImportError as error:
        raise WorkbenchError(f"OpenVINO cannot be imported ({error}); pip install openvino.") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
