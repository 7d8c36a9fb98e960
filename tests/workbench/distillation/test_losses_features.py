"""The losses of features against their papers' formulas, written out here, in value and in gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.distillation import losses

Pair = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
WITHIN = 1e-5


@st.composite
def features(draw: st.DrawFn, *, same_width: bool = False) -> Pair:
    """Feature maps or vectors of two networks on the same grid, float32 or float64."""
    n, grid = draw(st.integers(1, 6)), draw(st.sampled_from(((3, 2), (4,), (2, 2, 2))))
    widths = [draw(st.integers(1, 5)) for _ in range(2)]
    if same_width:
        widths[1] = widths[0]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from((torch.float32, torch.float64)))
    student, teacher = (torch.randn(n, width, *grid, generator=generator, dtype=dtype) for width in widths)
    return student, teacher


def hints(student: Tensor, teacher: Tensor) -> Tensor:
    return torch.stack([((s - t) ** 2).sum() / s.numel() for s, t in zip(student, teacher, strict=True)])


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    def at(maps: Tensor) -> Tensor:
        power = (maps**2).sum(0).flatten()
        return power / (power**2).sum().sqrt()

    return torch.stack([((at(s) - at(t)) ** 2).sum() / s[0].numel() for s, t in zip(student, teacher, strict=True)])


def huber(a: Tensor, b: Tensor) -> Tensor:
    gap = (a - b).abs()
    return gap**2 / 2 if gap <= 1 else gap - 0.5


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    n = len(student)

    def between(vectors: Tensor) -> dict[tuple[int, int], Tensor]:
        found = {
            (i, j): ((vectors[i] - vectors[j]) ** 2).sum().sqrt() for i, j in product(range(n), repeat=2) if i != j
        }
        mean = sum(found.values()) / len(found) if found else 1
        return {pair: each / mean for pair, each in found.items()}

    ours, theirs = between(student), between(teacher)
    rows = [[huber(ours[pair], theirs[pair]) for pair in ours if pair[0] == i] for i in range(n)]
    return torch.stack([sum(row, 0 * student.sum()) / n for row in rows])


def angle(student: Tensor, teacher: Tensor) -> Tensor:
    n = len(student)

    def at(vectors: Tensor, i: int, j: int, k: int) -> Tensor:
        a, b = vectors[j] - vectors[i], vectors[k] - vectors[i]
        return (a * b).sum() / ((a**2).sum() * (b**2).sum()).sqrt()

    rows = []
    for i in range(n):
        triples = [(i, j, k) for j, k in product(range(n), repeat=2) if i not in (j, k)]
        cosines = [huber(at(student, *triple), at(teacher, *triple)) for triple in triples]
        rows.append(sum(cosines, 0 * student.sum()) / n**2)
    return torch.stack(rows)


def agree(loss: Loss, formula: Loss, student: Tensor, teacher: Tensor) -> None:
    exact = student.detach().double().requires_grad_()
    student = student.detach().clone().requires_grad_()
    ours, theirs = loss(student, teacher), formula(exact, teacher.double())
    torch.testing.assert_close(ours.double(), theirs, atol=WITHIN, rtol=WITHIN)
    gradients = torch.autograd.grad(ours.mean(), student)[0].double(), torch.autograd.grad(theirs.mean(), exact)[0]
    torch.testing.assert_close(*gradients, atol=WITHIN, rtol=WITHIN)


@settings(max_examples=50, deadline=None)
@given(features(same_width=True))
def test_hints_are_fitnets(pair: Pair) -> None:
    agree(losses.hints, hints, *pair)


@settings(max_examples=50, deadline=None)
@given(features())
def test_attention_is_attention_transfer(pair: Pair) -> None:
    agree(losses.attention, attention, *pair)


@settings(max_examples=25, deadline=None)
@given(features())
def test_distance_is_relational_distillation_by_distance(pair: Pair) -> None:
    agree(losses.distance, lambda s, t: distance(s.flatten(1), t.flatten(1)), *pair)


@settings(max_examples=25, deadline=None)
@given(features())
def test_angle_is_relational_distillation_by_angle(pair: Pair) -> None:
    agree(losses.angle, lambda s, t: angle(s.flatten(1), t.flatten(1)), *pair)


@settings(max_examples=50, deadline=None)
@given(features(), st.floats(0.1, 10))
def test_relations_are_free_of_scale_offset_and_rotation(pair: Pair, scale: float) -> None:
    student = pair[0].double().flatten(1)
    rotation = torch.linalg.qr(torch.randn(student.shape[1], student.shape[1], dtype=torch.float64))[0]
    for loss in (losses.distance, losses.angle):
        assert loss(scale * student @ rotation + 3, student).abs().max() < 1e-9


@settings(max_examples=50, deadline=None)
@given(features(), st.floats(0.1, 10))
def test_attention_is_free_of_scale_and_of_the_order_of_channels(pair: Pair, scale: float) -> None:
    student = pair[0].double()
    assert losses.attention(scale * student.flip(1), student).abs().max() < 1e-12


@pytest.mark.parametrize("name", losses.FEATURE_LOSSES)
@pytest.mark.parametrize("n", [1, 4])
def test_dead_layers_give_finite_losses_and_gradients(name: str, n: int) -> None:
    """A layer whose ReLU lets nothing through makes all examples equal."""
    loss = losses.FEATURE_LOSSES[name]
    student = torch.zeros(n, 3, 2, 2, requires_grad=True)
    value = loss(student, torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() < 1e3


def test_a_small_distance_keeps_its_digits() -> None:
    """Far from the origin, a matrix product of float32 would lose them."""
    vectors = 1000 + torch.tensor([[0.0, 0.0], [0.125, 0.0], [0.0, 0.25]])
    assert losses.distance(vectors, vectors - 1000).max() == 0
    ratio = math.sqrt(0.125**2 + 0.25**2)
    assert losses.distance(vectors, vectors * torch.tensor([1.0, 0.5])).max() > 0.01 * ratio
