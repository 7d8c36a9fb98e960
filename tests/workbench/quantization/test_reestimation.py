"""Re-estimated channels have fp32's mean and spread on the calibration data."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from workbench.errors import Cancelled
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import specs
from workbench.recipe import Quantization

X = Inputs(torch.rand(48, 3, 9, 9, generator=torch.Generator().manual_seed(0)))
SEEN = {
    "by channel": Quantization(weight_bits=2, activation_bits=8, correction="batchnorm"),
    "weights only": Quantization(weight_bits=3, method="gptq", correction="batchnorm"),
    "floats in groups": Quantization(
        weight_bits=4, activation_bits=8, scheme="float", granularity="group", group_size=8, correction="batchnorm"
    ),
    "one scale": Quantization(weight_bits=3, activation_bits=8, granularity="tensor", correction="batchnorm"),
    "powers of two": Quantization(weight_bits=3, scheme="power_of_two", correction="batchnorm"),
}


class Joined(nn.Module):
    """A residual, a depthwise convolution, and a layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.c, self.d = nn.Conv2d(6, 4, 3, bias=False), nn.Linear(100, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        return self.d(torch.relu(self.c(x + self.b(x))).flatten(1))


class Uncut(Joined):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if float(x.sum()) > 0 else x


def outputs(network: Network, quantization: Quantization) -> dict[str, torch.Tensor]:
    """What layers give, from the recipe's own parameters."""
    found: dict[str, torch.Tensor] = {}
    asked = specs(quantization, network.layers)
    copy = Joined().eval()
    state = dict(network.state)
    for layer in network.quantized(asked).values():
        state |= layer.parameters()
    copy.load_state_dict(state)
    for name in (name for name, layer in network.layers.items() if layer.weight is not None):
        module = copy.get_submodule(name)
        grid = network.quantized(asked)[name].activation_grid if any(asked[name]) else None
        if grid is not None:
            module.register_forward_pre_hook(lambda _, args, grid=grid: (grid.fake_quantize(args[0]),))
        module.register_forward_hook(lambda _, __, made, name=name: found.__setitem__(name, made))
    with torch.inference_mode():
        copy(X.tensors[0])
    return found


@pytest.mark.parametrize("kind", [Joined, Uncut])
@pytest.mark.parametrize("name", SEEN)
def test_mean_and_spread_come_back(name: str, kind: type[nn.Module]) -> None:
    network = Network(kind().eval(), X, len(X), Path("nowhere"))
    assert network.simulation.whole == (kind is Uncut)
    made, wanted = (outputs(network, q) for q in (SEEN[name], Quantization()))
    for layer in ("a", "b", "d"):
        ours, theirs = (o[layer].movedim(1, 0).flatten(1) for o in (made, wanted))
        assert torch.allclose(ours.mean(1), theirs.mean(1), atol=0.02 * float(theirs.std())), layer
        if name not in ("one scale", "powers of two"):
            close = (ours.std(1) / theirs.std(1) - 1).abs() < 0.03
            assert bool(close.all()), layer


def test_it_brings_the_outputs_nearer() -> None:
    network = Network(Joined().eval(), X, len(X), Path("nowhere"))
    wanted = network.call(X)
    plain, corrected = (
        (network.simulation.run(X, specs(q, network.layers)) - wanted).square().mean()
        for q in (SEEN["by channel"].replace(correction="none"), SEEN["by channel"])
    )
    assert corrected < 0.8 * plain


def test_a_step_of_two_to_the_k_stays_one() -> None:
    network = Network(Joined().eval(), X, len(X), Path("nowhere"))
    for layer in network.quantized(specs(SEEN["powers of two"], network.layers)).values():
        exponent = layer.weight_grid.scale.log2()
        assert torch.equal(exponent, exponent.round())


def test_cancelled_nothing_is_kept() -> None:
    network = Network(Joined().eval(), X, len(X), Path("nowhere"))
    cancel = threading.Event()
    cancel.set()
    asked = specs(SEEN["by channel"], network.layers)
    with pytest.raises(Cancelled):
        network.prepare(asked, cancel)
    fresh = Network(Joined().eval(), X, len(X), Path("nowhere"))
    assert torch.equal(network.simulation.run(X, asked), fresh.simulation.run(X, asked))
