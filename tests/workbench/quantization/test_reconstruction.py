"""Learned roundings against exhaustive search, their start and rounding to nearest; what a cancel leaves."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from workbench.delivery import artifact
from workbench.errors import Cancelled
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization import jointly, reconstruction
from workbench.quantization.jointly import remarks, start
from workbench.quantization.quantizer import specs
from workbench.quantization.reconstruction import steps_for
from workbench.recipe import Deployment, Quantization
from workbench.runtimes import prepare

X = Inputs(torch.rand(64, 2, 6, 6, generator=torch.Generator().manual_seed(0)))
BRECQ = Quantization(weight_bits=2, activation_bits=8, method="brecq", range="hessian", correction="bias")


class Net(nn.Module):
    """Two convolutions in a residual block, between others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        return self.head(x.flatten(1))


class Uncut(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if float(x.sum()) > 0 else x


def network(kind: type[nn.Module] = Net, inputs: Inputs = X, folder: Path = Path("nowhere")) -> Network:
    return Network(kind().eval(), inputs, len(inputs), folder)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "STEPS", (40, 40))


def error(net: Network, quantization: Quantization, inputs: Inputs = X) -> float:
    made = net.simulation.run(inputs, specs(quantization, net.layers))
    return float((made - net.call(inputs)).square().mean())


@pytest.mark.parametrize("kind", [Net, Uncut])
@pytest.mark.parametrize("blocks", [1, 8])
def test_it_comes_nearer_than_it_started(kind: type[nn.Module], blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "BLOCK_LAYERS", blocks)
    net = network(kind)
    assert net.simulation.whole == (kind is Uncut)
    if kind is Net:
        learned = [name for name, layer in net.layers.items() if layer.weight is not None]
        found = reconstruction._blocks(net.simulation.stages, X, learned)
        sizes = [sum(site in learned for stage in stages for site in stage.sites) for stages in found]
        assert sizes == ([1, 2, 1] if blocks == 1 else [4]), "a residual block is never cut"
    monkeypatch.setattr(reconstruction, "STEPS", (120, 120))
    monkeypatch.setattr(jointly, "start", lambda q: q.replace(method="nearest", correction="none"))
    nearest, ours = (error(net, q) for q in (BRECQ.replace(method="nearest", correction="none"), BRECQ))
    assert ours < 0.8 * nearest


def test_it_is_never_worse_than_its_start() -> None:
    net = network()
    assert error(net, BRECQ) <= error(net, start(BRECQ)) * (1 + 1e-4)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


@pytest.mark.parametrize("seed", range(3))
def test_between_the_best_rounding_of_all_and_the_nearest(seed: int) -> None:
    # too few examples to hold any out: what is kept is best on all of them
    x = Inputs(torch.randn(12, 3, generator=torch.Generator().manual_seed(seed)))
    net = network(Tiny, x)
    quantization = BRECQ.replace(activation_bits=None, correction="none")
    made = net.quantizer.layer("layer", specs(quantization, net.layers)["layer"])
    wanted = net.call(x)

    def loss(weight: torch.Tensor) -> float:
        found = torch.relu(x.tensors[0] @ weight.T + net.state["layer.bias"])
        return float((found - wanted).square().mean())

    grid = made.weight_grid
    codes = range(grid.quant_min, grid.quant_max + 1)
    rows = [torch.tensor(row, dtype=torch.int8) for row in itertools.product(codes, repeat=3)]
    best = min(
        loss(grid.dequantize(torch.stack((one, other)))) for one, other in itertools.product(rows[::1], rows[::1])
    )
    ours = loss(grid.dequantize(made.weight))
    assert best - 1e-9 <= ours
    judged = [_judged(net, each) for each in (quantization, quantization.replace(method="nearest"))]
    assert judged[0] <= judged[1] * (1 + 1e-6)


def _judged(net: Network, quantization: Quantization) -> float:
    """The loss of a block as the method judges it: on all examples, and on these mixed with each other."""
    block = reconstruction._Block(
        net.simulation, net.simulation.stages, specs(start(quantization), net.layers), {"layer": net.layers["layer"]},
        reconstruction._error,
    )  # fmt: skip
    layer = net.quantizer.layer("layer", specs(quantization, net.layers)["layer"])
    settled = {"layer": reconstruction.Settled(layer.weight, layer.weight_grid)}
    seen = net._seen
    return block._lost(settled, reconstruction._Entry(seen, None, None), torch.arange(len(seen)))


GRIDS = {
    "affine": {"scheme": "affine"},
    "codebook": {"scheme": "codebook"},
    "groups": {"granularity": "group", "group_size": 8},
    "one scale": {"granularity": "tensor"},
    "small floats": {"scheme": "float", "weight_bits": 4},
}


@pytest.mark.parametrize("name", GRIDS)
def test_on_any_grid_what_was_learned_lies_on_it(name: str) -> None:
    net, quantization = network(), BRECQ.replace(**GRIDS[name])
    for name_, spec in specs(quantization, net.layers).items():
        if spec.weight is None:
            continue
        layer = net.quantizer.layer(name_, spec)
        values = layer.weight_grid.dequantize(layer.weight)
        assert torch.allclose(layer.weight_grid.fake_quantize(values), values)
        assert torch.equal(net.quantizer.values(spec.weight), values)
    assert error(net, quantization) <= error(net, start(quantization)) * 1.05


def test_the_same_recipe_gives_the_same_numbers_and_draws_none_of_the_process() -> None:
    before = torch.get_rng_state()
    first = network()
    asked = specs(BRECQ, first.layers)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = first.simulation.run(X, asked)
    assert torch.equal(state, torch.get_rng_state())
    other = network().simulation.run(X, asked)
    assert torch.equal(one, other)
    torch.set_rng_state(before)


def test_cancelled_in_the_middle_it_is_as_if_nothing_had_been_asked() -> None:
    cancelled, whole, cancel, told = network(), network(), threading.Event(), list[float]()
    asked = specs(BRECQ, whole.layers)

    def progress(done: float) -> None:
        told.append(done)
        if done > 0.5:
            cancel.set()

    with pytest.raises(Cancelled):
        cancelled.prepare(asked, cancel, progress)
    assert told == sorted(told)
    assert 0.5 < told[-1] < 0.6
    assert not cancelled.quantizer._settled
    assert not any(parameter.requires_grad for parameter in cancelled.module.parameters())
    plain = specs(start(BRECQ), whole.layers)
    assert torch.equal(cancelled.simulation.run(X, plain), whole.simulation.run(X, plain))
    assert torch.equal(cancelled.simulation.run(X, asked), whole.simulation.run(X, asked))


@pytest.mark.parametrize("correction", ["bias", "batchnorm"])
def test_what_is_simulated_is_what_is_shipped_and_what_runs(correction: str, tmp_path: Path) -> None:
    net, quantization = network(folder=tmp_path), BRECQ.replace(correction=correction)
    asked = specs(quantization, net.layers)
    simulated = net.simulation.run(X, asked)
    ran = prepare(Deployment(runtime="onnxruntime"), net, net.quantized(asked)).run(X)
    assert ((ran - simulated).abs() <= 0.02 * simulated.abs().mean()).float().mean() > 0.97
    read = artifact.read(net.artifact(quantization, "{}"))
    for layer in net.quantized(asked).values():
        assert torch.equal(read.layers[layer.name].weight, layer.weight)
    weights = quantization.replace(activation_bits=None)
    shipped = Net().eval()
    shipped.load_state_dict(artifact.read(net.artifact(weights, "{}")).state)
    with torch.inference_mode():
        found = shipped(X.tensors[0])
    assert torch.allclose(found, net.simulation.run(X, specs(weights, net.layers)), atol=1e-4)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.cell, self.head = nn.Embedding(9, 4), nn.GRU(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(self.table(x))[0][:, -1])


def test_layers_that_cannot_be_followed_are_named_and_left_as_they_start() -> None:
    words = Inputs(torch.randint(0, 9, (40, 5), generator=torch.Generator().manual_seed(0)))
    net = network(Mixed, words)
    (note,) = net.remarks(BRECQ)
    assert "table" in note
    assert "head" not in note
    asked, before = (specs(q, net.layers) for q in (BRECQ, start(BRECQ)))
    assert torch.equal(net.quantizer.layer("table", asked["table"]).weight, net.quantizer.layer("table", before["table"]).weight)  # fmt: skip  # noqa: E501
    assert error(net, BRECQ, words) <= error(net, start(BRECQ), words) * 1.01


def test_a_network_that_is_too_large_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps_for(1e12, X) == 0
    assert steps_for(1.0, X) == 40
    net = network()
    (told,) = remarks(BRECQ, net.layers, net.module, 1e12, X)
    assert "too large" in told
    monkeypatch.setattr(reconstruction, "MOST_OPERATIONS", 1.0)
    assert error(net, BRECQ) == pytest.approx(error(net, start(BRECQ)))
