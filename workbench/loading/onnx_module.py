"""From an ONNX file to a module: translated and checked against onnxruntime, else run as it is."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workbench.errors import LoadError
from workbench.loading.onnx_bounds import BoundedSizes
from workbench.loading.onnx_conversion import convert
from workbench.loading.onnx_file import read_onnx
from workbench.loading.onnx_session import OnnxModule
from workbench.loading.onnx_values import Untranslatable
from workbench.tracing import running

MEMORY = 800 * 2**20  # bytes for the trial of a small file
SECONDS = 8.0  # for the trial of a small file; a graph can loop for ever
RELATIVE, ABSOLUTE = 1e-3, 1e-4  # allowed difference: of the value, and of the output's largest value
ROUNDING = 1e-6  # and where everything cancels out
HALF_PRECISION = 10  # times as much where onnxruntime computes in float16

Run = tuple[list[NDArray[Any]], list[NDArray[Any]]]


@dataclass(frozen=True)
class Trial:
    """What a process of its own found out about a file.

    Attributes:
        types: Per value, its ONNX element type and inferred sizes.
        runs: Inputs and outputs of two runs in onnxruntime, in the order of the graph.
        not_run: Why there are none.
    """

    types: Mapping[str, tuple[int, list[int | str | None] | None]]
    runs: tuple[Run, ...]
    not_run: str | None


def from_onnx(path: Path | bytes) -> nn.Module:
    """Load a model of unknown origin.

    Args:
        path: The file, or its content. Data beside the file is read where the file says so.

    Returns:
        A `torch.fx.GraphModule` whose layers are torch's own, if every operator has a torch form and its
        outputs agree with onnxruntime's on two random inputs; else an `OnnxModule` with its reason.
        In evaluation mode.

    Raises:
        LoadError: It is no valid ONNX model, or onnxruntime cannot open it.
    """
    proto = read_onnx(path)
    trial = try_out(proto)
    try:
        if trial.not_run is not None:
            raise Untranslatable(f"onnxruntime could not be run on random inputs for comparison: {trial.not_run}")
        module = convert(proto, trial.types)
        compare(module, trial.runs, _has_half_precision(proto))
    except Untranslatable as reason:
        return OnnxModule(proto, str(reason))
    return module


def try_out(proto: onnx.ModelProto) -> Trial:
    """Check a model, infer its shapes and run it, in a process whose crash, memory and time are bounded.

    Raises:
        LoadError: It is not valid, or onnxruntime cannot open it, or not within the bounds.
    """
    content = proto.SerializeToString()
    seconds = SECONDS + len(content) / 10e6
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(content)
        script = Path(__file__).with_name("onnx_trial.py")
        command = [sys.executable, "-I", str(script), str(folder), str(MEMORY + 8 * len(content))]
        try:
            ended = subprocess.run(  # noqa: S603 - this interpreter, a script of this package
                command, capture_output=True, timeout=seconds, check=False, cwd=folder
            )
        except subprocess.TimeoutExpired as error:
            raise LoadError(
                f"Opening the ONNX model and running it twice took longer than {seconds:.0f} seconds; given up."
            ) from error
        try:
            answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
            raise LoadError(
                f"The ONNX model ended the process that tried it (exit code {ended.returncode}"
                f"{': ' + said[-1][:200] if said else ''}). It is damaged, or needs more memory than is allowed."
            ) from error
        if answer["error"] is not None:
            raise LoadError(_in_words(answer["stage"], answer["error"]))
        runs = () if answer.get("not_run") else _runs(folder / "tried.npz")
    return Trial({name: (kind, dims) for name, (kind, dims) in answer["types"].items()}, runs, answer.get("not_run"))


def _in_words(stage: str, error: str) -> str:
    if stage == "check":
        return f"This is not a valid ONNX model: {error}"
    return f"onnxruntime cannot open the ONNX model: {error}"


def _runs(path: Path) -> tuple[Run, ...]:
    with np.load(path, allow_pickle=False) as arrays:
        runs = []
        for run in ("0", "1"):
            sides = []
            for side in ("input", "output"):
                count = sum(name.startswith(f"{run}.{side}.") for name in arrays.files)
                sides.append([arrays[f"{run}.{side}.{place}"] for place in range(count)])
            runs.append((sides[0], sides[1]))
    return tuple(runs)


def compare(module: nn.Module, runs: tuple[Run, ...], half_precision: bool = False) -> None:
    """Hold a translated module against onnxruntime.

    Raises:
        Untranslatable: An output has another shape, or values that differ by more than 0.1 % and
            0.01 % of the output's largest value.
    """
    slack = HALF_PRECISION if half_precision else 1
    for inputs, expected in runs:
        largest = max([2**28, *(4 * array.nbytes for array in (*inputs, *expected))])
        arguments = [_argument(array) for array in inputs]
        try:
            with running(), torch.no_grad(), BoundedSizes(largest):
                found = module(*arguments)
        except Untranslatable:
            raise
        except Exception as error:
            raise Untranslatable(f"Its torch form does not run: {str(error)[:200]}") from error
        found = found if isinstance(found, tuple) else (found,)
        for place, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
            _agree(mine, theirs, place, slack)


def _argument(array: NDArray[Any]) -> Tensor:
    """As a tensor that can be written to; half precision in single."""
    return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float16 else array.copy())


def _agree(mine: Tensor, theirs: NDArray[Any], place: int, slack: float) -> None:
    if tuple(mine.shape) != theirs.shape:
        raise Untranslatable(
            f"Its torch form gives output {place} the shape {list(mine.shape)}, onnxruntime {list(theirs.shape)}."
        )
    one, other = mine.numpy().astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(other)
    scale = float(np.abs(other[finite]).max(initial=0.0))
    if not np.allclose(one, other, slack * RELATIVE, slack * ABSOLUTE * scale + ROUNDING, equal_nan=True):
        worst = float(np.abs(one - other)[finite].max(initial=0.0))
        raise Untranslatable(
            f"Its torch form and onnxruntime differ in output {place}: by up to {worst:.3g}, of {scale:.3g}."
        )


def _has_half_precision(proto: onnx.ModelProto) -> bool:
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return any(entry.data_type in half for entry in proto.graph.initializer) or any(
        value.type.tensor_type.elem_type in half for value in proto.graph.input
    )
