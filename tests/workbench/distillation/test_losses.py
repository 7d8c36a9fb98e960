from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor, nn

from workbench.distillation import losses
from workbench.distillation.learner import Examples
from workbench.distillation.objective import Teaching
from workbench.errors import RecipeError
from workbench.recipe import Distillation

Pair = tuple[Tensor, Tensor]


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    shape = (draw(st.integers(1, 6)), draw(st.integers(2, 8)))
    values = arrays(np.float64, shape, elements=st.floats(-12, 12))
    return torch.from_numpy(draw(values)), torch.from_numpy(draw(values))


temperatures = st.floats(0.5, 20)


def divergence(theirs: NDArray[np.float64], ours: NDArray[np.float64]) -> NDArray[np.float64]:
    return rel_entr(theirs, ours).sum(1)


@given(pairs(), temperatures)
def test_kd_is_hintons_loss(pair: Pair, temperature: float) -> None:
    student, teacher = pair
    ours = losses.kd(student, teacher, temperature)
    theirs, told = softmax(teacher.numpy() / temperature, 1), softmax(student.numpy() / temperature, 1)
    assert ours.shape == (len(student),)
    np.testing.assert_allclose(ours, temperature**2 * divergence(theirs, told), atol=1e-9)
    mean = nn.KLDivLoss(reduction="batchmean")(torch.log_softmax(student / temperature, 1), torch.from_numpy(theirs))
    assert ours.mean().item() == pytest.approx(temperature**2 * mean.item(), abs=1e-9)


@given(pairs(), temperatures, st.floats(-5, 5))
def test_kd_is_never_negative_and_zero_where_the_distributions_are_equal(
    pair: Pair, temperature: float, shift: float
) -> None:
    student, teacher = pair
    assert (losses.kd(student, teacher, temperature) >= -1e-9).all()
    assert losses.kd(teacher + shift, teacher, temperature).abs().max() < 1e-9


@given(pairs(), temperatures)
def test_the_gradient_of_kd_points_from_the_teachers_probabilities_to_the_students(
    pair: Pair, temperature: float
) -> None:
    student, teacher = pair[0].requires_grad_(), pair[1]
    losses.kd(student, teacher, temperature).sum().backward()
    expected = softmax(pair[0].detach().numpy() / temperature, 1) - softmax(teacher.numpy() / temperature, 1)
    np.testing.assert_allclose(student.grad, temperature * expected, atol=1e-9)


def test_the_size_of_the_gradient_of_kd_hardly_depends_on_a_high_temperature() -> None:
    teacher = torch.tensor([[4.0, 1.0, -2.0]], dtype=torch.float64)
    sizes = []
    for temperature in (50.0, 100.0):
        student = torch.zeros_like(teacher).requires_grad_()
        losses.kd(student, teacher, temperature).sum().backward()
        sizes.append(student.grad.norm().item())
    limit = (teacher - teacher.mean()).norm().item() / 3  # (s - t) / classes: Hinton et al., equation 4
    assert sizes == pytest.approx([limit, limit], rel=0.02)


@given(pairs(), temperatures)
def test_dist_is_one_minus_pearsons_correlation_of_rows_and_of_columns(pair: Pair, temperature: float) -> None:
    student, teacher = pair
    ours, theirs = (softmax(logits.numpy() / temperature, 1) for logits in pair)
    spread = [p.std(axis).min() for p in (ours, theirs) for axis in (0, 1)]
    if min(spread) < 1e-4:
        return  # a constant row has no correlation

    def correlations(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])

    inter, intra = 1 - correlations(ours, theirs), 1 - correlations(ours.T, theirs.T).mean()
    np.testing.assert_allclose(losses.dist(student, teacher, temperature), temperature**2 * (inter + intra), atol=1e-6)


def test_dist_does_not_care_for_the_scale_of_probabilities() -> None:
    teacher = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    softer = (0.5 * teacher + 0.1).log()  # an affine map of the same probabilities
    assert losses.dist(softer, teacher.log(), 1.0).abs().max() < 1e-5
    assert losses.kd(softer, teacher.log(), 1.0).min() > 1e-3


@given(pairs(), temperatures)
def test_dkd_without_labels_is_the_papers_equation_for_the_class_that_the_teacher_prefers(
    pair: Pair, temperature: float
) -> None:
    student, teacher = pair
    target = teacher.argmax(1).numpy()
    rows = np.arange(len(target))
    binary, others = [], []
    for logits in (teacher, student):
        p = softmax(logits.numpy() / temperature, 1)
        rest = np.delete(p.ravel(), rows * p.shape[1] + target).reshape(len(p), -1)
        binary.append(np.stack((p[rows, target], rest.sum(1)), 1))
        rest = np.delete(logits.numpy().ravel(), rows * p.shape[1] + target).reshape(len(p), -1)
        others.append(softmax(rest / temperature, 1))
    for name, beta in (("dkd", 1.0), ("decoupled", 8.0)):
        expected = temperature**2 * (1.0 * divergence(*binary) + beta * divergence(*others))
        np.testing.assert_allclose(losses.get(name)(student, teacher, temperature), expected, atol=1e-5, rtol=1e-5)


@given(pairs(), st.data(), st.floats(0, 1))
def test_labelled_examples_get_both_losses_and_the_others_the_teachers_alone(
    pair: Pair, data: st.DataObject, weight: float
) -> None:
    student, teacher = pair
    n, classes = student.shape
    labelled = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n))
    expected = 0.0
    for s, t, label, known in zip(student.numpy(), teacher.numpy(), labels, labelled, strict=True):
        taught = 4 * rel_entr(softmax(t / 2), softmax(s / 2)).sum()
        expected += weight * taught - (1 - weight) * log_softmax(s)[label] if known else taught
    hidden = torch.tensor([label if known else -1 for label, known in zip(labels, labelled, strict=True)])
    teaching = Teaching(Distillation(loss="kd", temperature=2.0, weight=weight), None, classes=True)
    total = teaching(student, Examples(student, hidden, teacher, torch.tensor(labelled), torch.arange(n)))
    assert total.item() == pytest.approx(expected / n, abs=1e-9)
    assert sum(teaching.parts().values()) == pytest.approx(expected / n, abs=1e-9)


@pytest.mark.parametrize("loss", losses.LOSSES.values(), ids=losses.LOSSES)
def test_following_the_gradient_of_any_loss_brings_the_student_to_the_teachers_answers(loss: losses.Loss) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = 3 * torch.randn(32, 5, generator=generator)
    student = torch.randn(32, 5, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([student], 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss(student, teacher, 2.0).mean().backward()
        optimizer.step()
    assert (student.argmax(1) == teacher.argmax(1)).float().mean() > 0.95


def test_a_student_that_agrees_has_no_loss_whatever_the_loss() -> None:
    logits = 3 * torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    for loss in losses.LOSSES.values():
        assert loss(logits, logits, 2.0).abs().max() < 1e-5


def test_an_unknown_loss_offers_the_nearest() -> None:
    assert losses.get("kd") is losses.kd
    with pytest.raises(RecipeError, match=r"distillation\.loss: .*'standardized'.*Did you mean 'standardised'"):
        losses.get("standardized")
    with pytest.raises(RecipeError, match=r"distillation\.features\.loss: .*'hint'.*Did you mean 'hints'"):
        losses.get_feature_loss("hint")


def test_a_loss_that_is_asked_for_in_the_wrong_place_is_sent_to_the_right_one() -> None:
    with pytest.raises(
        RecipeError, match=r"'attention'\. It is one for distillation\.features\.loss; here are kd, dkd"
    ):
        losses.get("attention")
    with pytest.raises(RecipeError, match=r"'kd'\. It is one for distillation\.loss; here are hints, attention"):
        losses.get_feature_loss("kd")


def test_recipes_of_earlier_versions_find_their_loss_which_is_not_offered() -> None:
    student, teacher = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    ours = losses.get("decoupled")(student, teacher, 2.0)
    assert torch.equal(ours, losses.dkd(student, teacher, 2.0, others=8.0))
    assert "decoupled" not in losses.LOSSES
