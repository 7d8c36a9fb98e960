"""The losses against torchdistill's classes, where it is installed (its loss modules need no torchvision)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.distillation import losses

peer = pytest.importorskip(
    "torchdistill.losses.mid_level", reason="torchdistill is not installed", exc_type=ImportError
)

WITHIN = 1e-5
LOGITS = ("", "output", "", "output")
PAIR = {"a": {"student": {"path": "", "io": "output"}, "teacher": {"path": "", "io": "output"}}}
Loss = Callable[[Tensor, Tensor], Tensor]


def theirs(loss: Any, student: Tensor, teacher: Tensor) -> Tensor:
    value: Tensor = loss({"": {"output": student}}, {"": {"output": teacher}})
    return value


def agree(ours: Loss, loss: Any, student: Tensor, teacher: Tensor) -> None:
    """The mean over the examples and its gradient."""
    student = student.requires_grad_()
    values = ours(student, teacher)
    assert values.shape == (len(student),)
    expected = theirs(loss, student, teacher)
    torch.testing.assert_close(values.mean(), expected, atol=WITHIN, rtol=WITHIN)
    gradients = [torch.autograd.grad(each, student)[0] for each in (values.mean(), expected)]
    torch.testing.assert_close(*gradients, atol=WITHIN, rtol=WITHIN)


@st.composite
def pairs(draw: st.DrawFn, *shape: st.SearchStrategy[int]) -> tuple[Tensor, Tensor]:
    sizes = [draw(each) for each in shape]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from((torch.float32, torch.float64)))
    scale = draw(st.floats(0.5, 5))
    student, teacher = (scale * torch.randn(sizes, generator=generator, dtype=dtype) for _ in range(2))
    return student, teacher


logits = pairs(st.integers(3, 16), st.integers(3, 20))
vectors = pairs(st.integers(3, 10), st.integers(2, 16))
maps = pairs(st.integers(1, 6), st.integers(1, 8), st.integers(2, 6), st.integers(1, 6))
temperatures = st.floats(0.5, 10)


@settings(max_examples=50, deadline=None)
@given(logits, temperatures)
def test_kd(pair: tuple[Tensor, Tensor], t: float) -> None:
    agree(lambda s, q: losses.kd(s, q, t) / t**2, peer.KDLoss(*LOGITS, t, alpha=0), *pair)


@settings(max_examples=50, deadline=None)
@given(logits, temperatures)
def test_standardised(pair: tuple[Tensor, Tensor], t: float) -> None:
    agree(lambda s, q: losses.standardised(s, q, t) / t**2, peer.LogitStdKDLoss(*LOGITS, t, alpha=0), *pair)


@settings(max_examples=50, deadline=None)
@given(logits, temperatures)
def test_dist(pair: tuple[Tensor, Tensor], t: float) -> None:
    whole = peer.DISTLoss(*LOGITS, tau=t)
    agree(lambda s, q: losses.dist(s, q, t) / t**2, lambda s, q: whole(s, q) / t**2, *pair)


@settings(max_examples=50, deadline=None)
@given(maps)
def test_attention(pair: tuple[Tensor, Tensor]) -> None:
    agree(losses.attention, peer.ATLoss(PAIR, mode="code"), *pair)


@settings(max_examples=50, deadline=None)
@given(vectors)
def test_distance(pair: tuple[Tensor, Tensor]) -> None:
    agree(losses.distance, peer.RKDLoss("", "", 1.0, 0.0, "mean"), *pair)


@settings(max_examples=50, deadline=None)
@given(vectors)
def test_angle(pair: tuple[Tensor, Tensor]) -> None:
    agree(losses.angle, peer.RKDLoss("", "", 0.0, 1.0, "mean"), *pair)
