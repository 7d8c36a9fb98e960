"""One network whose weights are the mean of several's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from workbench.fusion.alignment import aligned
from workbench.fusion.symmetries import State, symmetries
from workbench.tracing import running

BATCH = 256


class Soup(NamedTuple):
    """What was averaged."""

    state: State
    members: tuple[int, ...]
    """Places of the networks that are in it, the best first."""
    score: float
    """Of the average, on held-out examples."""


def uniform(states: Sequence[Mapping[str, Tensor]]) -> State:
    """The mean of all weights; what is no floating-point number is the first one's.

    Args:
        states: Of networks of one form, at least one.
    """
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype)
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }


def greedy(
    states: Sequence[Mapping[str, Tensor]],
    scores: Sequence[float],
    finish: Callable[[State], State],
    score: Callable[[State], float],
) -> Soup:
    """The mean of those networks that do not make it worse.

    Beginning with the best, each network in the order of their scores is added where the average is at least as good
    with it: Wortsman et al., "Model soups", 2022, recipe 1.

    Args:
        states: Of networks of one form, at least one.
        scores: Of each alone, on held-out examples.
        finish: What is done to an average of several before it is scored.
        score: Of a state, on the same examples.
    """
    best, *others = sorted(range(len(states)), key=lambda member: -scores[member])
    soup = Soup(dict(states[best]), (best,), scores[best])
    for member in others:
        members = (*soup.members, member)
        state = finish(uniform([states[each] for each in members]))
        reached = score(state)
        if reached >= soup.score:
            soup = Soup(state, members, reached)
    return soup


@torch.no_grad()
def with_statistics(model: nn.Module, inputs: Tensor) -> nn.Module:
    """A copy whose BatchNorms have the statistics of some inputs: those of an average are no average.

    As in Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018, section 3.1.

    Args:
        model: Left as it is.
        inputs: Shape (n, ...); those that set activation ranges, say.

    Returns:
        In evaluation mode.
    """
    with torch.inference_mode(False):
        made = copy.deepcopy(model).eval()
    norms = [module for module in made.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return made
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    with running():
        for part in inputs.split(BATCH):
            made(part.clone())
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return made.eval()


def soup(
    model: nn.Module, states: Sequence[Mapping[str, Tensor]], inputs: Tensor, score: Callable[[nn.Module], float]
) -> Soup:
    """A greedy soup of networks whose channels are put in the order of the best one's.

    Args:
        model: Of their form; left as it is.
        states: Of the networks, at least one.
        inputs: From which BatchNorms take their statistics, shape (n, ...).
        score: Of a network, on held-out examples; larger is better.
    """
    with torch.inference_mode(False):
        made = copy.deepcopy(model).eval()

    def holding(state: Mapping[str, Tensor]) -> nn.Module:
        made.load_state_dict(state)
        return made

    def finished(state: State) -> State:
        return dict(with_statistics(holding(state), inputs).state_dict())

    scores = [score(holding(state)) for state in states]
    best = states[scores.index(max(scores))]
    found = symmetries(holding(best), inputs[:2])
    ordered = [dict(state) if state is best else aligned(state, best, found) for state in states]
    return greedy(ordered, scores, finished, lambda state: score(holding(state)))
