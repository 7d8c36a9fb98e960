"""A process of its own in which an ONNX file of unknown origin is tried.

The checker, the shape inference and onnxruntime are C++ that a hostile file may crash, fill with
memory, or keep busy for ever. None of that reaches the process that asked: this file is run as a
script (`python onnx_trial.py FOLDER BYTES`), imports nothing but numpy, onnx and onnxruntime, and leaves in the
folder `answer.json`, and `tried.npz` with inputs and outputs of two runs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = (8, 32, 64, 128, 224)  # tried in turn for a size that the graph leaves open
BATCHES = ((2, 3), *((size, size) for size in (1, 2, 4, 8, 16, 32)))  # where one size is written into the graph
PATIENCE = 3.0  # seconds of trying sizes
LARGEST_INPUT = 2**25  # elements; a graph that declares more is not run


def main(folder: Path, limit: int) -> None:
    """Check, infer shapes, open a session, run it twice; say in `answer.json` how far it came.

    Args:
        folder: Holds ``model.onnx``.
        limit: Bytes of memory that this process may take.
    """
    import onnx
    import onnxruntime

    _limit_memory(limit)
    answer: dict[str, Any] = {"stage": "check", "error": None}
    path = folder / "model.onnx"
    try:
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model)
        answer["stage"] = "session"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        answer["stage"] = "types"
        answer["types"] = _types(model)
        answer["stage"] = "run"
        answer.update(_run(session, folder))
        answer["stage"] = "done"
    except Exception as error:  # whatever C++ throws is the answer
        answer["error"] = f"{type(error).__name__}: {error}"[:500]
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _types(model: Any) -> dict[str, Any]:
    """Of every value: its element type and its sizes (a number, a symbol, or null), as far as they follow."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # what is known without is enough for most graphs
        graph = model.graph
    types = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        sizes = None
        if tensor.HasField("shape"):
            sizes = [
                size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in tensor.shape.dim
            ]
        types[value.name] = [tensor.elem_type, sizes]
    return types


def _run(session: Any, folder: Path) -> dict[str, Any]:
    error = None
    free = any(not isinstance(size, int) for entry in session.get_inputs() for size in entry.shape[1:])
    begun = time.monotonic()
    for batches in BATCHES:
        for length in LENGTHS if free else LENGTHS[:1]:
            if error and time.monotonic() - begun > PATIENCE:
                return {"not_run": error}
            arrays: dict[str, Any] = {}
            try:
                for run, batch in enumerate(batches):
                    inputs = dict(_inputs(session.get_inputs(), batch, length, seed=run))
                    outputs = session.run(None, inputs)
                    if not all(isinstance(output, np.ndarray) for output in outputs):
                        return {"not_run": "It returns sequences or maps, not tensors."}
                    arrays |= {f"{run}.input.{i}": value for i, value in enumerate(inputs.values())}
                    arrays |= {f"{run}.output.{i}": value for i, value in enumerate(outputs)}
            except Exception as reason:  # another length may fit
                error = error or str(reason)[:300]
                continue
            np.savez(folder / "tried.npz", **arrays)
            return {"batches": batches, "length": length}
    return {"not_run": error}


def _inputs(declared: Sequence[Any], batch: int, length: int, seed: int) -> Iterator[tuple[str, Any]]:
    random = np.random.default_rng(seed)
    symbols: dict[str, int] = {}
    for entry in declared:
        shape = []
        for place, size in enumerate(entry.shape):
            if not isinstance(size, int) or size < 0:
                free = batch if place == 0 else length
                shape.append(symbols.setdefault(size, free) if isinstance(size, str) else free)
            else:
                shape.append(size)
        if np.prod([float(size) for size in shape]) > LARGEST_INPUT:
            raise ValueError(f"the input {entry.name} declares the shape {shape}")
        kind = entry.type.removeprefix("tensor(").removesuffix(")")
        if kind in ("float", "double", "float16"):
            kind = {"float": "float32", "double": "float64"}.get(kind, kind)
            yield entry.name, random.standard_normal(shape).astype(kind)
        elif kind == "bool":
            yield entry.name, random.random(shape) < 0.5
        elif kind.startswith(("int", "uint")):
            # indices that the smallest table has; masks
            yield entry.name, random.integers(0, 2, shape).astype(kind)
        else:
            raise TypeError(f"the input {entry.name} is a {entry.type}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
