"""``.safetensors``: whole-number weights packed bit by bit with their scales, see `workbench.delivery.artifact`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor

from workbench.delivery import artifact
from workbench.errors import WorkbenchError
from workbench.exporting.comparing import Run
from workbench.exporting.rounded import Rounded
from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.outputs import selected
from workbench.recipe import Recipe
from workbench.tracing import running


class IntegerWeights:
    """The smallest file; `workbench.load` puts its numbers into the model's code."""

    ending = ".safetensors"
    program = "the file"

    def refusal(self, network: Network, layers: Mapping[str, QuantizedLayer]) -> str | None:  # noqa: ARG002
        """Every network has weights."""
        return None

    def write(
        self,
        path: Path,
        network: Network,
        layers: Mapping[str, QuantizedLayer],  # noqa: ARG002 - packed ones are kept by the network
        recipe: Recipe,
    ) -> None:
        """See `Format.write`."""
        path.write_bytes(network.artifact(recipe.quantization, recipe.to_json()))

    def reload(self, path: Path, network: Network) -> Run:
        """See `Format.reload`: weights, biases and grids are those of the file.

        Raises:
            WorkbenchError: It is damaged, or another tensor is not the network's own.
        """
        read = artifact.read(path.read_bytes())
        _check_others(path, network, read)
        if network.graph_only:
            from workbench.loading.onnx_session import OnnxModule

            graph: torch.nn.Module = OnnxModule(onnx.load_from_string(network.graph.quantized(read.layers)), "")
            return lambda batch: selected(batch.call(graph), network.output)
        module = Rounded(network, read.layers).eval()

        @torch.inference_mode()
        def run(batch: Inputs) -> Tensor:
            with running():
                return batch.channels_last().call(module)

        return run


def _check_others(path: Path, network: Network, read: artifact.Artifact) -> None:
    """Whether all that lies on no grid is in the file as it is in the network."""
    on_grids = {name: value for layer in read.layers.values() for name, value in layer.parameters().items()}
    for name, tensor in network.form.restored({**network.state, **on_grids}).items():
        found = read.state.get(name)
        if found is None or not _same(found, tensor.cpu()):
            raise WorkbenchError(f"{path.name}: read again, {name} is {'other' if name in read.state else 'missing'}.")


def _same(one: Tensor, other: Tensor) -> bool:
    """Bit by bit: NaN is NaN."""
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and torch.equal(*(x.contiguous().reshape(-1).view(torch.uint8) for x in (one, other)))
