"""Equalised networks compute what they did, with ranges that are alike wherever a factor can pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from workbench.delivery import artifact
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.equalization import equalized, find_pairs, rescaled
from workbench.quantization.finding import find_layers
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment, Quantization
from workbench.runtimes import prepare

X = Inputs(torch.rand(8, 3, 9, 9, generator=torch.Generator().manual_seed(0)))


def uneven(model: nn.Module) -> nn.Module:
    """Channels whose weights differ by orders of magnitude."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= torch.exp(1.5 * torch.randn(len(parameter), *(1,) * (parameter.dim() - 1), generator=random))
    return model.eval().requires_grad_(False)


def changed(model: nn.Module) -> tuple[nn.Module, list[tuple[str, str]]]:
    layers, _ = find_layers(model, X[:2])
    pairs = find_pairs(model, layers, X[:2])
    return rescaled(model, pairs), [tuple(pair) for pair in pairs]


BETWEEN = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "prelu": nn.PReLU,
    "pool": lambda: nn.MaxPool2d(2, 1),
    "mean": lambda: nn.AvgPool2d(2, 1),
    "dropout": nn.Dropout,
    "nothing": nn.Identity,
}


@settings(max_examples=12, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["conv", "depthwise", "grouped", "transposed"]), min_size=1, max_size=3),
    between=st.lists(st.sampled_from(sorted(BETWEEN)), min_size=3, max_size=3),
    bias=st.booleans(),
)
def test_the_function_is_unchanged_and_ranges_meet(kinds: list[str], between: list[str], bias: bool) -> None:
    torch.manual_seed(0)
    made: list[nn.Module] = [nn.Conv2d(3, 4, 2, bias=bias)]
    for kind, name in zip(kinds, between, strict=False):
        made.append(BETWEEN[name]())
        groups = {"depthwise": 4, "grouped": 2}.get(kind, 1)
        convolution = nn.ConvTranspose2d if kind == "transposed" else nn.Conv2d
        made.append(convolution(4, 4, 2, groups=groups, bias=bias))
    size = nn.Sequential(*made)(X.tensors[0][:1]).flatten(1).shape[1]
    model = uneven(nn.Sequential(*made, nn.ReLU(), nn.Flatten(), nn.Linear(size, 5)))
    other, pairs = changed(model)
    assert len(pairs) == len(kinds) + 1
    wanted = model(X.tensors[0])
    assert torch.allclose(other(X.tensors[0]), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    first = other.get_submodule(pairs[0][0])
    last = other.get_submodule(pairs[-1][0])
    end = other.get_submodule(pairs[-1][1]).weight.reshape(5, 4, -1)
    axis = 1 if isinstance(last, nn.ConvTranspose2d) else 0
    assert torch.allclose(last.weight.transpose(0, axis).abs().flatten(1).amax(1), end.abs().amax((0, 2)), rtol=0.02)
    if kinds[0] in ("conv", "transposed"):
        reads = other.get_submodule(pairs[0][1]).weight
        reads = reads if kinds[0] == "transposed" else reads.transpose(0, 1)
        assert torch.allclose(first.weight.abs().flatten(1).amax(1), reads.abs().flatten(1).amax(1), rtol=0.02)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.a(x))
        return self.d(F.relu6(self.c(F.relu(self.b(y)) + y)))


def test_what_goes_to_two_places_or_is_cut_off_is_left_alone() -> None:
    _, pairs = changed(uneven(Residual()))
    assert pairs == []
    _, pairs = changed(uneven(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 2, 1))))
    assert pairs == []


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(F.relu(self.a(x))))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(F.relu(self.a(x))) if float(x.sum()) > 0 else x


@pytest.mark.parametrize("model", [Twice(), Branching()], ids=["used twice", "cannot be traced"])
def test_what_cannot_be_followed_is_left_alone(model: nn.Module) -> None:
    _, pairs = changed(uneven(model))
    assert pairs == []


class Shuffled(nn.Module):
    """Its reshaping looks like a flattening and is none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4 * 81, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b(F.relu(self.a(x)))
        return self.c(y.reshape(4, -1).reshape(-1, 4 * 81))


def test_a_rewrite_that_changes_the_output_is_undone_alone() -> None:
    model = uneven(Shuffled())
    layers, _ = find_layers(model, X[:2])
    pair = X[:1]
    found = equalized(model, layers, pair)
    made = rescaled(model, find_pairs(model, layers, pair))
    assert set(found) <= {"a.weight", "a.bias", "b.weight", "b.bias", "c.weight", "c.bias"}
    if not torch.allclose(made(pair.tensors[0]), model(pair.tensors[0]), rtol=1e-3):
        assert "c.weight" not in found
    assert not torch.equal(found["a.weight"], model.a.weight)


def separable() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(150, 4)),
    ).eval()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(uneven(separable()), X, len(X), tmp_path_factory.mktemp("graphs"))


def unbalanced() -> nn.Module:
    """The same function as a network that is well balanced, its channels apart by up to two orders of magnitude."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(150, 4))
    factor = torch.logspace(-1, 1, 8)
    with torch.no_grad():
        model[0].weight *= factor.reshape(-1, 1, 1, 1)
        model[0].bias *= factor
        model[2].weight /= factor.reshape(1, -1, 1, 1)
    return model.eval()


def test_one_scale_for_all_loses_less_after_it() -> None:
    network = Network(unbalanced(), X, len(X), Path("nowhere"))
    asked = specs(Quantization(weight_bits=6, granularity="tensor"), network.layers)
    wanted = network.call(X)
    errors = [(each.simulation.run(X, asked) - wanted).square().mean() for each in (network, network.equalized)]
    assert errors[1] < 0.2 * errors[0]
    assert network.equalized.key != network.key
    assert network.equalized is network.equalized
    assert torch.allclose(network.equalized.call(X), wanted, rtol=1e-3, atol=1e-4)


def test_what_is_shipped_loads_into_the_given_class_and_computes_what_was_simulated(network: Network) -> None:
    quantization = Quantization(weight_bits=6, activation_bits=8, equalize=True, correction="bias")
    made = network.equalized
    asked = specs(quantization, made.layers)
    simulated = made.simulation.run(X, asked)
    ran = prepare(Deployment(runtime="onnxruntime"), made, made.quantized(asked)).run(X)
    assert torch.allclose(ran, simulated, atol=0.03 * float(simulated.abs().max()))
    weights = quantization.replace(activation_bits=None)
    shipped = separable()
    shipped.load_state_dict(artifact.read(made.artifact(weights, "{}")).state)
    with torch.inference_mode():
        found = shipped(X.tensors[0])
    wanted = made.simulation.run(X, specs(weights, made.layers))
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_a_network_without_pairs_says_so() -> None:
    network = Network(uneven(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Sigmoid())), X, len(X), Path("nowhere"))
    assert "changes nothing" in network.equalized.notes[-1]
