"""A bench's bounds, and the networks and published latencies of the bench script."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.hardware import ProfileError, load_profiles, profile, profiles
from workbench.hardware.counting import counted
from workbench.inputs import Inputs
from workbench.store import Store

W8A8 = wb.Recipe(quantization=wb.Quantization(weight_bits=8, activation_bits=8))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))
    return importlib.import_module("devices")


@pytest.mark.parametrize(
    ("network", "published", "within"),
    [
        ("MobileNetV1", 569e6, 0.01),  # arXiv:1704.04861, table 4
        ("MobileNetV2", 300e6, 0.01),  # arXiv:1801.04381, table 4
        ("ResNet-18", 1.8e9, 0.01),  # arXiv:1512.03385, table 1
        ("ResNet-50 at 299", 3.8e9 * (299 / 224) ** 2, 0.1),  # as the same at 224; windows are counted in whole pixels
        ("ResNet-8", 12.5e6, 0.001),  # MLPerf Tiny
    ],
)
def test_known_networks_have_their_published_macs(
    script: ModuleType, network: str, published: float, within: float
) -> None:
    build, shape = script.NETWORKS[network]
    counts = counted(build().eval(), Inputs(torch.zeros(1, *shape)))
    assert counts.macs == pytest.approx(published, rel=within)
    assert not counts.uncounted


def test_published_latencies_get_narrow_ranges_of_the_same_order(script: ModuleType) -> None:
    for case, found in script.predictions():
        assert found.latency.high <= 10 * found.latency.low, case
        assert found.latency.low / 3 < case.seconds < 3 * found.latency.high, case


def test_seed_cnn_has_the_macs_that_were_counted_by_hand(bench: wb.Bench) -> None:
    counts = bench.counts()
    assert counts.flops == 5_588_480
    assert counts.parameters == 93_322
    assert [row.name for row in counts.rows if row.macs] == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert bench.counts() is counts


@pytest.mark.parametrize("device", profiles(), ids=lambda each: each.name)
def test_every_device_answers(bench: wb.Bench, device) -> None:
    assert device in bench.hardware()
    found = bench.bound(W8A8, device)
    assert found.latency.low > 0
    assert found.latency.high <= 10 * found.latency.low * (1 + 1e-9)
    assert found.sentence in str(found)
    assert bench.bound(W8A8, device.name) == found


def test_the_recipes_bits_and_batch_count(bench: wb.Bench) -> None:
    mixed = W8A8.replace(
        quantization=W8A8.quantization.replace(layers={"fc1": {"weight_bits": 3}, "conv1": {"weight_bits": None}}),
        deployment=wb.Deployment(batch=4),
    )
    found = bench.bound(mixed, "Raspberry Pi 5")
    rows = {row.name: row for row in found.rows}
    assert (rows["fc1"].weight_bits, rows["fc1"].activation_bits, rows["fc1"].kernel) == (3, 8, "int8")
    assert (rows["conv1"].weight_bits, rows["conv1"].kernel) == (None, "fp32")
    assert found.macs == 4 * bench.counts().macs
    assert "conv1" in bench.bound(mixed, "Coral Edge TPU").reason


def test_attention_stays_in_floating_point_until_it_is_named(store: Store) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    bench = wb.Bench(layer, wb.Task.fidelity(torch.randn(4, 6, 16)), store=store)
    common = bench.bound(W8A8, "Raspberry Pi 5")
    products = [row for row in common.rows if row.operator == "bmm"]
    assert {row.kernel for row in products} == {"fp32"}
    operands = [info.name for info in bench.layers if info.by_name_only]
    named = W8A8.quantization.replace(layers={name: {"activation_bits": 8} for name in operands})
    everything = bench.bound(wb.Recipe(quantization=named), "Raspberry Pi 5")
    assert {row.kernel for row in everything.rows if row.operator == "bmm"} == {"int8"}


def test_a_device_of_ones_own(bench: wb.Bench, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[[profile]]\nname = "Mine"\nfamily = "desktop"\npeaks = { int8 = 1e9 }\n[profile.sources]\npeaks = "a guess"\n'
    )
    found = bench.bound(W8A8, load_profiles(file)[0])
    assert (found.device, found.overhead, found.memory.fits) == ("Mine", None, None)


def test_what_is_not_there_is_named(bench: wb.Bench) -> None:
    with pytest.raises(ProfileError, match="'NVIDIA T4'"):
        bench.bound(W8A8, "NVIDIA T5")
    with pytest.raises(wb.WorkbenchError, match="there is no layer 'fc9'"):
        bench.bound(wb.Recipe(quantization=wb.Quantization(layers={"fc9": {"weight_bits": 8}})), "NVIDIA T4")


def test_one_latency_that_was_measured_there_narrows_the_next(bench: wb.Bench) -> None:
    first = bench.bound(W8A8, "Raspberry Pi 5")
    mine = profile("Raspberry Pi 5").calibrated(first.latency.value, 1e-3)
    assert bench.bound(W8A8, mine).latency.value == pytest.approx(1e-3)
    assert any("measured there" in note for note in bench.bound(W8A8, mine).notes)
