"""What runs is compared with what is simulated, and where they part is found: runtimes that are wrong on purpose."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import Deployment, Quantization, Recipe, Task, WorkbenchError, runtimes
from workbench.errors import Cancelled
from workbench.exporting import agreement
from workbench.exporting.agreeing import agreeing
from workbench.exporting.ties import tie
from workbench.metrics import Cosine, MeanIoU, TokenAccuracy
from workbench.quantization.quantizer import specs

W8A8, W4A8 = Quantization(weight_bits=8, activation_bits=8), Quantization(weight_bits=4, activation_bits=8)


@pytest.fixture(scope="module")
def two_thousand(bench):
    """seed-cnn on 2,000 images."""
    task = bench.task
    some = Task.classification(task.inputs[:2000], task.targets[:2000], classes=10, calibration=task.calibration)
    return wb.Bench(wb.zoo.model("seed-cnn"), some, store=bench.store)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("quantization", "least"), [(W8A8, 0.999), (W4A8, 0.995)])
def test_what_runs_gives_the_simulations_answers(two_thousand, runtime, quantization, least):
    recipe = Recipe(quantization=quantization, deployment=Deployment(runtime=runtime))
    found = two_thousand.agreement(recipe)
    assert found.examples == found.total == 2000 and found.done
    assert found.rate.value >= least and found.rate.source == "measured"
    assert found.rate.low <= found.rate.value <= found.rate.high
    assert f"{runtime} gives the simulation's answer on" in str(found)


def test_disagreements_are_those_that_counting_finds_and_start_where_inputs_are_not_rounded(two_thousand):
    quantization = Quantization(weight_bits=4, activation_bits=3)
    recipe = Recipe(quantization=quantization, deployment=Deployment(runtime="eager"))
    network = two_thousand._network
    asked = specs(quantization, network.layers)
    run = runtimes.prepare(recipe.deployment, network, network.quantized(asked)).run
    inputs = two_thousand.task.inputs
    apart = torch.cat(
        [network.simulation.run(inputs[i : i + 100], asked).argmax(1) != run(inputs[i : i + 100]).argmax(1)
         for i in range(0, 2000, 100)]
    )  # fmt: skip
    states = list(two_thousand.agreement_stream(recipe))
    found = states[-1]
    assert 20 < found.disagreements == int(apart.sum())
    assert len(found.differing) == 20 and all(apart[index] for index in found.differing)
    assert found.rate.value == pytest.approx(1 - found.disagreements / 2000)
    assert found.layer == "conv1" and found.distance > 0
    assert "No integer kernel runs there" in found.reason and "fp32" in found.note
    seen = [state.examples for state in states]
    assert seen == sorted(seen) and seen[0] == 100 and not states[0].done


def small(store, task=None, outputs=4):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, outputs))
    inputs = torch.randn(250, 6)
    return wb.Bench(model, task(inputs) if task else Task.fidelity(inputs, calibration=inputs), store=store)


def compared(bench, prepare, quantization=W8A8, cancel=None):
    recipe = Recipe(quantization=quantization)
    asked = specs(quantization, bench._network.layers)
    return list(agreeing(bench._evaluation, bench._network, asked, recipe, prepare, cancel))


def runs(bench, change=lambda outputs: outputs, integer=1):
    """A runtime that gives what the simulation gives, changed; it hears which layers are on grids."""

    def prepare(layers):
        asked = {n: s if n in layers else type(s)(None, None) for n, s in specs(W8A8, bench._network.layers).items()}
        wrong = change if not isinstance(change, dict) else change.get(max(layers, default=None), lambda x: x)
        return SimpleNamespace(
            run=lambda batch: wrong(bench._network.simulation.run(batch, asked)), note=None, integer=integer
        )

    return prepare


@pytest.mark.parametrize("wrong", ["0", "2", "4"])
def test_a_disagreement_starts_at_the_first_layer_that_is_wrong(store, wrong):
    bench = small(store)
    changes = {name: lambda x: x.flip(1) for name in ("0", "2", "4") if name >= wrong}
    found = compared(bench, runs(bench, changes))[-1]
    assert found.layer == wrong and found.disagreements > 200 and found.distance > 0.1
    assert f"the disagreement starts at {wrong}" in found.sentence


def test_floating_point_that_differs_is_told_apart_from_layers(store):
    bench = small(store)
    found = compared(bench, runs(bench, lambda x: x.roll(1, 1)))[-1]
    assert found.layer == "0" and "before any layer is quantized" in found.reason


def test_equal_outputs_that_floats_decide_are_said_to_be(store):
    bench = small(store)
    last = bench._network.module[4]
    last.weight.data[1] = last.weight.data[0]
    last.bias.data[:2] = 50.0  # always the winners
    found = compared(bench, runs(bench, lambda x: x + torch.tensor([0, 1e-5, 0, 0])))[-1]
    assert found.disagreements == 250 and found.layer is None and "equal but for float rounding" in found.reason


@pytest.mark.parametrize("beyond", [0.5, 0.3])
def test_a_tie_in_rounding_is_proven(store, beyond):
    """Two inputs in the middle between two points, or elsewhere, go to the upper point in what runs."""
    torch.manual_seed(1)
    model, inputs = nn.Sequential(nn.Linear(6, 4)), torch.randn(100, 6)
    network = wb.Bench(model, Task.fidelity(inputs, calibration=inputs), store=store)._network
    asked = specs(W8A8, network.layers)
    layer = network.quantized(asked)["0"]
    step = layer.activation_grid.scale
    example = torch.tensor([[10.0 + beyond, 4, 7, 12.0 + beyond, 3, 5]]) * step
    upper = torch.tensor([[11.0, 4, 7, 13, 3, 5]]) * step
    theirs = nn.functional.linear(upper, layer.parameters()["0.weight"], layer.parameters()["0.bias"])
    said = tie(network, asked, "0", wb.Inputs(example), theirs, 1e-5)
    assert ("2 values at its input lie " in said) == (beyond == 0.5)
    assert (said == "") == (beyond != 0.5)


@pytest.mark.parametrize(
    ("task", "name", "rate"),
    [
        (lambda x: Task.embedding(x, calibration=x), "cosine", 1 - 2 * 6 / 250),
        (lambda x: Task.multi_label(x, torch.ones(250, 4), calibration=x), "exact match", 1 - 6 / 250),
        (lambda x: Task.fidelity(x, calibration=x), "top-1 agreement", 1 - 6 / 250),
    ],
)
def test_outputs_of_every_kind_are_compared(store, task, name, rate):
    bench = small(store, task)
    # two examples of each of three batches are turned round
    found = compared(bench, runs(bench, lambda x: torch.cat([-x[:2], x[2:]])))[-1]
    assert found.metric.name == name and found.disagreements == 6
    assert found.rate.value == pytest.approx(rate)
    first = [int(part[at]) for part in bench._evaluation.parts for at in (0, 1)]
    assert list(found.differing) == first


def test_classes_of_tokens_and_pixels_are_counted():
    tokens, pixels = torch.randn(2, 5, 3), torch.randn(2, 3, 4, 4)
    other, apart = tokens.clone(), pixels.clone()
    other[0, 1] = -other[0, 1]
    apart[1, :, 2, 3] = -apart[1, :, 2, 3]
    for metric, one, two, wrong in (
        (TokenAccuracy(), other, tokens, [[4, 5], [5, 5]]),
        (MeanIoU(3), apart, pixels, [[16, 16], [15, 16]]),
    ):
        found, differs = agreement.compared([metric], one, two)
        assert found.tolist() == wrong and differs.tolist() == [row[0] < row[1] for row in wrong]


def test_two_vectors_of_zeros_are_the_same():
    found, differs = agreement.compared([Cosine()], torch.zeros(2, 3), torch.zeros(2, 3))
    assert found.tolist() == [[1], [1]] and not differs.any()


def test_one_number_is_compared_by_the_variance_that_is_explained(store):
    bench = small(store, lambda x: Task.regression(x, x[:, :1], calibration=x), outputs=1)
    same, off = (compared(bench, runs(bench, change))[-1] for change in (lambda x: x, lambda x: x + x.abs().max()))
    assert same.metric.name == "R²" and same.rate.value == 1 and same.alike
    assert off.rate.value < 0 and off.disagreements == 250


def test_every_call_has_a_whole_batch(store):
    bench = small(store)
    sizes = []

    def prepare(layers):
        made = runs(bench)(layers)
        run = made.run
        made.run = lambda batch: sizes.append(len(batch)) or run(batch)
        return made

    found = compared(bench, prepare)[-1]
    assert sizes == [100, 100, 100] and found.examples == 250 and found.alike


def test_it_can_be_cancelled(store):
    bench, cancel = small(store), threading.Event()
    stream = agreeing(
        bench._evaluation, bench._network, specs(W8A8, bench._network.layers), Recipe(), runs(bench), cancel
    )
    next(stream)
    cancel.set()
    with pytest.raises(Cancelled):
        next(stream)


def test_outputs_of_another_shape_are_refused(store):
    bench = small(store)
    with pytest.raises(WorkbenchError, match=r"returned shape \(100, 2\) where the simulation returns \(100, 4\)"):
        compared(bench, runs(bench, lambda x: x[:, :2]))
