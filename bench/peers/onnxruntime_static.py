"""onnxruntime's own quantizer: `quantize_static`, with the graph made ready by its `quant_pre_process`."""

from __future__ import annotations

import logging
from pathlib import Path

import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from peers.graphs import Arrays, GraphJob, GraphPeer, Opened


class Reader(CalibrationDataReader):
    """The batches, once each."""

    def __init__(self, job: GraphJob) -> None:
        self._batches = iter(job.calibration)

    def get_next(self) -> dict | None:  # noqa: D102
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)


def make(job: GraphJob) -> Path:
    """QDQ, weights per channel, ranges by minimum and maximum, of a graph that was made ready for it."""
    ready = job.folder / "ready.onnx"
    logging.disable(logging.WARNING)
    try:
        quant_pre_process(job.exported, ready, skip_symbolic_shape=job.transformer)
    finally:
        logging.disable(logging.NOTSET)
    return _quantized(job, ready, job.folder / "static.onnx")


def make_at_once(job: GraphJob) -> Path:
    """The same of the graph as it was exported: quicker, and against onnxruntime's own advice."""
    return _quantized(job, job.exported, job.folder / "static-at-once.onnx")


def _quantized(job: GraphJob, ready: Path, made: Path) -> Path:
    logging.disable(logging.WARNING)
    try:
        quantize_static(
            ready,
            made,
            Reader(job),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    finally:
        logging.disable(logging.NOTSET)
    return made


def opened(path: Path, threads: int, batch: Arrays) -> Opened:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in the workbench
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    feed = dict(batch)

    def work() -> list:
        return session.run(None, feed)

    return Opened(work, lambda: work()[0])


PEER = GraphPeer("quantize_static", "onnxruntime", make, opened)

AT_ONCE = GraphPeer("quantize_static without quant_pre_process", "onnxruntime", make_at_once, opened)
"""Its time is shown beside `PEER`'s; in the race is the better graph."""
