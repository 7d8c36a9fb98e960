"""PyTorch itself, operator by operator, in channels-last layout."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.outputs import selected
from workbench.runtimes.base import Prepared, Source, without_integer_kernels
from workbench.tracing import running
from workbench.twins import twin_with


class Eager:
    """fp32 kernels; a quantized model runs with its rounded weights in fp32."""

    name = "eager"

    def unavailable(self) -> str | None:
        """Always here: the engine is built on it."""
        return None

    def devices(self) -> Sequence[str]:
        """The processor, and what torch reports."""
        found = ["cpu"]
        if torch.cuda.is_available():
            found += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            found.append("mps")
        return found

    def version(self) -> str:
        """Of torch."""
        return torch.__version__

    def prepare(self, source: Source, layers: Mapping[str, QuantizedLayer], device: str, threads: int) -> Prepared:
        """See `Runtime.prepare`."""
        return _Run(source, layers, device, threads)


class _Run:
    def __init__(self, source: Source, layers: Mapping[str, QuantizedLayer], device: str, threads: int) -> None:
        if source.graph_only:
            raise WorkbenchError("eager runs torch modules, and this model is an ONNX graph; choose onnxruntime.")
        replaced: dict[str, Tensor] = {}
        for layer in layers.values():
            replaced |= layer.parameters()
        module = twin_with(source.module, replaced)
        # a twin shares its tensors with the model, and moving those would move the model
        self._module = module if device == "cpu" else copy.deepcopy(module).to(device)
        self._output = source.output
        self._device = device
        self._threads = threads
        self.integer = 0
        uneven = without_integer_kernels(layers)
        rounded = "eager has no integer kernels: the rounded weights run in fp32." if replaced else None
        self.note = f"{uneven} run in fp32 kernels here." if uneven else rounded

    def bound(self, batch: Inputs) -> Callable[[], object]:
        placed = batch.channels_last().to(self._device)
        return lambda: self.run(placed)

    @torch.inference_mode()
    def run(self, batch: Inputs) -> Tensor:
        before = torch.get_num_threads()
        if before != self._threads:  # a setting of the whole process, so it is put back
            torch.set_num_threads(self._threads)
        try:
            with running():
                outputs = selected(batch.channels_last().to(self._device).call(self._module), self._output)
                return outputs.cpu()  # waits for the device
        finally:
            if before != self._threads:
                torch.set_num_threads(before)
