"""Post-training methods at low bits: points of accuracy against fp32, ours and peers' on the same calibration images.

    python bench/accuracy.py [--threads N] [--seconds S] [--samples K]

The network is seed-cnn, the data all 10,000 test images. Calibration: three disjoint samples of 512 of the training
images, without labels; the mean and the worst of them are printed, and the seconds to prepare. Nothing is chosen
by test data: `auto` chooses by calibration data, within S seconds. Peers that cannot be imported are named.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import workbench as wb
from workbench.store import Store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/workbench/loading"))
from torchvision_stub import declare_torchvision

SETTINGS = ((4, 8), (4, 4), (3, 8), (2, 8))
TARGETS = {(4, 8): (-0.2, 5), (4, 4): (-0.6, 20), (3, 8): (-0.6, 20), (2, 8): (-4.5, 60)}
"""Points and seconds."""
SAMPLES, SIZE = 3, 512
METHODS = {
    "nearest": {"method": "nearest"},
    "nearest, corrected": {"method": "nearest", "range": "hessian", "correction": "bias"},
    "gptq": {"method": "gptq", "range": "hessian", "correction": "bias"},
    "adaround": {"method": "adaround", "range": "hessian", "correction": "bias"},
    "quantease": {"method": "quantease", "range": "hessian", "correction": "bias"},
}
Result = tuple[float, float]
"""Points against fp32, and seconds."""
Run = Callable[[Tensor], Tensor]


def bench_with(calibration: Tensor) -> wb.Bench:
    """seed-cnn, nothing measured but the baseline."""
    given = wb.zoo.task()
    task = wb.Task.classification(given.inputs, given.targets, calibration=calibration)
    made = wb.Bench(wb.zoo.model("seed-cnn"), task, store=Store(tempfile.mkdtemp()))
    assert made.baseline.complete
    return made


def measured(bench: wb.Bench, recipe: wb.Recipe, spent: float = 0.0) -> Result:
    started = time.perf_counter()
    stream = bench.stream(recipe)
    report = next(stream)
    spent += time.perf_counter() - started  # the first report's thousand images included
    *_, report = (report, *stream)
    return -100 * report.drop.value, spent


def ours(calibration: Tensor, seconds: float) -> dict[tuple[str, tuple[int, int]], Result]:
    found = {}
    for bits in SETTINGS:
        for name, fields in METHODS.items():
            bench = bench_with(calibration)
            q = wb.Quantization(weight_bits=bits[0], activation_bits=bits[1], **fields)
            found[name, bits] = measured(bench, wb.Recipe(quantization=q))
        bench = bench_with(calibration)
        started = time.perf_counter()
        plain = wb.Recipe(quantization=wb.Quantization(weight_bits=bits[0], activation_bits=bits[1]))
        chosen = bench.auto(plain, seconds)
        found[f"auto, {seconds:g} s", bits] = measured(bench, chosen, time.perf_counter() - started)
    return found


# Peers: a network, calibration images and bits -> what runs, or None where the peer has no such setting


def quanto(model: nn.Module, images: Tensor, weight_bits: int, activation_bits: int) -> Run | None:
    declare_torchvision()  # quanto imports transformers, and that torchvision, which a CPU torch stops
    from optimum.quanto import Calibration, freeze, qint2, qint4, qint8, quantize

    weights = {2: qint2, 4: qint4, 8: qint8}.get(weight_bits)
    if weights is None or activation_bits != 8:
        return None
    quantize(model, weights=weights, activations=qint8)
    with torch.inference_mode(), Calibration():
        model(images)
    freeze(model)
    return model


def modelopt(algorithm: str) -> Callable[[nn.Module, Tensor, int, int], Run | None]:
    def prepare(model: nn.Module, images: Tensor, weight_bits: int, activation_bits: int) -> Run | None:
        import modelopt.torch.quantization as mtq

        config = {
            "quant_cfg": [
                {"quantizer_name": "*", "enable": False},
                {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": weight_bits, "axis": 0}},
                {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": activation_bits, "axis": None}},
            ],
            "algorithm": algorithm,
        }
        return mtq.quantize(model, config, lambda m: m(images))

    return prepare


def brevitas(gptq: bool) -> Callable[[nn.Module, Tensor, int, int], Run | None]:
    def prepare(model: nn.Module, images: Tensor, weight_bits: int, activation_bits: int) -> Run | None:
        import brevitas.nn as qnn
        from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
        from brevitas.graph.gptq import gptq_mode
        from brevitas.quant import Int8WeightPerChannelFloatMSE, Uint8ActPerTensorFloatMSE

        made = copy.deepcopy(model)
        options = {
            "weight_quant": Int8WeightPerChannelFloatMSE,
            "weight_bit_width": weight_bits,
            "input_quant": Uint8ActPerTensorFloatMSE,  # every input of this network is at least 0
            "input_bit_width": activation_bits,
            "return_quant_tensor": False,
        }
        for name, layer in list(model.named_children()):
            if isinstance(layer, nn.Conv2d):
                new = qnn.QuantConv2d(layer.in_channels, layer.out_channels, layer.kernel_size, **options)
            elif isinstance(layer, nn.Linear):
                new = qnn.QuantLinear(layer.in_features, layer.out_features, bias=True, **options)
            else:
                continue
            new.load_state_dict(layer.state_dict(), strict=False)
            setattr(made, name, new)
        made.eval()
        batches = images.split(64)
        with torch.no_grad():
            with calibration_mode(made):
                for batch in batches:
                    made(batch)
            if gptq:
                made(batches[0])  # its weights' scales are made in a pass that is not calibrating
                with gptq_mode(made, use_quant_activations=True) as mode:
                    for _ in range(mode.num_layers):
                        for batch in batches:
                            mode.model(batch)
                        mode.update()
            with bias_correction_mode(made):
                for batch in batches:
                    made(batch)
        return made

    return prepare


def hqq(model: nn.Module, images: Tensor, weight_bits: int, activation_bits: int) -> Run | None:  # noqa: ARG001
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    if activation_bits != 8:
        return None
    for name, layer in list(model.named_children()):
        if isinstance(layer, nn.Linear):
            config = BaseQuantizeConfig(nbits=weight_bits, group_size=None, axis=1)
            setattr(model, name, HQQLinear(layer, config, compute_dtype=torch.float32, device="cpu"))
    return model


PEERS = {
    "optimum-quanto": quanto,
    "modelopt, max": modelopt("max"),
    "modelopt, mse": modelopt("mse"),
    "brevitas, MSE + bias": brevitas(gptq=False),
    "brevitas, MSE + GPTQ + bias": brevitas(gptq=True),
    "hqq (Linear weights only)": hqq,
}


@torch.no_grad()
def accuracy(run: Run) -> float:
    task = wb.zoo.task()
    pairs = zip(task.inputs.tensors[0].split(500), task.targets.split(500), strict=True)
    return sum(int((run(x).argmax(1) == y).sum()) for x, y in pairs) / len(task)


def theirs(calibration: Tensor) -> dict[tuple[str, tuple[int, int]], Result | str]:
    found: dict[tuple[str, tuple[int, int]], Result | str] = {}
    fp32 = accuracy(wb.zoo.model("seed-cnn").eval())
    for name, prepare in PEERS.items():
        with contextlib.suppress(Exception):  # imports and first calls are not timed
            prepare(copy.deepcopy(wb.zoo.model("seed-cnn")).eval(), calibration[:64], 8, 8)
        for bits in SETTINGS:
            started = time.perf_counter()
            try:
                run = prepare(copy.deepcopy(wb.zoo.model("seed-cnn")).eval(), calibration, *bits)
                spent = time.perf_counter() - started
                if run is not None:
                    found[name, bits] = 100 * (accuracy(run) - fp32), spent
            except ImportError as error:
                found[name, bits] = f"cannot be imported ({error})"
                break
            except Exception as error:  # a peer's refusal is a result
                found[name, bits] = f"failed ({type(error).__name__}: {str(error)[:60]})"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="for `auto`")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="calibration samples")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images, _ = wb.zoo.task().training.tensors
    runs = []
    for sample in range(options.samples):
        calibration = images[sample * SIZE : (sample + 1) * SIZE]
        with contextlib.redirect_stdout(sys.stderr):  # peers are talkative
            runs.append({**ours(calibration, options.seconds), **theirs(calibration)})
        print(f"sample {sample + 1} of {options.samples} done", file=sys.stderr)
    print(f"seed-cnn, points on 10,000 images: mean (worst) of {options.samples} calibration samples, then seconds\n")
    print(f"{'':28}" + "".join(f"{f'W{w}A{a}':>24}" for w, a in SETTINGS))
    print(f"{'target':28}" + "".join(f"{p:>11.2f}{'':7}{f'<= {s} s':>6}" for p, s in TARGETS.values()))
    for name in dict.fromkeys(name for name, _ in runs[0]):
        cells, notes = "", []
        for bits in SETTINGS:
            results = [run[name, bits] for run in runs if (name, bits) in run]
            numbers = [result for result in results if not isinstance(result, str)]
            notes += [result for result in results if isinstance(result, str)]
            if len(numbers) < options.samples:
                cells += f"{'-':>24}"
                continue
            points, seconds = zip(*numbers, strict=True)
            text = f"{statistics.mean(points):.2f} ({min(points):.2f}) {statistics.mean(seconds):5.1f}"
            cells += f"{text:>24}"
        print(f"{name:28}{cells}" + "".join(f"  {note}" for note in dict.fromkeys(notes)))


if __name__ == "__main__":
    main()
