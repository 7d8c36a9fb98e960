"""Weights of products are found whoever multiplies by them, once each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.quantization.attention import SplitAttention
from workbench.quantization.finding import NOT_REACHED, find_layers


class Holder(nn.Module):
    """A parameter that a function uses."""

    def __init__(self, run: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0]))
        self._run = run

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, self.w)


def found(model: nn.Module, *inputs: Tensor) -> dict[str, Layer]:
    return find_layers(model.eval(), Inputs(*inputs))[0]


@pytest.mark.parametrize(
    ("run", "shape", "kind", "axis"),
    [
        (lambda x, w: F.linear(x, w), (5, 8), "linear", 0),
        (lambda x, w: F.linear(input=x, weight=w), (5, 8), "linear", 0),
        (lambda x, w: F.linear(x, w.t()), (8, 5), "linear", 1),
        (lambda x, w: x @ w, (8, 5), "matmul", 1),
        (lambda x, w: x @ w.t(), (5, 8), "matmul", 0),
        (lambda x, w: torch.matmul(x, other=w), (8, 5), "matmul", 1),
        (lambda x, w: x.mm(w.transpose(0, 1)), (5, 8), "mm", 0),
        (lambda x, w: torch.addmm(torch.zeros(5), x, w), (8, 5), "addmm", 1),
        (lambda x, w: x.expand(3, -1, -1).bmm(w), (3, 8, 5), "bmm", 2),
        (lambda x, w: x @ w[1], (3, 8, 5), "matmul", None),
        (lambda x, w: F.conv1d(x.unsqueeze(1), w), (5, 1, 3), "conv1d", 0),
        (lambda x, w: F.conv_transpose1d(x.unsqueeze(1), w), (1, 5, 3), "conv_transpose1d", 1),
    ],
)
def test_products_by_functions(
    run: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...], kind: str, axis: int | None
) -> None:
    layers = found(Holder(run, *shape), torch.randn(4, 8))
    assert list(layers) == ["w"]
    layer = layers["w"]
    assert (layer.kind, layer.axis, layer.sites, layer.functional) == (kind, axis, (), True)
    assert layer.shape == shape


@pytest.mark.parametrize(
    "run",
    [lambda x, w: x + w.sum(), lambda x, w: x * w[0], lambda x, w: x @ (w * 2).t()],
    ids=["sum", "scale", "computed"],
)
def test_what_no_product_multiplies_by_is_left_alone(run: Callable[[Tensor, Tensor], Tensor]) -> None:
    layers, alone = find_layers(Holder(run, 5, 8).eval(), Inputs(torch.randn(4, 8)))
    assert not layers
    assert [(each.kind, "no product" in each.reason) for each in alone] == [("Holder", True)]


def test_a_bias_of_a_function_is_told_and_a_computed_one_is_not() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.randn(8, 8)) for _ in range(2))
            self.shift = nn.Parameter(torch.randn(8))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.linear(x, self.a, self.shift), self.b, self.shift * 2)

    layers = found(Biased(), torch.randn(2, 8))
    assert [(name, layer.bias_name) for name, layer in layers.items()] == [("a", "shift"), ("b", "")]


def test_a_tied_weight_is_one_layer_with_all_its_sites() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)
            self.head.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids).mean(1))

    (layer,) = found(Tied(), torch.zeros(2, 3, dtype=torch.long)).values()
    assert layer.sites == ("table", "head")
    assert layer.weight_name == "table.weight"
    assert not layer.activations  # the head's input can be rounded
    assert layer.bias is None  # one place's bias is not the other's


def test_a_functions_use_of_a_modules_weight_is_noted_and_its_own_is_not() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.two(self.one(x)), self.one.weight)

    layers = found(Reads(), torch.randn(2, 4))
    assert {name: layer.functional for name, layer in layers.items()} == {"one": True, "two": False}


def test_names_are_those_of_the_state() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model.alias = model[0].weight
    (layer,) = found(model, torch.randn(2, 4)).values()
    assert layer.name == "0"
    assert layer.weight_name == "alias"
    assert layer.weight_name in model.state_dict()


def test_reasons_are_given() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 4)
            self.changing = nn.Embedding(9, 4, max_norm=1.0)
            self.rnn = nn.LSTM(4, 4, batch_first=True)
            self.attention = SplitAttention(nn.MultiheadAttention(4, 2, batch_first=True))
            self.norm = nn.LayerNorm(4)
            self.unused = nn.Linear(4, 4)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.rnn(self.table(ids) + self.changing(ids))[0]
            return self.norm(self.attention(x, x, x)[0])

    layers, alone = find_layers(Mixed().eval(), Inputs(torch.zeros(2, 3, dtype=torch.long)))
    assert layers["table"].activations == "its input is indices"
    assert "max_norm" in layers["changing"].weights
    assert not layers["rnn.weight_ih_l0"].activations
    assert "inside the LSTM" in layers["rnn.weight_hh_l0"].activations
    assert layers["unused"].activations == NOT_REACHED
    assert layers["attention.probabilities"].by_name_only
    assert layers["attention.probabilities"].weights
    assert [(each.name, each.kind) for each in alone] == [("norm", "LayerNorm")]
    assert "normalisation" in alone[0].reason


def test_looking_leaves_neither_hooks_nor_random_numbers_behind() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x) + torch.rand(4)
            if len(x) > 2:
                raise ZeroDivisionError
            return x

    model, few, many = Fails(), torch.randn(2, 4), torch.randn(3, 4)
    before = torch.get_rng_state()
    assert list(found(model, few)) == ["layer"]
    with pytest.raises(ZeroDivisionError):
        found(model, many)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
