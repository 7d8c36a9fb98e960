"""What is seen of activations: exactly what arrives, in one pass or two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.calibration import observe, watching
from workbench.quantization.finding import find_layers
from workbench.quantization.quantizer import specs


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(48, 5)).eval()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_is_seen_does_not_depend_on_how_it_lies_in_memory(model: nn.Module, layout: torch.memory_format) -> None:
    x = Inputs(torch.randn(12, 2, 8, 8).to(memory_format=layout))
    layers, _ = find_layers(model, x[:2])
    seen = observe(model, layers, x, 5)
    arrived: dict[str, list[torch.Tensor]] = {}
    with watching(model, layers, lambda name, value: arrived.setdefault(name, []).append(value)), torch.no_grad():
        x.call(model)
    for name, (value,) in arrived.items():
        centres, counts = seen[name].centres, seen[name].counts
        assert (centres[0], centres[-1]) == (value.min(), value.max())
        assert torch.equal(counts, torch.histc(value.contiguous(), len(counts), min=centres[0], max=centres[-1]))


def test_infinities_and_nan_are_passed_over_in_both_passes() -> None:
    layer = nn.Sequential(nn.Linear(4, 2)).eval()
    x = Inputs(torch.tensor([[1.0, -2.0, float("inf"), float("nan")], [3.0, float("-inf"), 0.5, 0.0]]))
    layers, _ = find_layers(layer, Inputs(torch.zeros(2, 4)))
    (seen,) = observe(layer, layers, x).values()
    assert (seen.centres[0], seen.centres[-1]) == (-2, 3)
    assert seen.counts.sum() == 5


def test_the_first_pass_alone_gives_the_grids_that_both_give(model: nn.Module, tmp_path: Path) -> None:
    x = Inputs(torch.randn(12, 2, 8, 8))
    one, both = (Network(model, x, 12, tmp_path) for _ in range(2))
    asked = specs(wb.Quantization(activation_bits=8, range="minmax"), one.layers)
    both._observed()
    for name, spec in asked.items():
        grids = [network.quantizer.layer(name, spec).activation_grid for network in (one, both)]
        assert grids[0].scale == grids[1].scale
        assert grids[0].zero_point == grids[1].zero_point
    assert one._observations is None
