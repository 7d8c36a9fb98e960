"""The network that learns computes what the simulation computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from workbench.finetuning.lsq import trained
from workbench.finetuning.twin import Twin, Widths
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import specs
from workbench.recipe import Quantization


class Read(nn.Module):
    """A recurrent layer, a table and a product by a function, with a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.own = nn.Parameter(torch.randn(8, 8))
        self.out = nn.Linear(8, 12)
        self.out.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        found, _ = self.lstm(self.table(x))
        return self.out(torch.tanh(found[:, -1] @ self.own))


class Attend(nn.Module):
    """A transformer layer, whose norms are not folded."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(x).mean(1))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.GELU(),
        nn.ConvTranspose2d(6, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 49, 5),
    )


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


MODELS = {
    "convolutions": (convolutions, lambda: numbers(20, 3, 8, 8)),
    "attention": (Attend, lambda: numbers(20, 5, 8)),
    "tied table, recurrence and function": (Read, lambda: torch.arange(100).reshape(20, 5) % 12),
}
QUANTIZATIONS = [
    Quantization(weight_bits=3, activation_bits=4),
    Quantization(weight_bits=2, activation_bits=8, scheme="midrise"),
    Quantization(weight_bits=4, scheme="affine", granularity="tensor"),
    Quantization(weight_bits=4, activation_bits=6, scheme="power_of_two"),
    Quantization(weight_bits=3, activation_bits=8, granularity="group", group_size=5),
    Quantization(weight_bits=3, activation_bits=8, scheme="codebook"),
    Quantization(activation_bits=3),
]


def twin_of(network: Network, quantization: Quantization) -> tuple[Twin, Widths]:
    grids, widths = {}, {}
    for name, spec in specs(quantization, network.layers).items():
        made = network.quantizer.layer(name, spec)
        if spec.weight and made.weight_grid:
            grids[name, "weight", spec.weight.bits] = trained(made.weight_grid)
        if spec.activation and made.activation_grid:
            grids[name, "activation", spec.activation.bits] = trained(made.activation_grid)
        widths[name] = (spec.weight and spec.weight.bits, spec.activation and spec.activation.bits)
    return Twin(network.module, network.layers, grids), widths


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=lambda q: f"{q.scheme}-{q.granularity}-{q.activation_bits}")
@pytest.mark.parametrize("name", MODELS)
def test_a_trained_twin_is_the_simulation_of_the_network_that_it_leaves(
    name: str, quantization: Quantization, tmp_path: Path
) -> None:
    make, data = MODELS[name]
    torch.manual_seed(0)
    model, inputs = make(), Inputs(data())
    network = Network(model, inputs, len(inputs), tmp_path)
    before = network.key
    twin, widths = twin_of(network, quantization)
    optimizer = torch.optim.Adam([p for p in twin.parameters() if p.requires_grad], 1e-2)
    batch = inputs.channels_last()
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (twin(batch, widths) - numbers(1, 1)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    made = network.retrained(twin.weights(), {slot: grid.made() for slot, grid in twin.held.items()})
    with torch.no_grad():
        found = twin(batch, widths)
    assert torch.equal(found, made.simulation.run(batch, specs(quantization, made.layers)))
    assert not torch.equal(found, network.simulation.run(batch, specs(quantization, network.layers)))
    assert made.key != before
    assert Network(model, inputs, len(inputs), tmp_path).key == before


def test_other_bits_lie_on_the_trained_weights_after_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = Inputs(numbers(20, 3, 8, 8))
    network = Network(convolutions(), inputs, len(inputs), tmp_path)
    twin, _ = twin_of(network, Quantization(weight_bits=2))
    with torch.no_grad():
        for grid in twin.grids:
            grid.log_step += 0.5
    made = network.retrained(twin.weights(), {slot: grid.made() for slot, grid in twin.held.items()})
    for bits, same in ((2, False), (4, True)):
        asked = specs(Quantization(weight_bits=bits), made.layers)
        own, other = (n.quantizer.layer("0", asked["0"]).weight_grid for n in (made, network))
        assert torch.equal(own.scale, other.scale) == same
