"""``.pt2``: a program of `torch.export`, which `torch.export.load` reads without this package."""

from __future__ import annotations

import inspect
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.errors import WorkbenchError
from workbench.exporting.comparing import Run
from workbench.exporting.onnx_graph import full_stop
from workbench.exporting.rounded import Rounded
from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.recipe import Recipe
from workbench.runtimes.graph import export_reason
from workbench.tracing import quiet, running, tracing


class Program:
    """Weights are float32 numbers on their grids; inputs of layers are rounded by plain operators."""

    ending = ".pt2"
    program = "torch.export"

    def refusal(self, network: Network, layers: Mapping[str, QuantizedLayer]) -> str | None:
        """Where there is no torch module, or a function's operand would have to be rounded."""
        if network.graph_only:
            return "the model is an ONNX graph and no torch module."
        if any(layer.dynamic for layer in layers.values()):
            return "ranges that are taken at each call are not written into a program."
        found = [n for n, each in layers.items() if network.layers[n].functional and each.activation_grid is not None]
        if found:
            return f"the inputs of {', '.join(found[:5])}, which functions multiply, cannot be rounded in a program."
        return None

    def write(
        self,
        path: Path,
        network: Network,
        layers: Mapping[str, QuantizedLayer],
        recipe: Recipe,
    ) -> None:
        """See `Format.write`."""
        example = network.example
        module = _Called(Rounded(network, layers).eval(), *_names(network))
        free = torch.export.Dim.DYNAMIC
        shapes = [{0: free, 1: free} if network.ragged and x.dim() > 1 else {0: free} for x in example.tensors]
        try:
            with quiet(), tracing(), torch.no_grad(), torch.random.fork_rng(devices=[]):
                program = torch.export.export(
                    module,
                    tuple(x.contiguous() for x in example.positional),  # type: ignore[union-attr]
                    dict(example.named),
                    dynamic_shapes=dict(zip(module.names, shapes, strict=True)),
                    strict=False,
                )
                content = io.BytesIO()
                torch.export.save(program, content, extra_files={"recipe.json": recipe.to_json()})
        except Exception as error:  # the exporter has many kinds
            raise WorkbenchError(f"torch.export cannot export the model: {full_stop(export_reason(error))}") from error
        path.write_bytes(content.getvalue())

    def reload(self, path: Path, network: Network) -> Run:  # noqa: ARG002 - the program takes the model's arguments
        """See `Format.reload`."""
        try:
            with quiet(), tracing():
                module = torch.export.load(path).module()
        except Exception as error:  # the loader has many kinds
            raise WorkbenchError(f"{path.name}: torch.export cannot load it: {export_reason(error)}") from error

        @torch.inference_mode()
        def run(batch: Inputs) -> torch.Tensor:
            with running():
                return batch.call(module)

        return run


class _Called(nn.Module):
    """A module under another signature: the exporter looks up shapes by the names of arguments."""

    def __init__(self, module: nn.Module, positional: Sequence[str], named: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.names = (*positional, *named)
        kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
        told = [inspect.Parameter(name, kinds[at >= len(positional)]) for at, name in enumerate(self.names)]

        def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
            return module(*args, **kwargs)

        forward.__signature__ = inspect.Signature(told)  # type: ignore[attr-defined]
        self.forward = forward


def _names(network: Network) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the positional arguments, as the model's code has them where it has some, and of the others."""
    own = inspect.signature(network.module.forward).parameters.values()
    told = [each.name for each in own if each.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD]
    count = len(network.example.positional)
    positional = told[:count] if len(told) >= count else [f"input_{index}" for index in range(count)]
    return tuple(positional), tuple(network.example.named)
