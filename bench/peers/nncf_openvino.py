"""NNCF's post-training quantization, run by OpenVINO."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path

import numpy as np

from peers.graphs import Arrays, GraphJob, GraphPeer, Opened
from workbench.runtimes.openvino import library

openvino = library()
with contextlib.redirect_stdout(io.StringIO()):  # it says at import what it supports
    import nncf

nncf.set_log_level(logging.ERROR)


def make(job: GraphJob) -> Path:
    """As its guide has it: 8 bits, its preset for transformers where the network is one, its own bias correction."""
    model = openvino.Core().read_model(job.exported)
    kind = nncf.ModelType.TRANSFORMER if job.transformer else None
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        made = nncf.quantize(model, nncf.Dataset(list(job.calibration)), model_type=kind)
    path = job.folder / "nncf.xml"
    openvino.save_model(made, path, compress_to_fp16=False)
    return path


def opened(path: Path, threads: int, batch: Arrays) -> Opened:
    """Compiled for the batch's shape, with the settings of the workbench's own runtime."""
    core = openvino.Core()
    model = core.read_model(path)
    names = [port.any_name for port in model.inputs]
    model.reshape({port: list(batch[name].shape) for port, name in zip(model.inputs, names, strict=True)})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    arrays = [np.ascontiguousarray(batch[name]) for name in names]
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))

    def output() -> np.ndarray:
        request.infer()
        return request.get_output_tensor(0).data.copy()

    return Opened(request.infer, output)


PEER = GraphPeer("NNCF + OpenVINO", "openvino", make, opened)
