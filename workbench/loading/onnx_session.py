"""An ONNX graph as it is, behind the face of a module: what torch has no form for runs in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from workbench.errors import LoadError, WorkbenchError

_OUTPUT_CHANNELS = {"Conv": 0, "ConvTranspose": 1, "Gather": 0}
_NUMPY: dict[str, Any] = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "bool": np.bool_,
    **{f"{kind}{bits}": np.dtype(f"{kind}{bits}").type for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class WeightedNode:
    """A node of the graph whose weight can be quantized.

    Attributes:
        name: Of the node, unique in the graph.
        op: Operator type.
        weight_name: Of the initializer. Nodes that share it are tied.
        weight: In float32, as the graph stores it.
        axis: Along which the output channels (the entries of a table) lie.
        input: Name of the activation that comes in.
        bias_name: Of the initializer that is added to the output, if there is one.
    """

    name: str
    op: str
    weight_name: str
    weight: NDArray[np.float32]
    axis: int
    input: str
    bias_name: str | None


class OnnxModule(nn.Module):
    """Runs an ONNX graph in onnxruntime, on the processor.

    It has no parameters: the weights are in the graph (see `layers`). It can be copied and pickled;
    the session is opened when it is first called, and again after a change of `proto` (`reset`).

    Attributes:
        proto: The graph.
        reason: Why it did not become a torch module, as a sentence.
        threads: Of the session.
    """

    def __init__(self, proto: onnx.ModelProto, reason: str, threads: int = 1) -> None:
        super().__init__()
        self.proto = proto
        self.reason = reason
        self.threads = threads
        self._session: Any = None
        self.eval()

    @property
    def input_names(self) -> list[str]:
        """Of the graph's inputs, in the order of the arguments."""
        held = {entry.name for entry in self.proto.graph.initializer}
        return [value.name for value in self.proto.graph.input if value.name not in held]

    @property
    def output_names(self) -> list[str]:
        """Of the graph's outputs, in order."""
        return [value.name for value in self.proto.graph.output]

    def reset(self) -> None:
        """Open a new session at the next call: `proto` or `threads` were changed."""
        self._session = None

    def forward(self, *args: Any, **kwargs: Tensor) -> Any:
        """Run the graph.

        Args:
            *args: A tensor per graph input, or one mapping from input names to tensors.
            **kwargs: The same by name, where names are identifiers.

        Returns:
            A tensor on the first input's device, or a tuple of them where the graph has several outputs.

        Raises:
            WorkbenchError: Inputs are missing, unknown, or of a type or shape that the graph does not take.
        """
        session = self._open()
        named = self._named(args, kwargs)
        device = next((value.device for value in named.values()), torch.device("cpu"))
        fed = {}
        for entry in session.get_inputs():
            array = named[entry.name].detach().cpu().numpy()
            wanted = _NUMPY.get(entry.type.removeprefix("tensor(").removesuffix(")"))
            fed[entry.name] = np.ascontiguousarray(array if wanted is None else array.astype(wanted, copy=False))
        try:
            results = session.run(None, fed)
        except Exception as error:  # onnxruntime's exceptions share no public base
            raise WorkbenchError(f"onnxruntime cannot run the graph on these inputs: {str(error)[:500]}") from error
        tensors = tuple(_tensor(result).to(device) for result in results)
        return tensors if len(tensors) > 1 else tensors[0]

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = self.input_names
        if len(args) == 1 and isinstance(args[0], Mapping):
            given = {**args[0], **kwargs}
        else:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
        if len(args) > len(names) or set(given) != set(names):
            raise WorkbenchError(
                f"The graph takes the inputs {', '.join(names)}; "
                f"{max(len(args), len(given))} were given: {', '.join(map(str, given)) or 'none'}."
            )
        return given

    def _open(self) -> Any:
        if self._session is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self.threads
            options.log_severity_level = 3
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            try:
                self._session = onnxruntime.InferenceSession(
                    self.proto.SerializeToString(), options, ["CPUExecutionProvider"]
                )
            except Exception as error:
                raise LoadError(f"onnxruntime cannot load the graph: {str(error)[:500]}") from error
        return self._session

    def layers(self) -> dict[str, WeightedNode]:
        """The nodes with constant weights, by name: convolutions, matrix products and embeddings."""
        return weighted_nodes(self.proto)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}


def weighted_nodes(proto: onnx.ModelProto) -> dict[str, WeightedNode]:
    """The nodes of a graph with constant floating-point weights.

    Args:
        proto: With named nodes, as `read_onnx` returns it.

    Returns:
        By node name, in the order of execution.
    """
    graph = proto.graph
    held = {entry.name: entry for entry in graph.initializer}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    found = {}
    for node in graph.node:
        place = 0 if node.op_type == "Gather" else 1
        if node.domain not in ("", "ai.onnx") or len(node.input) < 2 or node.input[place] not in held:
            continue
        weight = held[node.input[place]]
        axis = _axis(node, weight)
        if axis is None or node.input[1 - place] in held:
            continue
        found[node.name] = WeightedNode(
            node.name,
            node.op_type,
            weight.name,
            numpy_helper.to_array(weight).astype(np.float32),
            axis,
            node.input[1 - place],
            _bias(node, consumers, held),
        )
    return found


def _axis(node: onnx.NodeProto, weight: TensorProto) -> int | None:
    """Where the output channels lie; None where it is no weight of a layer."""
    if weight.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
        return None
    dims = len(weight.dims)
    flags = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type in ("Conv", "ConvTranspose"):
        return _OUTPUT_CHANNELS[node.op_type] if dims >= 3 else None
    if node.op_type == "Gather":
        return _OUTPUT_CHANNELS[node.op_type] if dims == 2 and flags.get("axis", 0) == 0 else None
    if node.op_type == "Gemm":
        return (0 if flags.get("transB", 0) else 1) if dims == 2 else None
    return 1 if node.op_type == "MatMul" and dims == 2 else None


def _bias(
    node: onnx.NodeProto, consumers: Mapping[str, list[onnx.NodeProto]], held: Mapping[str, TensorProto]
) -> str | None:
    if node.op_type != "MatMul":
        return node.input[2] if len(node.input) > 2 and node.input[2] in held else None
    followers = consumers.get(node.output[0], [])
    if len(followers) != 1 or followers[0].op_type != "Add":
        return None
    return next((name for name in followers[0].input if name in held and len(held[name].dims) == 1), None)


def _tensor(result: Any) -> Tensor:
    if not isinstance(result, np.ndarray) or result.dtype == object:
        raise WorkbenchError("The graph returns text, sequences or maps; only tensors can be measured.")
    return torch.from_numpy(result if result.flags.writeable else result.copy())
