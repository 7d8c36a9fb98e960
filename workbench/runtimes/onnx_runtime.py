"""onnxruntime: optimised graphs in fp32, and integer kernels for layers with 8-bit containers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.runtimes.base import Prepared, Source, bits_in_words, without_integer_kernels

INTEGER_KERNELS = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "ConvInteger", "MatMulIntegerToFloat")


class OnnxRuntime:
    """The graph with QDQ nodes, which onnxruntime replaces by integer kernels where it has them."""

    name = "onnxruntime"

    def unavailable(self) -> str | None:
        """It is a dependency, but a platform can lack its wheel."""
        try:
            import onnxruntime  # noqa: F401
        except ImportError as error:
            return f"onnxruntime: cannot be imported ({error}); pip install onnxruntime"
        return None

    def devices(self) -> Sequence[str]:
        """The processor, and CUDA where onnxruntime was built for it."""
        import onnxruntime

        return ["cpu", *(["cuda"] if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else [])]

    def version(self) -> str:
        """Of onnxruntime."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def prepare(self, source: Source, layers: Mapping[str, QuantizedLayer], device: str, threads: int) -> Prepared:
        """See `Runtime.prepare`."""
        return _Run(source, layers, device, threads)


class _Run:
    def __init__(self, source: Source, layers: Mapping[str, QuantizedLayer], device: str, threads: int) -> None:
        import onnxruntime

        graph = source.graph
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # spinning threads make everything else on the machine slow, and 30 viewers share one
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not any(layer.activation_grid for layer in layers.values()):
            # no integer kernel can follow: unpack the weights once, when the model is loaded, not at every call
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        providers = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        with tempfile.TemporaryDirectory() as folder:
            optimised = Path(folder) / "optimised.onnx"
            if layers:
                options.optimized_model_filepath = str(optimised)
            content = graph.quantized(layers) if layers else graph.fp32()
            try:
                self._session = onnxruntime.InferenceSession(
                    content,
                    options,
                    [*providers, "CPUExecutionProvider"],
                    # it would put weights on a grid of its own choice where a recipe leaves them in fp32
                    disabled_optimizers=["WeightBiasQuantization"],
                )
            except Exception as error:  # onnxruntime's own exceptions share no public base
                raise WorkbenchError(f"onnxruntime cannot load the model: {error}") from error
            kernels = [node.op_type for node in onnx.load(optimised).graph.node] if layers else []
        self._inputs = graph.inputs
        self.integer = sum(kind in INTEGER_KERNELS for kind in kernels)
        self.note = _note(layers, self.integer, sorted(layers.keys() - graph.present)) if layers else None

    def run(self, batch: Inputs) -> Tensor:
        return torch.from_numpy(self.bound(batch)()[0])

    def bound(self, batch: Inputs) -> Callable[[], list[Any]]:
        arrays = map(np.ascontiguousarray, (tensor.numpy() for tensor in batch.tensors))
        # an argument that the output does not depend on is not in the graph
        inputs = {name: array for name, array in zip(self._inputs, arrays, strict=True) if name}
        session = self._session
        return lambda: session.run(None, inputs)


def _note(layers: Mapping[str, QuantizedLayer], integer: int, absent: Sequence[str]) -> str | None:
    """What runs, from the kernels that the optimised graph really has."""
    said = _kernels(layers, integer)
    if absent:
        names = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        said = f"{said or ''} No node of the graph has the weights of {names} as they are: fp32 there.".strip()
    return said


def _kernels(layers: Mapping[str, QuantizedLayer], integer: int) -> str | None:
    uneven = without_integer_kernels(layers)
    if uneven and integer:
        return f"{integer} of {len(layers)} quantized layers run in integer kernels; {uneven} run in fp32 kernels here."
    if uneven and any(layer.activation_grid for layer in layers.values()):
        return f"{uneven} run in fp32 kernels here, with rounding between them."
    if uneven:
        return f"{uneven} run in fp32 kernels here."
    if integer >= len(layers):
        low = bits_in_words(layers)
        return f"{low[0].upper()}{low[1:]} run in 8-bit kernels on this machine." if low else None
    if integer:
        return f"{integer} of {len(layers)} quantized layers run in integer kernels here, the others in fp32."
    if not any(layer.activation_grid for layer in layers.values()):
        return "Weights alone are quantized: they are unpacked when the model is loaded, and fp32 kernels run."
    return "onnxruntime has no integer kernels for these grids: fp32 kernels run, with rounding between them."
