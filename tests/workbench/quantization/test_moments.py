"""Moments against the layers' own arithmetic, and how they are collected and kept."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from workbench.errors import Cancelled
from workbench.inputs import Inputs
from workbench.quantization import moments
from workbench.quantization.finding import find_layers
from workbench.quantization.moments import MomentStore, collected, patches, problem_shape, summed

LAYERS = {
    "plain": (nn.Conv2d(3, 4, 3), (2, 3, 8, 7)),
    "padded": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 3, 9, 8)),
    "same, reflected": (nn.Conv2d(2, 4, 3, padding="same", padding_mode="reflect"), (2, 2, 6, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 6)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, padding=1), (2, 4, 6, 6)),
    "one axis": (nn.Conv1d(2, 3, 4, stride=2), (2, 2, 12)),
    "three axes": (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 3)),
    "linear on a sequence": (nn.Linear(5, 3), (2, 4, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_patches_is_the_layers_output(name: str) -> None:
    layer, shape = LAYERS[name]
    x = torch.randn(*shape)
    seen = patches(layer, x, 10**6, torch.Generator())  # (groups, positions, n)
    made = seen @ layer.weight.detach().reshape(len(seen), -1, seen.shape[-1]).transpose(1, 2)
    outputs = made.transpose(0, 1).flatten(1) + layer.bias.detach()  # (positions, outputs)
    total, count = summed(layer, x)
    assert count == seen.shape[1]
    assert torch.allclose(total, seen.sum(1), atol=1e-4)
    expected = layer(x).detach()
    if not isinstance(layer, nn.Linear):
        expected = expected.movedim(1, -1)
    assert torch.allclose(outputs, expected.reshape(-1, expected.shape[-1]), atol=1e-5)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    ).eval()


INPUTS = Inputs(torch.randn(50, 2, 8, 8, generator=torch.Generator().manual_seed(0)))


def test_moments_predict_the_mean_squared_change_of_the_output() -> None:
    net = model()
    layers, _ = find_layers(net, INPUTS[:2])
    found = collected(net, list(layers.values()), INPUTS, 16)
    change = torch.randn_like(net[5].weight)
    hidden = net[:5](INPUTS.tensors[0]).detach()
    expected = (hidden @ change.T).square().mean(0)
    second = found["5"].second[0]
    assert torch.allclose(((change @ second) * change).sum(1), expected, rtol=1e-3)
    assert torch.allclose(found["5"].mean[0], hidden.mean(0), atol=1e-4)
    assert torch.allclose(found["5"].covariance[0], torch.cov(hidden.T, correction=0), atol=1e-3)
    assert found["2"].second.shape == (2, 18, 18)


def test_some_positions_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model()
    layers, _ = find_layers(net, INPUTS[:2])
    exact = collected(net, [layers["0"]], INPUTS, 16)["0"].second
    monkeypatch.setattr(moments, "POSITIONS", (100, 600))
    drawn = [collected(net, [layers["0"]], INPUTS, 16)["0"].second for _ in range(2)]
    assert torch.equal(*drawn)
    assert 0 < (drawn[0] - exact).norm() / exact.norm() < 0.25


def test_only_sums_over_the_input_have_moments() -> None:
    net = nn.Sequential(nn.Embedding(7, 4), nn.LSTM(4, 3))
    layers, _ = find_layers(net, Inputs(torch.zeros(2, 5, dtype=torch.long)))
    modules = dict(net.named_modules())
    assert [problem_shape(layer, modules) for layer in layers.values()] == [None] * len(layers)


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Conv2d(2, 3, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def test_a_layer_that_nothing_reaches_is_rounded_as_if_its_inputs_were_independent() -> None:
    net = Skips()
    layer = moments.Layer("unused", "Linear", "unused.weight", net.unused.weight, sites=("unused",))
    found = collected(net, [layer], INPUTS, 25)["unused"]
    assert torch.equal(found.second[0], torch.eye(4))
    assert not found.mean.any()


def test_a_store_runs_the_model_once_for_all_that_fits_and_forgets_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model()
    layers, _ = find_layers(net, INPUTS[:2])
    runs: list[list[str]] = []

    def collect(wanted: list[moments.Layer], cancel: threading.Event | None) -> dict[str, moments.Moments]:
        runs.append([layer.name for layer in wanted])
        return collected(net, wanted, INPUTS, 25, cancel)

    store = MomentStore(layers, dict(net.named_modules()), collect)
    for name in layers:
        store.get(name)
    assert runs == [["0", "2", "5"]]
    monkeypatch.setattr(moments, "MOMENT_BYTES", 4 * (18**2 + 2 * 18**2))
    small = MomentStore(layers, dict(net.named_modules()), collect)
    for name in (*layers, "0"):
        assert small.has(name)
        small.get(name)
    assert runs[1:] == [["0", "2"], ["5"], ["0", "2"]]
    with pytest.raises(KeyError):
        small.get("1")


def test_cancelled_while_it_collects() -> None:
    net = model()
    layers, _ = find_layers(net, INPUTS[:2])
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        collected(net, [layers["0"]], INPUTS, 16, cancel)
    assert not net[0]._forward_pre_hooks
