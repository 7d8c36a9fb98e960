"""Every kind of module and form of model: measured, quantized, shipped, deployed, and left exactly as it was found."""

from __future__ import annotations

import math
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import workbench as wb
from workbench import Cancelled, Quantization, Recipe, Report, Task, WorkbenchError, runtimes
from workbench.comparisons import fp32
from workbench.delivery import artifact
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.outputs import selected
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment
from workbench.store import Store

sys.path.insert(0, str(Path(__file__).parent))  # what several tests share
from any_models import CASES, made
from fingerprints import fingerprint

RANDOM = "random in evaluation"
EVERY = pytest.mark.parametrize("name", CASES)
GRAPHS = (
    "conv1d",
    "conv2d",
    "transposed 3d",
    "grouped",
    "depthwise dilated",
    "tied embedding",
    "tied by a function",
    "registered twice",
    "lstm two layers, both ways",
    "gru",
    "embedding, pooled",
    "attention, bias of keys",
    "transformer",
    "named inputs",
    "functional conv",
    "matmul",
    "transposed and norm",
    "weight norm",
    "ragged tokens",
)
"""One of each way in which a weight comes into a graph: an export takes a second."""
W8A8, W4A8, W8 = (
    Quantization(weight_bits=8, activation_bits=8),
    Quantization(weight_bits=4, activation_bits=8),
    Quantization(weight_bits=8),
)


def bench_of(name: str) -> tuple[nn.Module, wb.Bench]:
    model, inputs = made(name)
    # what is evaluated sets the ranges as well, or values outside them would be most of the noise
    return model, wb.Bench(model, Task.fidelity(inputs, calibration=inputs), store=Store(tempfile.mkdtemp()))


@cache
def shared(name: str) -> wb.Bench:
    """One for all tests that only read it."""
    return bench_of(name)[1]


def last(bench: wb.Bench, quantization: Quantization) -> Report:
    *_, report = bench.stream(Recipe(quantization=quantization))
    return report


def alike(inputs: Inputs) -> Inputs:
    """Examples that can be run at once."""
    return inputs[inputs.batches(torch.arange(len(inputs)), 20)[0]]


@torch.no_grad()
def outputs(model: nn.Module, inputs: Inputs) -> Tensor:
    """What a model of the user's gives in evaluation mode."""
    precision = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    tensors = [x.to(precision, copy=True) if x.is_floating_point() else x.clone() for x in inputs.tensors]
    named = dict(zip(inputs.named, tensors[len(inputs.positional) :], strict=True))
    return selected(model.eval()(*tensors[: len(inputs.positional)], **named), None).float()


def simulated(network: Network, inputs: Inputs, quantization: Quantization) -> Tensor:
    return selected(network.simulation.run(inputs, specs(quantization, network.layers)), None)


def cosine(ours: Tensor, theirs: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), 0))


@pytest.mark.parametrize("name", [name for name in CASES if name != RANDOM])
def test_in_fp32_it_is_the_users_model(name: str) -> None:
    bench = shared(name)
    batch = alike(bench.task.inputs)
    network = bench._network
    found = selected(network.simulation.run(batch, fp32(network)), None)
    assert torch.allclose(found, outputs(made(name)[0], batch), rtol=1e-4, atol=1e-5)
    assert torch.equal(network.call(batch), found) or torch.allclose(network.call(batch), found, atol=1e-6)
    assert bench.baseline.accuracy.value == pytest.approx(1)


@EVERY
def test_preflight_lists_every_layer_with_its_reasons_at_once(name: str) -> None:
    bench = shared(name)
    first = next(bench.preflight_stream())
    assert [(check.name, check.weights, check.activations) for check in first.layers] == [
        (layer.name, layer.weights, layer.activations) for layer in bench.layers
    ]
    assert [alone.name for alone in first.left_alone] == [alone.name for alone in bench.left_alone]
    assert 0 < first.quantizable <= 1 or name == "embedding that renormalises"


@pytest.mark.parametrize("name", [*GRAPHS[1:3], "data-dependent"])
def test_preflight_tries_what_will_run(name: str) -> None:
    found = shared(name).preflight()
    assert found.complete
    assert found.baseline is not None
    assert found.baseline.value == pytest.approx(1)
    tried = {(check.runtime, check.precision): check.works for check in found.runtimes}
    assert tried["eager", "fp32"]
    assert tried["onnxruntime", "int8"] == (name != "data-dependent")


@EVERY
def test_reports_are_finite_and_fidelity_follows_the_bits(name: str) -> None:
    bench = shared(name)
    eight, four, two = (last(bench, q) for q in (W8A8, W4A8, Quantization(weight_bits=2, activation_bits=8)))
    for report in (eight, four, two):
        found = [report.accuracy, report.drop, report.size, *(score.value for score in report.scores)]
        assert all(math.isfinite(x) for e in found for x in (e.value, e.low, e.high))
        assert all(row.sqnr is None or math.isfinite(row.sqnr) for row in report.layers)
        assert all(row.bytes >= 0 for row in report.layers)
        assert report.evaluated == report.total == len(bench.task)
    sqnr = [next(score.value.value for score in r.scores if score.metric.name == "SQNR") for r in (eight, four, two)]
    assert sqnr[0] > 25  # dB; a cosine of 0.998
    assert sqnr[0] > sqnr[1] > sqnr[2]
    cosines = [s.value.value for s in eight.scores if s.metric.name == "cosine"] or [1.0]
    assert cosines[0] > 0.995
    # of the layers alone: a file as small as these is mostly header
    sizes = [sum(row.bytes for row in r.layers) for r in (bench.baseline, eight, four, two)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    assert eight.size.value > four.size.value > two.size.value
    assert any(row.weight_bits == 8 for row in eight.layers)


@EVERY
def test_each_layer_follows_what_is_asked_of_it_alone(name: str) -> None:
    bench = shared(name)
    batch, network = alike(bench.task.inputs), bench._network
    base, plain = last(bench, W8), simulated(network, batch, W8)
    for layer in bench.layers:
        if layer.weights:
            continue
        low = W8.replace(layers={layer.name: {"weight_bits": 2}})
        rows = {row.name: row for row in last(bench, low).layers}
        for row in base.layers:
            assert (rows[row.name].weight_bits == 2) == (row.name == layer.name)
            assert rows[row.name] == row or row.name == layer.name
        same = torch.equal(simulated(network, batch, low), plain)
        assert same == (layer.name == "unused"), layer.name
        if not layer.activations:
            rounded = Quantization(layers={layer.name: {"activation_bits": 3}})
            assert not torch.equal(simulated(network, batch, rounded), simulated(network, batch, Quantization()))


@EVERY
def test_a_model_is_cut_into_stages_where_its_code_can_be_traced(name: str) -> None:
    not_at_all = {"data-dependent", "one linear", RANDOM}
    attending = {n for n in CASES if n.startswith(("attention", "transformer"))} | {"block repeated"}
    assert shared(name)._network.simulation.whole == (name in not_at_all | attending)


@EVERY
def test_what_is_remembered_changes_no_number(name: str) -> None:
    """Runs that start from the middle, again and again, against runs from the start."""
    bench = shared(name)
    batch, network = alike(bench.task.inputs), bench._network
    names = [layer.name for layer in bench.layers if not layer.weights]
    for changed in ((), *((n,) for n in names), tuple(names)):
        quantization = W8A8.replace(layers={layer: {"weight_bits": 3} for layer in changed})
        asked = specs(quantization, network.layers)
        for _ in range(2):
            kept = selected(network.simulation.run(batch, asked, key="a batch"), None)
            assert torch.equal(kept, simulated(network, batch, quantization))


@pytest.mark.parametrize("name", [name for name in CASES if name != RANDOM])
@pytest.mark.parametrize("bits", [8, 3])
def test_the_users_class_loads_what_is_shipped(name: str, bits: int) -> None:
    bench = shared(name)
    batch, quantization = alike(bench.task.inputs), Quantization(weight_bits=bits)
    read = artifact.read(bench._network.artifact(quantization, "{}"))
    model, _ = made(name)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.zero_()
    model.load_state_dict(read.state, strict=True)
    expected = simulated(bench._network, batch, quantization)
    assert torch.allclose(outputs(model, batch), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", GRAPHS)
def test_onnxruntime_runs_what_is_simulated(name: str) -> None:
    """Within a step of the activations' grids: a value between two steps may fall to either side."""
    bench = shared(name)
    batch, network = alike(bench.task.inputs), bench._network
    for quantization, least in ((Quantization(), 0.999999), (W8A8, 0.9995), (W4A8, 0.999)):
        asked = specs(quantization, network.layers)
        layers = network.quantized(asked)
        found = runtimes.prepare(Deployment(runtime="onnxruntime"), network, layers).run(batch)
        expected = simulated(network, batch, quantization)
        assert found.shape == expected.shape
        assert cosine(found, expected) >= least
        assert (found - expected).abs().max() <= (1e-4 if not layers else 0.03) * expected.abs().max() + 1e-5
        # what is said to be in the graph is in it
        assert network.graph.present >= {n for n, layer in layers.items() if layer.weight is not None} - {"unused"}


@EVERY
def test_eager_runs_what_is_simulated(name: str) -> None:
    bench = shared(name)
    batch, network = alike(bench.task.inputs), bench._network
    asked = specs(Quantization(weight_bits=4), network.layers)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # as the simulation does, for a model that draws
        found = runtimes.prepare(Deployment(runtime="eager"), network, network.quantized(asked)).run(batch)
    expected = simulated(network, batch, Quantization(weight_bits=4))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@EVERY
def test_the_given_model_is_left_exactly_as_it_was(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = made(name)
    for parameter in list(model.parameters())[:1]:
        parameter.grad = torch.full_like(parameter, 0.5)
        parameter.requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    next(iter(model.modules())).register_forward_pre_hook(lambda *_: None)
    before = fingerprint(model)
    data = [tensor.clone() for _, tensor in Inputs.of(inputs).rows()]
    bench = wb.Bench(model, Task.fidelity(inputs), store=Store(tempfile.mkdtemp()))
    assert fingerprint(model) == before
    last(bench, W8A8)
    assert fingerprint(model) == before

    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        list(bench.stream(Recipe(quantization=W4A8), cancel))
    assert fingerprint(model) == before

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("in mid-run")

    with monkeypatch.context() as patch:
        patch.setattr("workbench.grid.Grid.dequantize", fails)
        with pytest.raises(RuntimeError, match="in mid-run"):
            list(bench.stream(Recipe(quantization=Quantization(weight_bits=5, activation_bits=8))))
    assert fingerprint(model) == before
    # and the engine's own copy is whole as well
    assert last(bench, Quantization()).accuracy.value == pytest.approx(1)
    assert all(map(torch.equal, data, (tensor for _, tensor in Inputs.of(inputs).rows())))


def test_what_cannot_be_exported_is_told_and_runs_in_eager() -> None:
    bench = shared("data-dependent")
    untimed = bench.measure(Recipe(quantization=W8A8))
    assert untimed.latency is None and untimed.complete
    assert "'eager'" in untimed.untimed
    report = bench.measure(Recipe(quantization=W8A8, deployment=Deployment(runtime="eager")))
    assert report.latency is not None


def test_a_model_that_fails_is_told_so_and_left_as_it_was() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(8, 5), 0

        def forward(self, x: Tensor) -> Tensor:
            torch.rand(3)
            raise KeyError("in the user's code")

    model, task = Fails(), Task.fidelity(torch.randn(20, 8))
    before = fingerprint(model)
    with pytest.raises(WorkbenchError, match=r"does not run on Inputs\(.*KeyError: \"in the user's code"):
        wb.Bench(model, task)
    assert fingerprint(model) == before


def test_measuring_everything_leaves_the_model_as_it_was() -> None:
    model, bench = bench_of("branch before norm")
    before = fingerprint(model)
    report = bench.measure(Recipe(quantization=W4A8))
    assert report.latency is not None
    assert report.advice is not None
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("norm after conv", {"1", "4"}),
        ("norm before conv", set()),
        ("linear and norm", {"1"}),
        ("linear and norm of another axis", set()),
        ("transposed and norm", {"1", "4"}),
        ("branch before norm", {"norm2"}),
        ("registered twice", {"body.1", "again.1"}),
        ("block repeated", set()),  # it runs twice, and the norm with it
    ],
)
def test_which_norms_are_folded(name: str, folded: set[str]) -> None:
    network = shared(name)._network
    assert set(network.form.folded) == folded
    for norm in folded:
        assert isinstance(network.module.get_submodule(norm), nn.Identity)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("tied embedding", {"table", "inner"}),
        ("tied by a function", {"table", "inner"}),
        ("tied at the root", {"layer", "head"}),
        ("used twice", {"0", "4"}),
        ("functional linear", {"one", "two"}),
        ("functional conv", {"one", "two", "head"}),
        ("matmul", {"fc", "one", "two", "three"}),
        ("stacked experts", {"experts", "square"}),
        ("one linear", {"model"}),
    ],
)
def test_weights_are_found_once_whoever_uses_them(name: str, layers: set[str]) -> None:
    bench = shared(name)
    assert {layer.name for layer in bench.layers} == layers
    model, _ = made(name)
    assert bench.parameters == sum(p.numel() for p in model.parameters())
    bytes_in_rows = sum(row.bytes for row in last(bench, Quantization()).layers)
    assert bytes_in_rows <= 4 * bench.parameters


def test_what_is_left_alone_says_why() -> None:
    assert {alone.name for alone in shared("transformer")._network.left_alone} == {
        f"layers.{i}.norm{k}" for i in (0, 1) for k in (1, 2)
    }
    (layer,) = [layer for layer in shared("embedding that renormalises").layers if layer.kind == "Embedding"]
    assert "max_norm" in layer.weights
    (unused,) = [layer for layer in shared("unused layer").layers if layer.name == "unused"]
    assert "does not reach" in unused.activations
