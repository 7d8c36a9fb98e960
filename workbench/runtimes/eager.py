"""PyTorch itself, operator by operator, in channels-last layout."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.outputs import selected
from workbench.recipe import Deployment
from workbench.runtimes.base import Prepared, Source, without_integer_kernels
from workbench.tracing import running
from workbench.twins import twin_with


class Eager:
    """fp32 and bf16 kernels; a quantized model runs with its rounded weights in them."""

    name = "eager"
    takes: Final = "module"
    compiles: Final = False

    def unavailable(self) -> str | None:
        """Always here: the engine is built on it."""
        return None

    def devices(self) -> Sequence[str]:
        """The processor, and what torch reports."""
        return ["cpu", *cuda_devices(), *(["mps"] if torch.backends.mps.is_available() else [])]

    def version(self) -> str:
        """Of torch."""
        return torch.__version__

    def supports(self, deployment: Deployment, source: Source) -> str | None:  # noqa: ARG002 - see `Runtime.supports`
        """It runs torch modules, in either precision."""
        return (
            "eager runs torch modules, and this model is an ONNX graph; choose onnxruntime."
            if source.graph_only
            else None
        )

    def prepare(self, source: Source, layers: Mapping[str, QuantizedLayer], deployment: Deployment) -> Prepared:
        """See `Runtime.prepare`."""
        return _Run(source, layers, deployment)


class _Run:
    integer = 0

    def __init__(self, source: Source, layers: Mapping[str, QuantizedLayer], deployment: Deployment) -> None:
        replaced = parameters(layers)
        module = twin_with(source.module, replaced)
        self._device, self._threads = deployment.device, deployment.threads
        self._bf16 = deployment.precision == "bf16"
        if self._device != "cpu" or self._bf16:
            # a twin shares its tensors with the model, and moving those would move the model
            module = copy.deepcopy(module).to(self._device, torch.bfloat16 if self._bf16 else None)
        self._module, self._output = module, source.output
        self.note = note("eager", layers, deployment)

    def bound(self, batch: Inputs) -> Callable[[], object]:
        placed = self._placed(batch)
        return lambda: self._call(placed)

    def run(self, batch: Inputs) -> Tensor:
        return self._call(self._placed(batch))

    def _placed(self, batch: Inputs) -> Inputs:
        placed = batch.channels_last().to(self._device)
        return placed.floating(torch.bfloat16) if self._bf16 else placed

    @torch.inference_mode()
    def _call(self, placed: Inputs) -> Tensor:
        with threads(self._threads), running():
            outputs = selected(placed.call(self._module), self._output)
            return outputs.cpu() if not self._bf16 else outputs.float().cpu()  # waits for the device


def cuda_devices() -> list[str]:
    """The current one and each by its number, where torch reports some."""
    if not torch.cuda.is_available():
        return []
    return ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]


def parameters(layers: Mapping[str, QuantizedLayer]) -> dict[str, Tensor]:
    """The float32 values of all rounded weights and biases, by their names in the model's state."""
    made: dict[str, Tensor] = {}
    for layer in layers.values():
        made |= layer.parameters()
    return made


def note(runtime: str, layers: Mapping[str, QuantizedLayer], deployment: Deployment) -> str | None:
    """What a runtime says that runs rounded weights in floating point, and no activation on a grid."""
    uneven = without_integer_kernels(layers)
    if uneven:
        return f"{uneven} run in {deployment.precision} kernels here."
    if not any(layer.parameters() for layer in layers.values()):
        return None
    return f"{runtime} has no integer kernels: the rounded weights run in {deployment.precision}."


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads within one of torch's operators; a setting of the whole process, so it is put back."""
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)
