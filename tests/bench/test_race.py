from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import workbench as wb

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from networks import resnet8, settled
from peers import onnxruntime_static
from race import cases, cells, making, printing
from race.kept import Kept

PEER = onnxruntime_static.PEER
EXAMPLES = 20


def tiny() -> nn.Module:
    torch.manual_seed(0)
    head = (nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 6))
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *head).eval()


def images() -> wb.Task:
    drawn = torch.randn(2 * EXAMPLES, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    return wb.Task.fidelity(drawn[:EXAMPLES], calibration=drawn[EXAMPLES:])


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cases.NETWORKS, "tiny", cases.Network(tiny, images))
        yield cases.Case("tiny", tmp_path_factory.mktemp("tiny"))


def found(ratio: tuple[float, float, float], noise: tuple[float, float, float]) -> cells.Cell:
    return cells.Cell("openvino", "none", {}, "peer", cells.Interval(*ratio), cells.Interval(*noise), {})


@pytest.mark.parametrize(
    ("ratio", "noise", "verdict"),
    [
        ((0.8, 0.75, 0.85), (1.0, 0.99, 1.01), "faster"),
        ((1.02, 0.98, 1.06), (1.0, 0.99, 1.01), "not slower"),
        ((1.04, 1.02, 1.06), (1.02, 0.97, 1.05), "not slower"),
        ((1.04, 1.02, 1.06), (0.98, 0.95, 1.01), "not slower"),  # which of two equal sessions is the first is chance
        ((1.3, 1.2, 1.4), (1.0, 0.95, 1.05), "SLOWER"),
    ],
)
def test_slower_is_what_neither_the_interval_nor_the_noise_explains(ratio, noise, verdict):
    assert found(ratio, noise).verdict == verdict


@given(st.floats(0.2, 5), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_machine_that_is_never_quiet_finds_nobody_slower(value, below, above):
    cell = found((value, value - below * value, value + above), (1.0, 0.1, 10.0))
    assert cell.verdict != "SLOWER"


def test_peers_are_given_what_ours_looks_at_in_the_graph_s_own_names(case):
    given = case.job.calibration
    (seen,) = case.bench._network._seen.tensors
    assert list(given[0]) == ["input_0"]
    assert np.array_equal(np.concatenate([batch["input_0"] for batch in given]), seen.numpy())


def test_everybody_makes_the_network_from_a_bench_that_knows_nothing(case):
    taken = making.making(case, [PEER], threads=1)
    assert taken["seconds"].keys() == {"onnxruntime", "openvino", "quantize_static"}
    assert min(taken["seconds"].values()) > 0
    assert taken["examples"] == EXAMPLES
    assert case.fresh()._network._observations is None


def test_a_cell_compares_with_the_fastest_peer_and_shows_what_the_speed_costs(case):
    made = {PEER: PEER.make(case.job)}
    layers = {sums: making.quantized(case.bench, sums) for sums in making.RECIPES}
    cell = cells.cell(case, layers, made, batch=2, threads=1)
    assert cell.seconds.keys() == cell.fidelity.keys() == {"ours", "quantize_static"}
    assert cell.peer == "quantize_static"
    assert cell.runtime in making.RUNTIMES
    assert cell.noise.low <= cell.noise.value <= cell.noise.high
    assert all(20 < quality < 80 for quality in cell.fidelity.values())  # 8 bits, and neither is fp32
    line = printing.timed("tiny", 2, 1, cell)
    assert cell.verdict in line and "quantize_static" in line


def test_a_share_above_the_target_is_said():
    taken = {"examples": 1, "export": 1.0, "seconds": {"onnxruntime": 0.6, "quantize_static": 1.0}}
    assert "0.60, ABOVE" in printing.made("net", taken, [PEER])
    taken["seconds"]["onnxruntime"] = 0.4
    assert "ABOVE" not in printing.made("net", taken, [PEER])
    assert not printing.above(taken, [PEER])
    taken["seconds"] |= {"onnxruntime": 0.6, onnxruntime_static.AT_ONCE.name: 0.5}
    assert printing.above(taken, [PEER]) == ["quantize_static"]
    line = printing.made("net", taken, [PEER], [onnxruntime_static.AT_ONCE])
    assert "without quant_pre_process  0.50 s: 1.20" in line and line.count("ABOVE") == 1


def test_the_first_recipe_stands_apart_and_the_worst_of_the_others_decides():
    assert "within" in printing.to_latency({"openvino": [0.9, 0.1, 0.2, 0.5]})
    said = printing.to_latency({"onnxruntime": [0.9, 0.1, 0.2, 0.6], "openvino": [0.7, 0.3]})
    assert "ABOVE" in said and "first recipe, calibration included: 0.90 s" in said
    assert len(said.splitlines()) == 2


def test_a_latency_is_had_as_a_user_has_it(case):
    taken = making.to_latency(case)
    assert taken.keys() == {"onnxruntime", "openvino"}
    assert all(len(each) == 7 and min(each) > 0 for each in taken.values())


def test_the_peer_s_graph_is_made_with_and_without_what_it_advises(case):
    one = case.arrays(case.batch(1))
    taken = making.making(case, [PEER, onnxruntime_static.AT_ONCE], threads=1)
    assert onnxruntime_static.AT_ONCE.name in taken["seconds"]
    found = [
        peer.open(case.folder / name, 1, one).output()
        for peer, name in ((PEER, "static.onnx"), (onnxruntime_static.AT_ONCE, "static-at-once.onnx"))
    ]
    assert cells.decibels(*found) > 25  # the same numbers, about


def test_what_is_kept_is_not_made_again(tmp_path):
    file = tmp_path / "kept" / "runtimes.json"
    Kept(file).made("cell", lambda: {"ratio": [1.0, 0.5, 2.0]})
    again = Kept(file)
    assert "cell" in again and "other" not in again
    assert again.made("cell", lambda: pytest.fail("made again")) == {"ratio": [1.0, 0.5, 2.0]}


def test_random_networks_are_the_same_each_time_and_keep_the_size_of_what_runs_through():
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        first, again, other = (settled(resnet8, seed, images=2)(x) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.05 < first.std() < 20
