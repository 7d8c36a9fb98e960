"""Histograms of a layer count what is there, and their limits are those of the grids."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.errors import RecipeError
from workbench.explaining.histogram import BINS


def recipe(**quantization) -> wb.Recipe:
    return wb.Recipe(quantization=wb.Quantization(**quantization))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    task = wb.Task.fidelity(torch.randn(80, 6), calibration=torch.randn(50, 6))
    return wb.Bench(model, task, store=wb.Store(tmp_path_factory.mktemp("store")))


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_value_is_counted_before_and_after(bench, granularity, bits):
    found = bench.histogram(recipe(weight_bits=bits, activation_bits=bits, granularity=granularity), "2")
    for part, values in ((found.weights, 36), (found.inputs, 50 * 12)):
        assert len(part.before) == len(part.after) == BINS
        assert sum(part.before) == pytest.approx(values) and sum(part.after) == pytest.approx(values)
        assert part.low <= part.minimum <= part.maximum <= part.high
        assert 0 <= part.clipped <= 1 and part.bits == bits
    assert json.loads(found.model_dump_json())["layer"] == "2"


def test_the_limits_are_the_ends_of_the_grids(bench):
    made = recipe(weight_bits=3, activation_bits=4, granularity="tensor", range="minmax")
    found = bench.histogram(made, "2")
    weight = bench._network.layers["2"].weight
    step = float(weight.abs().max()) / 3.5
    assert found.weights.clip_low == pytest.approx((-4 * step,) * 2)
    assert found.weights.clip_high == pytest.approx((3 * step,) * 2)
    assert found.weights.clipped == 0
    steps = torch.tensor(found.weights.values) / step
    assert torch.allclose(steps, steps.round(), atol=1e-4) and 4 <= len(steps) <= 8
    assert found.inputs.clip_low == (0.0, 0.0) and found.inputs.minimum == 0.0
    assert found.inputs.clip_high[0] == pytest.approx(found.inputs.maximum, rel=1e-3)


def test_what_is_clipped_is_counted(bench):
    weight = bench._network.layers["0"].weight
    found = bench.histogram(recipe(weight_bits=8, method="naive"), "0").weights
    step = 2.0**-7
    outside = ((weight > 1 - step + step / 2) | (weight < -step / 2)).float().mean()
    assert found.clipped == pytest.approx(float(outside), abs=0.03) and found.clipped > 0.3
    assert found.clip_low == (0.0, 0.0)


def test_the_noise_is_that_of_the_layers_row(bench):
    made = recipe(weight_bits=3, activation_bits=8)
    rows = {row.name: row for row in bench.measure(made).layers}
    explained = bench.explain(made)
    for name in ("0", "2"):
        found = bench.histogram(made, name)
        assert found.weights.sqnr == pytest.approx(rows[name].sqnr, abs=1e-3)
        assert found.inputs.sqnr == pytest.approx(explained.layer(name).activation_sqnr, abs=1e-3)


def test_what_stays_in_fp32_has_no_after(bench):
    found = bench.histogram(recipe(weight_bits=4, layers={"2": {"weight_bits": None}}), "2")
    assert found.weights.after == () and found.weights.bits is None and found.weights.clip_low is None
    assert sum(found.weights.before) == 36 and found.inputs.after == ()


def test_a_layer_of_one_value_is_drawn_too(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    nn.init.zeros_(model[0].weight)
    bench = wb.Bench(model, wb.Task.fidelity(torch.randn(20, 2)), store=wb.Store(tmp_path))
    found = bench.histogram(recipe(weight_bits=4, activation_bits=4), bench.layers[0].name)
    assert sum(found.weights.before) == 4 and found.weights.low < found.weights.high


def test_a_layer_that_is_not_there_is_named(bench):
    with pytest.raises(RecipeError, match="no layer 'fc'"):
        bench.histogram(recipe(weight_bits=4), "fc")


@pytest.mark.parametrize("scheme", ["affine", "midrise", "power_of_two", "codebook", "float", "mx"])
def test_every_grid_is_drawn(bench, scheme):
    found = bench.histogram(recipe(weight_bits=4, scheme=scheme, granularity="channel"), "2").weights
    assert sum(found.after) == pytest.approx(36) and found.clip_low[0] < found.clip_high[1]
    assert found.sqnr > 5
