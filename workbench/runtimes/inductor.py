"""The compiler of torch.compile: the model as C++ for one batch, its weights laid out for the kernels (frozen).

Layers on 8-bit grids run in oneDNN's integer kernels, see `torch_qdq`.
"""

from __future__ import annotations

import copy
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.grid import QuantizedLayer
from workbench.inputs import Inputs
from workbench.recipe import Deployment
from workbench.runtimes.base import Prepared, Source, what_runs
from workbench.runtimes.eager import cuda_devices, parameters, threads
from workbench.runtimes.graph import Flat, export_reason
from workbench.runtimes.torch_qdq import Qdq, no_integers, replaced_so_far
from workbench.tracing import quiet, running, tracing
from workbench.twins import twin_with

KEPT = 4
"""Compiled batches of one network that are kept; each has its own copy of the weights."""

Compiled = Callable[..., Tensor]
_Key = tuple[tuple[tuple[int, ...], ...], str, str, int]
_kept: WeakKeyDictionary[Source, OrderedDict[_Key, Compiled]] = WeakKeyDictionary()
_one = threading.Lock()
"""The compiler's settings are the whole process's while it runs."""


class Inductor:
    """Integer, fp32 and bf16 kernels, compiled for one batch.

    Where integer kernels cannot be, a quantized model runs with its rounded weights in floating point.
    """

    name = "inductor"
    takes: Final = "module"
    compiles: Final = True

    def unavailable(self) -> str | None:
        """It writes C++, so a compiler must be here."""
        return _compiler_missing()

    def devices(self) -> Sequence[str]:
        """The processor, and the CUDA devices that torch reports."""
        return ["cpu", *cuda_devices()]

    def version(self) -> str:
        """Of torch."""
        return torch.__version__

    def supports(self, deployment: Deployment, source: Source) -> str | None:  # noqa: ARG002 - see `Runtime.supports`
        """It compiles torch modules, in either precision."""
        return "inductor compiles torch modules, and this model is an ONNX graph." if source.graph_only else None

    def prepare(self, source: Source, layers: Mapping[str, QuantizedLayer], deployment: Deployment) -> Prepared:
        """See `Runtime.prepare`."""
        return _Run(source, layers, deployment)


class _Run:
    def __init__(self, source: Source, layers: Mapping[str, QuantizedLayer], deployment: Deployment) -> None:
        self._source, self._deployment = source, deployment
        self._replaced = parameters(layers)
        self._kind = torch.bfloat16 if deployment.precision == "bf16" else torch.float32
        rounds = any(layer.activation_grid for layer in layers.values())
        why = no_integers(deployment) if rounds else None
        self._written = layers if rounds and why is None else {}
        """Layers that are to compute with whole numbers."""
        self.integer = 0
        self.note = what_runs("inductor", layers, 0, (), deployment.precision) if layers else None
        if why is not None:
            self.note = f"The rounded weights run in {deployment.precision}, and inputs are not rounded: {why}."
        # the plain network is prepared again and again as a baseline
        changed = self._replaced or self._written
        self._ready = OrderedDict() if changed else _kept.setdefault(source, OrderedDict())
        self._compiled(self._placed(source.example.cycled(deployment.batch)))

    def bound(self, batch: Inputs) -> Callable[[], object]:
        placed = self._placed(batch)
        compiled, tensors = self._compiled(placed), placed.tensors
        return lambda: self._call(compiled, tensors)

    def run(self, batch: Inputs) -> Tensor:
        placed = self._placed(batch)
        return self._call(self._compiled(placed), placed.tensors).float()

    @torch.no_grad()  # inference mode would be another reason to compile anew
    def _call(self, compiled: Compiled, tensors: Sequence[Tensor]) -> Tensor:
        with threads(self._deployment.threads), running():
            return compiled(*tensors).cpu()

    def _placed(self, batch: Inputs) -> Inputs:
        return batch.channels_last().to(self._deployment.device).floating(self._kind)

    def _compiled(self, batch: Inputs) -> Compiled:
        deployment = self._deployment
        shapes = tuple(tuple(tensor.shape) for tensor in batch.tensors)
        key = (shapes, deployment.precision, deployment.device, deployment.threads)
        with _one:
            if key not in self._ready:
                while len(self._ready) >= KEPT:
                    self._ready.popitem(last=False)
                self._ready[key] = self._made(batch)
            return self._ready[key]

    def _made(self, batch: Inputs) -> Compiled:
        module = copy.deepcopy(twin_with(self._source.module, self._replaced))
        module = module.to(self._deployment.device, self._kind)
        # frozen constants must not be inference tensors, and inputs neither
        tensors = tuple(tensor.clone() for tensor in batch.tensors)
        try:
            with quiet(), tracing(), threads(self._deployment.threads), torch.no_grad():
                before = replaced_so_far()
                qdq = Qdq(self._source.module, module, self._written, batch) if self._written else None
                program = torch.export.export(Flat(module, batch, self._source.output), tensors, strict=False)
                made = compiled_program(program, tensors)
        except Exception as error:  # the compiler has many kinds
            raise WorkbenchError(f"inductor cannot compile the model: {export_reason(error)}") from error
        if qdq is not None:
            self._tell(qdq, qdq.integer(replaced_so_far() - before))
        return made

    def _tell(self, qdq: Qdq, integer: int) -> None:
        """Say what runs, from what the compiler made of the batch that was compiled last."""
        products = {name: layer for name, layer in self._written.items() if layer.weight_name}
        self.integer = integer
        self.note = what_runs("inductor", products, integer, ())
        if qdq.unrounded:
            names = ", ".join(qdq.unrounded[:5]) + (", …" if len(qdq.unrounded) > 5 else "")
            self.note = f"{self.note or ''} The input of {names} is not rounded: no module is called there.".lstrip()


def compiled_program(program: torch.export.ExportedProgram, tensors: Sequence[Tensor]) -> Compiled:
    """A program as machine code for tensors of these shapes; the compiler's settings are left as they were.

    What is exported already need not pass `torch.compile`, whose caches are the process's and limited for each code,
    and which looks at every call whether it fits: as long as a small network takes.

    Args:
        program: Exported for these shapes.
        tensors: An example of its arguments.
    """
    from torch import _inductor
    from torch._inductor import config

    with config.patch(freezing=True):
        made: Compiled = _inductor.compile(program.module(), list(tensors))
        made(*tensors)
    return made


@lru_cache
def _compiler_missing() -> str | None:
    # what torch._inductor.config.cpp.cxx begins with, whose import takes seconds and 60 MB
    names = [name for name in (os.environ.get("CXX"), "g++", "clang++", "cl") if name]
    if any(shutil.which(name) for name in names):
        return None
    return (
        "inductor: it writes C++, and there is no compiler for that here (looked for g++ and clang++); "
        "install one: apt install g++"
    )
