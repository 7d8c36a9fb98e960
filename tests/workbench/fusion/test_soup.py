"""Averages of networks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from workbench.fusion.soup import greedy, soup, uniform, with_statistics
from workbench.fusion.symmetries import symmetries


def pictures(n: int, seed: int = 5) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def made(seed: int, norm: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    between = [nn.BatchNorm2d(6)] if norm else []
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        *between,
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(216, 7),
        nn.ReLU(),
        nn.Linear(7, 3),
    )
    return model.eval()


def shuffled(model: nn.Module) -> dict[str, Tensor]:
    state = dict(model.state_dict())
    for each in symmetries(model, pictures(2)):
        state = each.permuted(state, torch.randperm(each.channels, generator=torch.Generator().manual_seed(1)))
    return state


def agreement_with(model: nn.Module) -> Callable[[nn.Module], float]:
    with torch.inference_mode():
        wanted = model(pictures(200)).argmax(1)
    return lambda other: float((other(pictures(200)).argmax(1) == wanted).float().mean())


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_soup_of_identical_networks_is_that_network(count: int) -> None:
    state = made(0, norm=True).state_dict()
    mean = uniform([state] * count)
    assert list(mean) == list(state)
    assert all(torch.equal(value, mean[name]) and value.dtype == mean[name].dtype for name, value in state.items())
    whole = soup(made(0), [made(0).state_dict()] * count, pictures(50), agreement_with(made(0)))
    assert whole.members == tuple(range(count)) and whole.score == 1
    assert all(torch.equal(value, whole.state[name]) for name, value in made(0).state_dict().items())


def test_a_soup_of_a_network_and_its_shuffled_copy_is_that_network() -> None:
    model = made(0)
    states = [model.state_dict(), shuffled(model)]
    whole = soup(model, states, pictures(50), agreement_with(model))
    assert whole.members == (0, 1)
    assert all(torch.equal(value, whole.state[name]) for name, value in model.state_dict().items())
    mixed = copy.deepcopy(model)
    mixed.load_state_dict(uniform(states))
    with torch.inference_mode():
        assert (mixed(pictures(50)) - model(pictures(50))).abs().max() > 0.02  # as it would be without the order


def test_the_mean_is_taken_weight_by_weight() -> None:
    states = [made(seed).state_dict() for seed in range(3)]
    mean = uniform(states)
    for name, value in mean.items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name] + states[2][name]) / 3)


def test_greedy_takes_what_does_not_make_it_worse() -> None:
    states = [{"x": torch.tensor([float(value)])} for value in (5, 0, 1, -1)]

    def score(state: dict[str, Tensor]) -> float:
        return -abs(float(state["x"]) - 0.5)

    made = greedy(states, [score(state) for state in states], lambda state: state, score)
    assert made.members == (1, 2)  # 0, then 1: together 0.5; neither -1 nor 5 makes that better
    assert made.state["x"].item() == 0.5 and made.score == 0
    alone = greedy(states[:1], [score(states[0])], lambda state: pytest.fail("nothing to average"), score)
    assert alone.members == (0,) and alone.score == -4.5


def test_statistics_are_those_of_the_inputs() -> None:
    model = made(0, norm=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = pictures(512)
    renewed = with_statistics(model, inputs)
    with torch.inference_mode():
        seen = model[0](inputs)
    torch.testing.assert_close(renewed[1].running_mean, seen.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(renewed[1].running_var, seen.var((0, 2, 3)), atol=1e-3, rtol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in renewed.modules())
    assert renewed[1].momentum == model[1].momentum


def test_a_soup_takes_new_statistics_for_an_average_alone() -> None:
    models = [made(seed, norm=True) for seed in (0, 1)]
    states = [model.state_dict() for model in models]
    rising = iter(range(10))
    whole = soup(models[0], states, pictures(300), lambda _: next(rising))
    assert whole.members == (1, 0)
    mixed = copy.deepcopy(models[0])
    mixed.load_state_dict(whole.state)
    again = with_statistics(mixed, pictures(300))
    assert all(torch.equal(value, whole.state[name]) for name, value in again.state_dict().items())
    one = soup(models[0], states[:1], pictures(300), lambda _: 1.0)
    assert all(torch.equal(value, states[0][name]) for name, value in one.state.items())
