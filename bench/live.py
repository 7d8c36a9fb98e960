"""How live is it: control to first estimate, exact accuracy, and the same work done by peers, in one run.

    python bench/live.py [--threads N]

Every comparison is interleaved in this process with the same thread count; figures are medians, and
ratios are what carries over to another machine. The network is seed-cnn, the data the 10,000 test
images, calibration the first 512 training images.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import workbench as wb
from workbench import runtimes
from workbench.quantization.quantizer import specs
from workbench.runtimes.timing import compare
from workbench.store import Store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/workbench/loading"))
from torchvision_stub import declare_torchvision

ROUNDS = 7
PEER_ROUNDS = 3


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def recipe(weight_bits: int, activation_bits: int = 8) -> wb.Recipe:
    return wb.Recipe(quantization=wb.Quantization(weight_bits=weight_bits, activation_bits=activation_bits))


def fresh_bench() -> wb.Bench:
    """A bench that has measured nothing but its baseline, as after loading."""
    bench = wb.Bench(wb.zoo.model("seed-cnn"), wb.zoo.task(), store=Store(tempfile.mkdtemp()))
    assert bench.baseline.complete
    return bench


@torch.inference_mode()
def plain_pass(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    for batch in inputs:
        model(batch)


def first_estimates() -> tuple[list[float], list[int]]:
    """Control moved -> first report with an interval, for every weight bit-width on a fresh bench."""
    times, seen = [], []
    for _ in range(3):
        bench = fresh_bench()
        for bits in (8, 7, 6, 5, 4, 3, 2):
            started = time.perf_counter()
            stream = bench.stream(recipe(bits))
            report = next(stream)
            times.append(time.perf_counter() - started)
            seen.append(report.evaluated)
            stream.close()
    return times, seen


def exact_against_plain() -> tuple[float, float]:
    """All 10,000 images at W4A8 (nothing remembered) and one plain fp32 channels-last pass, interleaved."""
    model = wb.zoo.model("seed-cnn").to(memory_format=torch.channels_last)
    (inputs,) = wb.zoo.task().inputs.tensors
    batched = {size: inputs.split(size) for size in (100, 250, 500)}
    ours, plain = [], {size: [] for size in batched}
    for _ in range(ROUNDS):
        bench = fresh_bench()
        ours.append(seconds(lambda bench=bench: list(bench.stream(recipe(4)))))
        for size, batches in batched.items():
            plain[size].append(seconds(lambda batches=batches: plain_pass(model, batches)))
    fastest = min(statistics.median(times) for times in plain.values())  # the batch size that suits the plain pass best
    return statistics.median(ours), fastest


def quanto_work() -> list[float]:
    """optimum-quanto: quantize weights and activations to 8 bits, calibrate on 512 images, evaluate 10,000.

    Nothing where it cannot be imported.
    """
    try:
        declare_torchvision()  # quanto imports transformers, and that torchvision, which a CPU torch stops
        from optimum.quanto import Calibration, freeze, qint8, quantize
    except ImportError:
        return []

    task, model = wb.zoo.task(), copy.deepcopy(wb.zoo.model("seed-cnn"))

    def work() -> None:
        quantize(model, weights=qint8, activations=qint8)
        with torch.inference_mode(), Calibration():
            model(task.calibration.tensors[0])
        freeze(model)
        evaluate(lambda batch: model(batch), task)

    return [seconds(work)]


def onnxruntime_work(exported: Path, threads: int) -> float:
    """onnxruntime: `quantize_static` (QDQ, per channel, MinMax) from an exported graph, session, evaluate 10,000."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    task = wb.zoo.task()

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(task.calibration.tensors[0].split(128))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: batch.contiguous().numpy()}

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    name = onnxruntime.InferenceSession(exported, options).get_inputs()[0].name
    target = exported.with_name("static.onnx")

    def work() -> None:
        quantize_static(exported, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
        session = onnxruntime.InferenceSession(target, options)
        evaluate(lambda batch: torch.from_numpy(session.run(None, {name: batch.contiguous().numpy()})[0]), task)

    return seconds(work)


def latencies(static: Path, threads: int) -> None:
    """The int8 graph made from a recipe's own scales: time to make and measure it, and how fast it is."""
    import onnxruntime

    bench = fresh_bench()
    network = bench._network
    _ = network.graph  # exported once a model
    taken = []
    for bits in (8, 7, 6, 5, 4, 3, 2):
        *_, report = bench.stream(recipe(bits))
        taken.append(seconds(lambda report=report: bench._timed(report, None)))
    print(
        f"recipe -> measured int8 latency  median {statistics.median(taken):.2f} s, worst {max(taken):.2f} s "
        "(graph, session and interleaved timing; budget 0.50 s)"
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    peer = onnxruntime.InferenceSession(static, options)
    name = peer.get_inputs()[0].name
    asked = specs(recipe(8).quantization, network.layers)
    for size in (1, 32):
        deployment = wb.Deployment(threads=threads)
        batch = bench.task.calibration[:size]
        array = batch.tensors[0].contiguous().numpy()
        ours = runtimes.prepare(deployment, network, network.quantized(asked))
        fp32 = runtimes.prepare(deployment, network, {})
        again = runtimes.prepare(deployment, network, network.quantized(asked))
        rows = {
            "fp32 in the same runtime": fp32.bound(batch),
            "quantize_static's graph": lambda array=array: peer.run(None, {name: array}),
            "itself (noise)": again.bound(batch),
        }
        for other, work in rows.items():
            timing = compare(ours.bound(batch), work, seconds=1.5)
            ratio = timing.speedup
            print(
                f"  W8 A8, batch {size:2}: {timing.candidate.value * 1e3:.3f} ms; {other} takes "
                f"{ratio.value:.2f} times as long ({ratio.low:.2f} … {ratio.high:.2f})"
            )


@torch.inference_mode()
def evaluate(run: Callable[[torch.Tensor], torch.Tensor], task: wb.Task) -> float:
    pairs = zip(task.inputs.tensors[0].split(500), task.targets.split(500), strict=True)
    return sum(int((run(x).argmax(1) == y).sum()) for x, y in pairs) / len(task)


def accuracies() -> dict[str, wb.Report]:
    bench = fresh_bench()
    wanted = {"W8 A8": recipe(8), "W4 A8": recipe(4), "W4 A4": recipe(4, 4), "W3 A8": recipe(3), "W2 A8": recipe(2)}
    naive = wb.Recipe(quantization=wb.Quantization(weight_bits=8, activation_bits=8, method="naive"))
    return {
        name: list(bench.stream(r))[-1] for name, r in {"fp32": wb.Recipe(), **wanted, "W8 A8 naive": naive}.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    print(f"seed-cnn, 10,000 images, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}\n")

    times, seen = first_estimates()
    print(
        f"control -> first estimate    median {statistics.median(times) * 1e3:.0f} ms, "
        f"worst {max(times) * 1e3:.0f} ms, on {statistics.median(seen):,.0f} images (budget: median 100 ms)"
    )
    ours, plain = exact_against_plain()
    print(
        f"exact accuracy, W4 A8        {ours:.3f} s; a plain fp32 channels-last pass {plain:.3f} s: "
        f"ratio {ours / plain:.2f} (budget 1.50)"
    )

    with tempfile.TemporaryDirectory() as folder:
        exported = fresh_bench().export(wb.Recipe(), Path(folder) / "fp32.onnx")
        mine, quanto, static = [], [], []
        for _ in range(PEER_ROUNDS):
            bench = fresh_bench()
            mine.append(seconds(lambda bench=bench: list(bench.stream(recipe(8)))))
            quanto.extend(quanto_work())
            static.append(onnxruntime_work(exported, threads))
        latencies(exported.with_name("static.onnx"), threads)
    own = statistics.median(mine)
    print(f"quantize W8 A8 and evaluate  {own:.3f} s here (calibration and weights included)")
    for name, theirs in (("optimum-quanto", quanto), ("quantize_static", static)):
        if not theirs:
            print(f"  {name:26} cannot be imported here")
            continue
        spent = statistics.median(theirs)
        print(f"  {name:26} {spent:.3f} s: {spent / own:.1f} times as long")

    print("\naccuracy on 10,000 images (points against fp32, paired 95 % interval)")
    for name, report in accuracies().items():
        value, low, high = (-100 * x for x in (report.drop.value, report.drop.high, report.drop.low))
        size = report.size.value / 1000
        print(f"  {name:12} {report.accuracy.value:7.2%}   {value:+6.2f} ({low:+.2f} … {high:+.2f})   {size:6.1f} kB")


if __name__ == "__main__":
    main()
