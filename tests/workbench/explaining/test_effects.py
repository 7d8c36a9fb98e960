"""Each effect is what measuring the recipe with the layer set apart says; the layer that hurts is found."""

from __future__ import annotations

import threading

import onnx
import pytest
import torch
from torch import nn

import workbench as wb
from workbench.comparisons import COST_EXAMPLES
from workbench.errors import Cancelled, RecipeError
from workbench.explaining.explanation import LayerEffect
from workbench.loading.onnx_session import OnnxModule
from workbench.quantization.quantizer import LayerSpec
from workbench.report import Estimate

NONE = {"weight_bits": None, "activation_bits": None}


def recipe(**quantization) -> wb.Recipe:
    return wb.Recipe(quantization=wb.Quantization(**quantization))


def classifier(store, *, targets: bool = True) -> wb.Bench:
    """Three layers, of which the first has weights that few bits cannot tell apart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    inputs = torch.randn(700, 8)
    with torch.inference_mode():
        model[4].bias -= model(inputs).mean(0)  # so that all classes occur
        model[0].weight[:, 0] *= 40
        inputs[:, 0] /= 40
        right = model(inputs).argmax(1)
    data = {"calibration": torch.cat([torch.randn(60, 1) / 40, torch.randn(60, 7)], 1)}
    task = wb.Task.classification(inputs, right, classes=4, **data) if targets else wb.Task.fidelity(inputs, **data)
    return wb.Bench(model, task, name="small", store=store)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return classifier(wb.Store(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def explained(small):
    return small.explain(recipe(weight_bits=4, activation_bits=6))


def drop(bench, made) -> Estimate:
    *_, report = bench.stream(made)
    return report.drop


def test_the_layer_that_hurts_is_found_and_named(explained):
    assert explained.hurts == "0"
    assert explained.layer("0").off.low > 0
    assert explained.sentence.startswith("0: ") and "when it alone returns to fp32" in explained.sentence
    assert explained.complete and explained.scanned and explained.examples == 700
    assert "0: " in str(explained) and "<table>" in explained._repr_html_()
    assert all(row.off.source == "simulated" for row in explained.layers)


def test_one_layer_off_is_the_difference_of_two_measured_recipes(small, explained):
    q = wb.Quantization(weight_bits=4, activation_bits=6)
    whole = drop(small, wb.Recipe(quantization=q)).value
    for row in explained.layers:
        restored = drop(small, wb.Recipe(quantization=q.replace(layers={row.name: NONE}))).value
        assert row.off.value == pytest.approx(whole - restored)
        assert row.off.low <= row.off.value <= row.off.high


def test_one_layer_on_and_its_parts_are_measured_recipes(small, explained):
    bits = {"weight_bits": 4, "activation_bits": 6}
    for row in explained.layers:
        for part, own in (
            ("on", bits),
            ("weights", bits | {"activation_bits": None}),
            ("activations", bits | {"weight_bits": None}),
        ):
            expected = drop(small, recipe(layers={row.name: own}))
            found = getattr(row, part)
            assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_noise_is_that_of_the_values_themselves(small, explained):
    spec = recipe(weight_bits=4, activation_bits=6).quantization
    report = {row.name: row for row in small.measure(wb.Recipe(quantization=spec)).layers}
    for row in explained.layers:
        assert row.weight_sqnr == pytest.approx(report[row.name].sqnr)
    quantizer = small._network.quantizer
    x = small.task.calibration.tensors[0]
    from workbench.quantization.quantizer import specs

    grid = quantizer.activation_grid(specs(spec, small._network.layers)["0"].activation)
    noise = (grid.fake_quantize(x) - x).square().sum()
    assert explained.layer("0").activation_sqnr == pytest.approx(
        float(10 * torch.log10(x.square().sum() / noise)), abs=0.3
    )


def test_layer_costs_of_a_report_are_the_same_numbers(small, explained):
    report = small.measure(recipe(weight_bits=4, activation_bits=6))
    assert {row.name: row.cost for row in report.layers} == {row.name: row.off for row in explained.layers}


def test_where_weights_alone_are_quantized_they_are_all_of_it(small):
    found = small.explain(recipe(weight_bits=2))
    for row in found.layers:
        assert row.activations is None and row.activation_sqnr is None and row.on == row.weights
    assert found.layer("0").parts.startswith("all from weights")
    assert found.layer("0").weight_share == 1.0


def test_nothing_hurts_where_nothing_is_lost(small):
    found = small.explain(recipe(layers={"2": {"weight_bits": 8}}))
    assert found.hurts is None and "No single layer hurts" in found.sentence
    assert all(row.off.includes(0) for row in found.layers)
    nothing = small.explain(wb.Recipe())
    assert nothing.layers == () and nothing.complete and "Nothing is quantized" in nothing.sentence


def test_it_grows_and_knows_who_hurts_before_the_parts(small):
    stages = list(small.explain_stream(recipe(weight_bits=4, activation_bits=6)))
    assert [stage.done for stage in stages] == list(range(13)) and stages[-1].total == 12
    assert [stage.hurts is not None for stage in stages].index(True) == 3
    assert stages[3].layer("0").on is None


def test_a_cancel_ends_it(small):
    cancel = threading.Event()
    stream = small.explain_stream(recipe(weight_bits=4, activation_bits=3), cancel)
    next(stream)
    cancel.set()
    with pytest.raises(Cancelled):
        list(stream)


def test_what_the_bench_cannot_measure_it_cannot_explain(small):
    with pytest.raises(RecipeError, match="no layer"):
        small.explain(recipe(layers={"conv": {"weight_bits": 4}}))


def test_layers_that_cannot_be_told_from_the_worst_are_said(small):
    found = small.explain(recipe(weight_bits=2, activation_bits=2))
    without = {
        row.name: small._evaluation.all(
            small._network,
            {**_asked(small, found.recipe), row.name: LayerSpec(None, None)},
            small._network,
        )
        for row in found.layers
    }
    for row in found.layers:
        worst = found.layer(found.hurts).off.value
        if row.name != found.hurts and (row.off.low > 0 or row.off.value >= worst):
            told = without[row.name].drop(without[found.hurts])
            assert (row.name in found.beside) == told.includes(0)


def _asked(bench, made):
    from workbench.quantization.quantizer import specs

    return specs(made.quantization, bench._network.layers)


def estimate(value: float, half: float) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, unit="", source="simulated")


def test_the_shares_of_the_parts():
    row = LayerEffect(name="fc", kind="Linear", weight_bits=4, activation_bits=8)
    known = {"on": estimate(0.04, 0.01), "weights": estimate(0.03, 0.01), "activations": estimate(0.01, 0.005)}
    assert row.model_copy(update=known).weight_share == pytest.approx(0.75)
    assert row.model_copy(update=known).parts == "75\u202f% from weights, 25\u202f% from activations"
    faint = known | {"activations": estimate(0.001, 0.005)}
    assert "activations alone: not distinguishable" in row.model_copy(update=faint).parts
    assert row.model_copy(update=known | {"on": estimate(0.001, 0.01)}).weight_share is None
    both = {"weights": estimate(0.01, 0.02), "activations": estimate(0.01, 0.02)}
    assert "neither" in row.model_copy(update=known | both).parts
    assert row.model_copy(update=known | {"activations": None}).weight_share is None


def test_a_network_too_large_to_be_run_so_often_has_its_noise_told(small, monkeypatch):
    monkeypatch.setattr(small._network, "operations", 1e12)
    found = small.explain(recipe(weight_bits=4))
    assert found.complete and found.hurts is None and found.examples == 0 and "too large" in found.notes[0]
    assert all(row.off is None and row.weight_sqnr for row in found.layers)


def test_of_a_large_network_only_the_worst_layers_run_alone(small, monkeypatch):
    # three runs without a layer and four with one alone fit into the budget
    monkeypatch.setattr(small._network, "operations", 1e12 / (4 * 700))
    found = small.explain(recipe(weight_bits=4, activation_bits=6))
    assert found.complete and found.scanned and found.examples == min(COST_EXAMPLES, 700)
    alone = [row.name for row in found.layers if row.on is not None]
    assert alone == [max(found.layers, key=lambda row: row.off.value).name]
    assert any("largest effects" in note for note in found.notes)


def test_a_graph_is_explained_as_the_module_it_came_from(small, tmp_path):
    graph = onnx.load(small.export(wb.Recipe(), tmp_path / "net.onnx"))
    bench = wb.Bench(OnnxModule(graph, "It is a test."), small.task, name="graph", store=wb.Store(tmp_path))
    made = recipe(weight_bits=4, activation_bits=6)
    ours, theirs = bench.explain(made), small.explain(made)
    assert [row.off.value for row in ours.layers] == pytest.approx([row.off.value for row in theirs.layers], abs=0.01)
    assert any("ONNX graph" in note for note in ours.notes)
    assert ours.layers[ours.layers.index(ours.layer(ours.hurts))].weight_bits == 4
    assert len(bench.flips(made).lost) == pytest.approx(len(small.flips(made).lost), abs=3)
    assert bench.histogram(made, bench.layers[0].name).weights.sqnr == pytest.approx(
        small.histogram(made, "0").weights.sqnr
    )
