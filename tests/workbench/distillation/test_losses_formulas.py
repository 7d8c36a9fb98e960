"""Each loss of outputs against its paper's formula, written out here, in value and in gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.distillation import losses
from workbench.errors import TaskError

Case = tuple[Tensor, Tensor, float]
WITHIN = 1e-5


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Logits of both, float32 or float64, and a temperature."""
    shape = (draw(st.integers(4, 12)), draw(st.integers(3, 12)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from((torch.float32, torch.float64)))
    scale = draw(st.floats(1, 5))
    student, teacher = (scale * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    return student, teacher, draw(st.floats(0.5, 8))


def softened(logits: Tensor, temperature: float) -> Tensor:
    powers = (logits / temperature - (logits / temperature).max(1, keepdim=True).values).exp()
    return powers / powers.sum(1, keepdim=True)


def divergence(theirs: Tensor, ours: Tensor) -> Tensor:
    return (theirs * (theirs / ours).log()).sum(1)


def kd(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    return t**2 * divergence(softened(teacher, t), softened(student, t))


def dkd(student: Tensor, teacher: Tensor, t: float, target: Tensor | None = None, beta: float = 1.0) -> Tensor:
    """Equation 6 and 7, example by example."""
    found = []
    for s, q, goal in zip(student, teacher, teacher.argmax(1) if target is None else target, strict=True):
        others = [k for k in range(len(s)) if k != goal]
        p, r = softened(s[None], t)[0], softened(q[None], t)[0]
        binary = [torch.stack((x[goal], x[others].sum()))[None] for x in (r, p)]
        rest = [(x[others] / x[others].sum())[None] for x in (r, p)]
        found.append(t**2 * (1.0 * divergence(*binary) + beta * divergence(*rest)))
    return torch.cat(found)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack((a, b)))[0, 1]


def dist(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    p, q = softened(student, t), softened(teacher, t)
    rows = torch.stack([correlation(a, b) for a, b in zip(p, q, strict=True)])
    columns = torch.stack([correlation(a, b) for a, b in zip(p.T, q.T, strict=True)])
    return t**2 * (1 - rows) + t**2 * (1 - columns.mean())


def standardised(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    def scores(logits: Tensor) -> Tensor:
        centred = logits - logits.sum(1, keepdim=True) / logits.shape[1]
        return centred / ((centred**2).sum(1, keepdim=True) / (logits.shape[1] - 1)).sqrt()

    return kd(scores(student), scores(teacher), t)


def cosine(student: Tensor, teacher: Tensor, _: float) -> Tensor:
    return 1 - (student * teacher).sum(1) / ((student**2).sum(1).sqrt() * (teacher**2).sum(1).sqrt())


def mse(student: Tensor, teacher: Tensor, _: float) -> Tensor:
    return ((student - teacher) ** 2).sum(1) / student.shape[1]


FORMULAS = {"kd": kd, "dkd": dkd, "dist": dist, "standardised": standardised, "cosine": cosine, "mse": mse}


def value_and_gradient(loss: Callable[[Tensor], Tensor], student: Tensor) -> tuple[Tensor, Tensor]:
    student = student.detach().clone().requires_grad_()
    values = loss(student)
    (gradient,) = torch.autograd.grad(values.mean(), student)
    return values.detach().double(), gradient.double()


def test_every_loss_has_a_formula_here() -> None:
    assert FORMULAS.keys() == losses.LOSSES.keys()


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=50, deadline=None)
@given(cases())
def test_value_and_gradient_are_those_of_the_formula(name: str, case: Case) -> None:
    student, teacher, t = case
    size = 1.0 if name in ("cosine", "mse") else t**2  # without T², what float32 can tell apart is of one size
    ours = value_and_gradient(lambda s: losses.LOSSES[name](s, teacher, t) / size, student)
    theirs = value_and_gradient(lambda s: FORMULAS[name](s, teacher.double(), t) / size, student.double())
    for found, expected in zip(ours, theirs, strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=WITHIN, rtol=WITHIN)


@settings(max_examples=50, deadline=None)
@given(cases(), st.data(), st.floats(0, 10))
def test_dkd_with_labels_takes_them_for_targets(case: Case, data: st.DataObject, beta: float) -> None:
    student, teacher, t = case
    n, classes = student.shape
    target = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))
    ours = value_and_gradient(lambda s: losses.dkd(s, teacher, t, target, beta) / t**2, student)
    theirs = value_and_gradient(lambda s: dkd(s, teacher.double(), t, target, beta) / t**2, student.double())
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, atol=WITHIN, rtol=WITHIN)


@settings(max_examples=50, deadline=None)
@given(cases(), st.floats(0.1, 10), st.floats(-5, 5))
def test_standardised_sees_neither_size_nor_offset_of_the_logits(case: Case, size: float, offset: float) -> None:
    student, teacher, t = case
    student, teacher = student.double(), teacher.double()
    moved = losses.standardised(size * student + offset, teacher, t)
    torch.testing.assert_close(moved, losses.standardised(student, teacher, t), atol=1e-5, rtol=1e-5)


def test_standardised_bears_logits_that_are_all_alike() -> None:
    student = torch.zeros(3, 4, requires_grad=True)
    losses.standardised(student, torch.randn(3, 4), 2.0).sum().backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", ["cosine", "mse"])
def test_losses_without_a_softmax_look_at_no_temperature(name: str) -> None:
    student, teacher = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(losses.LOSSES[name](student, teacher, 0.5), losses.LOSSES[name](student, teacher, 50.0))


def test_the_gradient_of_mse_is_twice_that_of_kd_at_a_high_temperature() -> None:
    student, teacher = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    student, teacher = (logits - logits.mean(1, keepdim=True) for logits in (student, teacher))
    (_, straight), (_, soft) = (
        value_and_gradient(lambda s, f=f: f(s, teacher, 1e4), student) for f in (mse, losses.kd)
    )
    torch.testing.assert_close(straight, 2 * soft, atol=1e-5, rtol=1e-2)


shares = st.lists(st.floats(0, 10), min_size=1, max_size=4).filter(lambda found: sum(found) > 0.01)


@settings(max_examples=50, deadline=None)
@given(cases(), shares)
def test_the_mean_of_teachers_has_the_mean_of_their_softened_probabilities(case: Case, weights: list[float]) -> None:
    student, teacher, t = case
    teachers = [teacher.roll(k, 1) for k in range(len(weights))]
    mean = losses.mean_of_teachers(teachers, t, weights)
    expected = sum(w * softened(each.double(), t) for w, each in zip(weights, teachers, strict=True)) / sum(weights)
    torch.testing.assert_close(softened(mean.double(), t), expected, atol=WITHIN, rtol=WITHIN)
    assert mean.dtype == teacher.dtype

    def mean_of_losses(s: Tensor) -> Tensor:
        each = [w * losses.kd(s, taught.double(), t) for w, taught in zip(weights, teachers, strict=True)]
        return torch.stack(each).sum(0) / sum(weights) / t**2

    ours = value_and_gradient(lambda s: losses.kd(s, mean, t) / t**2, student)[1]
    torch.testing.assert_close(ours, value_and_gradient(mean_of_losses, student.double())[1], atol=WITHIN, rtol=WITHIN)


def test_teachers_alike_weigh_alike_and_one_is_itself() -> None:
    a, b = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(losses.mean_of_teachers([a, b], 2.0), losses.mean_of_teachers([b, a], 2.0, [3, 3]))
    torch.testing.assert_close(losses.mean_of_teachers([a], 2.0).softmax(1), a.softmax(1))
    torch.testing.assert_close(losses.mean_of_teachers([a, b], 2.0, [1, 0]).softmax(1), a.softmax(1))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1, -0.5], "at least 0"),
        ([0, 0], "sum above 0"),
        ([1, float("nan")], "at least 0"),
        ([1, float("inf")], "at least 0"),
        ([1], "one for each of the 2 teachers is needed; these are 1"),
    ],
)
def test_weights_of_teachers_that_mean_nothing_are_refused(weights: list[float], said: str) -> None:
    with pytest.raises(TaskError, match=f"weights: .*{said}"):
        losses.mean_of_teachers([torch.zeros(2, 3)] * 2, 1.0, weights)


def test_teachers_of_different_classes_are_shown_side_by_side() -> None:
    with pytest.raises(TaskError, match=r"one shape.*\(2, 3\), \(2, 4\)"):
        losses.mean_of_teachers([torch.zeros(2, 3), torch.zeros(2, 4)], 1.0)
    with pytest.raises(TaskError, match="these are none"):
        losses.mean_of_teachers([], 1.0)
