"""A folder that runs elsewhere: the model, a script of a dozen lines, examples with their answers, and the report."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workbench.errors import WorkbenchError
from workbench.exporting.agreement import Agreement
from workbench.exporting.comparing import simulated
from workbench.exporting.onnx_graph import fed
from workbench.exporting.page import page
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import LayerSpec
from workbench.report import Report
from workbench.runtimes.onnx_runtime import DISABLED, UNPACKING, unpacks

EXAMPLES = 100
EXAMPLE_BYTES = 32 * 2**20
"""Of the examples at most; a few are always there."""
LEAST_EXAMPLES = 4
SECONDS = 300.0
"""How long the script may take on the examples."""
SLACK = 3.0
"""What `check.py` lets pass on another machine, against what was found on this one."""
LEAST_SLACK = 0.01

RUN = '''"""Runs model.onnx with onnxruntime and numpy alone: python run.py [{inputs} [outputs.npy]]"""
import sys
from pathlib import Path
import numpy as np
import onnxruntime

here = Path(__file__).parent
source = sys.argv[1] if len(sys.argv) > 1 else here / "{inputs}"
target = sys.argv[2] if len(sys.argv) > 2 else "outputs.npy"
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {threads}{setting}
session = onnxruntime.InferenceSession(here / "model.onnx", options{disabled})
outputs = session.run(None, {feed})[0]
np.save(target, outputs)
print(f"{{target}}: {{' x '.join(map(str, outputs.shape))}}")
'''
UNPACKED = """
options.add_session_config_entry("{}", "{}")  # unpack the weights once, not at every call"""
SINGLE = "{session.get_inputs()[0].name: np.load(source)}"
SEVERAL = "dict(np.load(source))"

CHECK = '''"""Whether the model gives here what the simulation gave: python check.py"""
import subprocess
import sys
from pathlib import Path
import numpy as np

here = Path(__file__).parent
subprocess.run([sys.executable, here / "run.py", here / "{inputs}", here / "outputs.npy"], check=True)
outputs, expected = np.load(here / "outputs.npy"), np.load(here / "expected.npy")
apart = np.linalg.norm(outputs - expected) / max(np.linalg.norm(expected), 1e-30)
print(f"{{len(outputs)}} outputs differ from the simulation's by {{100 * apart:.3f}} %; {allowed:.1%} is let pass")
sys.exit(bool(apart > {allowed:.4f}))
'''

README = """# {name}, {label}

`model.onnx` is the network as the recipe in `recipe.json` makes it; `report.html` says what that costs.

    pip install -r requirements.txt
    python run.py

runs it on {examples} examples (`{inputs}`) and writes `outputs.npy`. `expected.npy` is what the simulation gave for
them. Where this folder was written, {sentence}

    python check.py

compares both here: kernels differ from one processor to another.

{given}

{licence}
"""


@dataclass(frozen=True, eq=False)
class Contents:
    """What a folder tells of a model."""

    name: str
    asked: Mapping[str, LayerSpec]
    report: Report
    examples: Inputs
    """In the order of the task."""
    licence: str = ""
    """A sentence on whose the model is, or nothing where that is not known."""


def fill(folder: Path, network: Network, contents: Contents, agreement: Agreement) -> None:
    """Write everything beside ``model.onnx``, and run the script once as its reader will.

    Args:
        folder: With the model in it.
        network: The recipe's.
        contents: What is told.
        agreement: Of the model with the simulation.

    Raises:
        WorkbenchError: The script fails.
        OSError: The disk does not take it.
    """
    examples = _some(contents.examples)
    arrays = fed(network.graph.inputs, examples)
    single = len(arrays) == 1
    name = "inputs.npy" if single else "inputs.npz"
    if single:
        np.save(folder / name, next(iter(arrays.values())))
    else:
        np.savez(folder / name, **arrays)
    expected = simulated(network, contents.asked, examples).numpy()
    np.save(folder / "expected.npy", expected)
    report, recipe = contents.report, contents.report.recipe
    _text(folder / "recipe.json", recipe.to_json())
    _text(folder / "report.json", report.model_dump_json(indent=2))
    _text(folder / "agreement.json", agreement.model_dump_json(indent=2))
    _text(folder / "report.html", page(contents.name, report, agreement))
    _text(folder / "requirements.txt", f"numpy>=2\nonnxruntime>={_version()}\n")
    own = ", disabled_optimizers=" + repr(list(DISABLED)).replace("'", '"')
    disabled = own if _leaves_weights(network, contents.asked) else ""
    layers = network.quantized(contents.asked)
    setting = UNPACKED.format(*UNPACKING) if layers and unpacks(layers) else ""
    feed = SINGLE if single else SEVERAL
    session = {"threads": recipe.deployment.threads, "setting": setting, "disabled": disabled}
    _text(folder / "run.py", RUN.format(inputs=name, feed=feed, **session))
    apart = _apart(_ran(folder, name, expected), expected)
    _text(folder / "check.py", CHECK.format(inputs=name, allowed=max(LEAST_SLACK, SLACK * apart)))
    told = {"name": contents.name, "label": recipe.label, "examples": len(examples), "inputs": name}
    licence = contents.licence or "Whose the model is, and who may use it, is not known here."
    given = f"Inputs: {_told(arrays)}. Output: `{expected.dtype}`, shape (n{_shape(expected)})."
    _text(folder / "README.md", README.format(**told, sentence=agreement.sentence, given=given, licence=licence))


def _apart(outputs: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.linalg.norm(outputs - expected) / max(float(np.linalg.norm(expected)), 1e-30))


def _ran(folder: Path, inputs: str, expected: NDArray[Any]) -> NDArray[Any]:
    """What the script gives for the examples, run as its reader will run it."""
    found = folder / "outputs.npy"
    command = [sys.executable, str(folder / "run.py"), str(folder / inputs), str(found)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)  # noqa: S603 - our own script
        if done.returncode:
            raise WorkbenchError(f"run.py failed: {(done.stderr.strip().splitlines() or ['no reason told'])[-1][:300]}")
        outputs: NDArray[Any] = np.load(found, allow_pickle=False)
        if outputs.shape != expected.shape:
            raise WorkbenchError(f"run.py gave shape {outputs.shape}, the simulation {expected.shape}.")
        return outputs
    except subprocess.TimeoutExpired as error:
        raise WorkbenchError(f"run.py took longer than {SECONDS:g} seconds on the examples.") from error
    finally:
        found.unlink(missing_ok=True)


def _some(examples: Inputs) -> Inputs:
    """As many of the first examples as a folder should hold, of one shape."""
    first = examples[:EXAMPLES]
    alike = first[first.batches(torch.arange(len(first)), EXAMPLES)[0]]
    each = sum(tensor.nbytes for tensor in alike.tensors) / len(alike)
    return alike[: max(LEAST_EXAMPLES, int(EXAMPLE_BYTES // max(each, 1)))]


def _leaves_weights(network: Network, asked: Mapping[str, LayerSpec]) -> bool:
    """Whether a layer's input is rounded and its weights are not: onnxruntime would put them on a grid of its own."""
    return any(
        spec.activation and not spec.weight and network.layers[name].weights == "" for name, spec in asked.items()
    )


def _told(arrays: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"`{name}` `{array.dtype}`, shape (n{_shape(array)})" for name, array in arrays.items())


def _shape(array: NDArray[Any]) -> str:
    return "".join(f", {size}" for size in array.shape[1:])


def _text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__).split("+")[0]
