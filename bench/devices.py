"""Predicted latencies of devices that are not here, against published ones; and how the efficiencies were measured.

    python bench/devices.py [--calibrate]

Without options: one line for each published latency, whether it lies inside the predicted range and else by how much
it does not, and how wide the range is (10 times at most). Exit code 1 if a range is wider. Networks have random
weights: only their shapes count.

What was known when the model of a device was made: the efficiencies come from --calibrate alone. But the rule that the
idle share of a matrix unit is all that slows a depthwise convolution was added after both MobileNets on the Edge TPU
had been seen outside; without it they are 1.5 and 1.7 times faster than their ranges. ResNet-50 was looked at once,
after that.

With --calibrate: which share of its own roofline one core of this machine reaches in onnxruntime, by operator class,
network and precision; minutes, and only on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from networks import IMAGE, Encoder, Recurrent, mobilenet_v1, mobilenet_v2, resnet8, resnet18, resnet50

import workbench as wb
from workbench.hardware import OperatorClass
from workbench.hardware.counting import counted
from workbench.inputs import Inputs
from workbench.zoo.efficientnet import EfficientNetLite0

WIDEST = 10.0


class Published(NamedTuple):
    """A latency that somebody measured and published."""

    network: str
    device: str
    bits: int | None
    seconds: float
    source: str


NETWORKS = {
    "MobileNetV1": (mobilenet_v1, IMAGE),
    "MobileNetV2": (mobilenet_v2, IMAGE),
    "EfficientNet-Lite0": (EfficientNetLite0, IMAGE),
    "ResNet-8": (resnet8, (3, 32, 32)),
    "ResNet-18": (resnet18, IMAGE),
    "ResNet-50 at 299": (resnet50, (3, 299, 299)),
}
CALIBRATING = ("MobileNetV1", "MobileNetV2", "EfficientNet-Lite0", "ResNet-8", "ResNet-18")
LITE = "tensorflow/tpu, models/official/efficientnet/lite/README.md, 4 threads"
LITE_TPU = "tensorflow/tpu, models/official/efficientnet/lite/README.md, EdgeTPU: a phone's, not the USB Accelerator"
CORAL = "coral.ai/docs/edgetpu/benchmarks, USB Accelerator"
PUBLISHED = (
    Published("EfficientNet-Lite0", "Pixel 4 CPU", None, 12e-3, LITE),
    Published("EfficientNet-Lite0", "Pixel 4 CPU", 8, 6.5e-3, LITE),
    Published("MobileNetV1", "Coral Edge TPU", 8, 2.2e-3, CORAL),
    Published("MobileNetV2", "Coral Edge TPU", 8, 2.3e-3, CORAL),
    Published("EfficientNet-Lite0", "Coral Edge TPU", 8, 3.8e-3, LITE_TPU),
    Published("ResNet-8", "STM32L4R5", 8, 1 / 4.407, "MLPerf Tiny v1.1"),
    Published("ResNet-8", "STM32H7A3", 8, 1 / 18.2, "MLPerf Tiny v1.1"),
    Published("ResNet-50 at 299", "Coral Edge TPU", 8, 49e-3, CORAL),
    Published("ResNet-18", "ZCU104 DPU B4096", 8, 1 / 217.7, "AMD UG1354 2.5, chen_color_resnet18, one thread"),
)


def bench_of(network: str, folder: Path) -> wb.Bench:
    build, shape = NETWORKS[network]
    torch.manual_seed(0)
    model = build().eval()
    return wb.Bench(model, wb.Task.fidelity(torch.randn(4, *shape)), store=wb.Store(folder), name=network)


def predictions() -> Iterator[tuple[Published, wb.hardware.DeviceBound]]:
    with tempfile.TemporaryDirectory() as folder:
        benches: dict[str, wb.Bench] = {}
        for case in PUBLISHED:
            bench = benches.setdefault(case.network, bench_of(case.network, Path(folder)))
            recipe = wb.Recipe(quantization=wb.Quantization(weight_bits=case.bits, activation_bits=case.bits))
            yield case, bench.bound(recipe, case.device)


def verdict(seconds: float, low: float, high: float) -> str:
    if seconds < low:
        return f"NOT inside: {low / seconds:.2f} times faster than the range"
    if seconds > high:
        return f"NOT inside: {seconds / high:.2f} times slower than the range"
    return f"inside, {seconds / low:.1f} times its low end"


def compare() -> bool:
    narrow = True
    for case, bound in predictions():
        assert bound.latency is not None, bound.reason
        low, high = bound.latency.low, bound.latency.high
        narrow &= high <= WIDEST * low * (1 + 1e-9)
        print(
            f"{case.network:18} {case.device:17} {'fp32' if case.bits is None else f'int{case.bits}':5}"
            f"{bound.macs / 1e6:8.1f} M MACs  published {case.seconds * 1e3:7.2f} ms  predicted {low * 1e3:7.2f} to "
            f"{high * 1e3:7.2f} ms ({high / low:.1f}x, {bound.limited_by})  "
            f"{verdict(case.seconds, low, high)}  [{case.source}]"
        )
    print(f"widest range within {WIDEST:g}x: {'yes' if narrow else 'NO'}")
    return narrow


# How the efficiencies were measured


def session(content: bytes, **options: object):  # noqa: ANN201 - onnxruntime is imported here alone
    import onnxruntime

    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = 1
    chosen.log_severity_level = 3
    for name, value in options.items():
        setattr(chosen, name, value)
    return onnxruntime.InferenceSession(content, chosen)


def best(work: object, times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()  # type: ignore[operator]
        taken.append(time.perf_counter() - start)
    return min(taken)


def peak(integer: bool, side: int = 512) -> float:
    """Operations per second of the best of many square products."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    a = random.integers(0, 255, (side, side)).astype(np.uint8 if integer else np.float32)
    b = random.integers(-127, 127, (side, side)).astype(np.int8 if integer else np.float32)
    kinds = (TensorProto.UINT8, TensorProto.INT32) if integer else (TensorProto.FLOAT, TensorProto.FLOAT)
    given, made = (helper.make_tensor_value_info(n, k, [side, side]) for n, k in zip("ac", kinds, strict=True))
    node = helper.make_node("MatMulInteger" if integer else "MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "product", [given], [made], [numpy_helper.from_array(b, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    run = session(model.SerializeToString())
    return 2 * side**3 / best(lambda: run.run(None, {"a": a}), 400)


def bandwidth(megabytes: int = 768, piece: int = 2**20) -> float:
    """Bytes per second of copies that no cache holds, read and written."""
    source = np.ones(megabytes * 2**20 // 8)
    target = np.zeros_like(source)
    starts = range(0, len(source) - piece, piece)
    taken = [best(lambda i=i: np.copyto(target[i : i + piece], source[i : i + piece]), 1) for i in starts]
    return 2 * piece * 8 / float(np.quantile(taken, 0.1))


def class_of(node) -> OperatorClass:  # noqa: ANN001
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return OperatorClass.RECURRENT
    if "Conv" in node.op_type:
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        return OperatorClass.DEPTHWISE if groups > 1 else OperatorClass.CONVOLUTION
    product = "Gemm" in node.op_type or "MatMul" in node.op_type
    return OperatorClass.GEMM if product else OperatorClass.MEMORY


def profiled(path: Path, feeds: dict[str, np.ndarray], folder: Path) -> dict[OperatorClass, float]:
    """Seconds by operator class, each node's best of 50 runs."""
    import onnx

    optimised = folder / "optimised.onnx"
    options = {"enable_profiling": True, "profile_file_prefix": str(folder / "p")}
    run = session(path.read_bytes(), optimized_model_filepath=str(optimised), **options)
    for _ in range(50):
        run.run(None, feeds)
    events = json.loads(Path(run.end_profiling()).read_text())
    kinds = {node.name: class_of(node) for node in onnx.load(optimised).graph.node}
    taken: dict[str, float] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            taken[name] = min(taken.get(name, float("inf")), event["dur"] * 1e-6)
    sums = dict.fromkeys(OperatorClass, 0.0)
    for name, seconds in taken.items():
        sums[kinds.get(name, OperatorClass.MEMORY)] += seconds
    return sums


def calibrate() -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Once(CalibrationDataReader):
        def __init__(self, feeds: dict[str, np.ndarray]) -> None:
            self._left = iter([feeds])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    logging.disable(logging.WARNING)  # the quantizer's advice, once a network
    torch.set_num_threads(1)
    peaks, copy = {32: 0.0, 8: 0.0}, 0.0
    cases = [(name, build(), (1, *shape)) for name, (build, shape) in NETWORKS.items() if name in CALIBRATING]
    cases += [(f"encoder, {steps} tokens", Encoder(), (1, steps, 384)) for steps in (16, 128)]
    cases += [(f"LSTM {hidden}", Recurrent(hidden), (1, 32, 64)) for hidden in (128, 512)]
    measured = []
    for name, model, shape in cases:
        # again before each network, as other load can only make them too low
        peaks = {32: max(peaks[32], peak(integer=False)), 8: max(peaks[8], peak(integer=True))}
        copy = max(copy, bandwidth())
        x = torch.randn(shape)
        rows = counted(model.eval(), Inputs(x)).rows
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            settings = {"dynamo": True, "input_names": ["x"], "verbose": False, "external_data": False}
            torch.onnx.export(model, (x,), folder / "32.onnx", **settings)
            feeds = {"x": x.numpy()}
            if "LSTM" not in name:
                quantize_static(folder / "32.onnx", folder / "8.onnx", Once(feeds), per_channel=True)
            there = [bits for bits in (32, 8) if (folder / f"{bits}.onnx").exists()]
            measured += [(name, bits, rows, profiled(folder / f"{bits}.onnx", feeds, folder)) for bits in there]
    print(f"peaks {peaks[32] / 1e9:.0f} GFLOP/s, {peaks[8] / 1e9:.0f} GOP/s; copies {copy / 1e9:.1f} GB/s")
    for name, bits, rows, taken in measured:
        report(name, bits, rows, taken, peaks[bits], copy)


def report(name: str, bits: int, rows: tuple, taken: dict, operations: float, copy: float) -> None:
    said = []
    for kind in OperatorClass:
        if kind is OperatorClass.MEMORY or not taken[kind]:
            continue  # runtimes fuse and split these otherwise than the count does
        mine = [row for row in rows if row.kind is kind]
        compute = sum(row.flops for row in mine) / operations / taken[kind]
        moved = sum(row.inputs + row.outputs + sum(n for _, n in row.weights) for row in mine) * bits / 8
        said.append(f"{kind}: {compute:.2f} of the peak, {moved / copy / taken[kind]:.2f} of the copies")
    print(f"{name:22} {bits:2} bits  {'; '.join(said)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibrate", action="store_true", help="measure efficiencies by operator class here")
    if parser.parse_args().calibrate:
        calibrate()
    elif not compare():
        sys.exit(1)


if __name__ == "__main__":
    main()
