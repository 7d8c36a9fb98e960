"""Channels that can change places, and networks that are put in one order."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.fusion.alignment import aligned
from workbench.fusion.symmetries import symmetries


class Residual(nn.Module):
    """Shortcuts, a depthwise convolution, BatchNorm, PReLU, a concatenation, and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 5, 3, padding=1)
        self.slope = nn.PReLU(5)
        self.outer = nn.Conv2d(5, 6, 1)
        self.depthwise = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.side = nn.Conv2d(1, 4, 1)
        self.up = nn.ConvTranspose2d(16, 7, 2, stride=2)
        self.hidden = nn.Linear(7 * 64, 8)
        self.scale = nn.LayerNorm(8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.stem(x)))
        y = y + self.outer(self.slope(self.inner(y)))
        y = torch.cat([F.relu(self.depthwise(y)), F.relu(self.side(x))], 1)
        y = F.relu(self.up(F.max_pool2d(y, 2))).flatten(1)
        return self.out(self.scale(F.relu(self.hidden(y))))


class Grouped(nn.Module):
    """Groups that are told apart, and heads of an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.grouped = nn.Conv2d(8, 6, 1, groups=2)
        self.free = nn.Conv2d(6, 5, 1)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.into = nn.Linear(5, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.free(F.relu(self.grouped(F.relu(self.norm(self.first(x))))))
        y = self.into(F.relu(y).flatten(2).transpose(1, 2))
        return self.out(self.attention(y, y, y)[0].mean(1))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(54, 7),
        nn.ReLU(),
        nn.Linear(7, 3),
    )


FORMS: dict[str, Callable[[], nn.Module]] = {"plain": plain, "residual": Residual, "grouped": Grouped}


def made(form: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = FORMS[form]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def pictures(n: int) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def with_state(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    other = copy.deepcopy(model)
    other.load_state_dict(state)
    return other


def shuffled(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """The same function with all channels that can change places in another order."""
    generator = torch.Generator().manual_seed(seed)
    state = dict(model.state_dict())
    for each in symmetries(model, pictures(2)):
        state = each.permuted(state, torch.randperm(each.channels, generator=generator))
    return state


@pytest.mark.parametrize(("form", "sets"), [("plain", [6, 7]), ("residual", [4, 5, 6, 7, 8]), ("grouped", [5])])
def test_the_sets_of_channels_are_those_of_the_form(form: str, sets: list[int]) -> None:
    assert sorted(each.channels for each in symmetries(made(form, 0), pictures(2))) == sets


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.integers(0, 1000))
@torch.no_grad()
def test_the_function_stays_whatever_the_order(form: str, seed: int) -> None:
    model = made(form, seed)
    other = with_state(model, shuffled(model, seed))
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    torch.testing.assert_close(other(pictures(20)), model(pictures(20)), atol=1e-5, rtol=1e-5)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.integers(0, 1000))
@torch.no_grad()
def test_an_aligned_network_is_the_same_function_and_nearer_to_the_other(form: str, seed: int) -> None:
    reference, model = made(form, seed), made(form, seed + 1)
    found = symmetries(reference, pictures(2))
    state = aligned(model.state_dict(), reference.state_dict(), found, seed)
    torch.testing.assert_close(with_state(model, state)(pictures(20)), model(pictures(20)), atol=1e-5, rtol=1e-5)

    def apart(one: dict[str, Tensor]) -> float:
        learned = dict(reference.named_parameters())
        return float(sum((one[name] - value).square().sum() for name, value in learned.items()))

    assert apart(state) < apart(model.state_dict())


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.integers(0, 1000))
def test_a_shuffled_copy_comes_back(form: str, seed: int) -> None:
    model = made(form, seed)
    state = aligned(shuffled(model, seed), model.state_dict(), symmetries(model, pictures(2)))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_given_states_stay_as_they_are() -> None:
    one, other = made("plain", 0), made("plain", 1)
    before = [{name: value.clone() for name, value in each.state_dict().items()} for each in (one, other)]
    aligned(one.state_dict(), other.state_dict(), symmetries(one, pictures(2)))
    for each, kept in zip((one, other), before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in each.state_dict().items())


def test_a_network_without_hidden_channels_has_nothing_to_change() -> None:
    for model in (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), nn.Sequential(nn.Flatten(), nn.ReLU())):
        assert symmetries(model.eval(), pictures(2)) == ()
        assert aligned(model.state_dict(), model.state_dict(), ()).keys() == model.state_dict().keys()
