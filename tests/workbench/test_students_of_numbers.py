"""Students whose outputs are no classes: numbers and embeddings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import Distillation, Recipe, RecipeError, Task, TaskError
from workbench.store import Store

SETTINGS = Distillation(teacher="self", images=400, labels=40, epochs=40, loss="mse")


def network(outputs: int, *, squeezed: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, outputs)]
    return nn.Sequential(*layers, *[nn.Flatten(0)] * squeezed)


def numbers(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return inputs, 200 + 50 * inputs[:, :1] * inputs[:, 1:2] + 30 * inputs[:, 2:3]


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    """Right to a few units of numbers around 200."""
    net, (inputs, targets) = network(1), numbers(2000, 9)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        (net(inputs) - (targets - 200) / 60).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        net[2].weight.mul_(60)
        net[2].bias.mul_(60).add_(200)
    return net.eval()


def bench(store: Store, teacher: nn.Module, **changes: object) -> wb.Bench:
    task = Task.regression(*numbers(200, 1), calibration=numbers(50, 2)[0], training=numbers(500, 3))
    return wb.Bench(teacher, replace(task, **changes), store=store)


@pytest.mark.parametrize("initial", ["random", "model"])
def test_numbers_of_any_size_are_learned_and_the_error_falls(store: Store, teacher: nn.Module, initial: str) -> None:
    b = bench(store, teacher)
    settings = SETTINGS.replace(initial=initial)
    curve = list(b.distil(settings))
    begun, last = curve[1], curve[-1]
    assert last.student is not None and begun.student is not None and last.control is not None
    assert last.student.unit == b.baseline.accuracy.unit
    assert last.student.value < 0.6 * begun.student.value  # an error: smaller is better
    assert last.student.value < last.control.value
    assert set(last.parts) == {"teacher", "labels"}
    told = b.measure(Recipe(distillation=settings)).distillation
    assert told is not None
    assert told.student.value == pytest.approx(last.student.value, rel=0.3)  # on test examples, in the same unit
    assert told.difference.value > 0  # better is positive, whatever the metric


def test_patience_takes_the_smallest_error(store: Store, teacher: nn.Module) -> None:
    b = bench(store, teacher)
    curve = list(b.distil(SETTINGS.replace(epochs=400, patience=1)))
    assert "Stopped early" in curve[-1].note
    assert curve[-1].step < curve[-1].steps
    shown = [each.student.value for each in curve[:-1] if each.student and each.step]
    assert curve[-1].student is not None
    assert curve[-1].student.value == pytest.approx(min(shown))  # all held-out examples are shown in each point


def test_embeddings_have_no_targets_and_the_control_stays_at_its_start(store: Store) -> None:
    inputs = numbers(700, 4)[0]
    task = Task.embedding(inputs[:150], calibration=inputs[150:200], training=inputs[200:])
    b = wb.Bench(network(8).eval(), task, store=store)
    for loss in ("cosine", "mse"):
        curve = list(b.distil(SETTINGS.replace(loss=loss, labels=0)))
        last = curve[-1]
        assert "no labelled example" in last.note
        assert last.student is not None and curve[1].student is not None
        assert last.student.value > max(0.9, curve[1].student.value)
        assert len({each.control for each in curve[1:-1]}) == 1
        told = b.measure(Recipe(distillation=SETTINGS.replace(loss=loss, labels=0))).distillation
        assert told is not None
        assert told.student.value > 0.9


def test_one_number_may_come_without_a_dimension(store: Store, teacher: nn.Module) -> None:
    squeezed = nn.Sequential(*teacher, nn.Flatten(0)).eval()
    inputs, targets = numbers(200, 1)
    learned = numbers(500, 3)
    task = Task.regression(
        inputs, targets[:, 0], calibration=numbers(50, 2)[0], training=(learned[0], learned[1][:, 0])
    )
    *_, last = wb.Bench(squeezed, task, store=store).distil(SETTINGS)
    assert last.student is not None
    assert last.student.value < 25


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "kd"}, "no classes. Choose 'mse' .numbers. or 'cosine'"),
        ({"loss": "dist"}, "Choose 'mse'"),
        ({"loss": "cosine"}, "one number has no direction"),
        ({"augmentation": "flip"}, r"these inputs have shape \(6,\)"),
        ({"images": 451}, "the task has 450 to train on"),
    ],
)
def test_what_numbers_do_not_allow_is_said(
    store: Store, teacher: nn.Module, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        list(bench(store, teacher).distil(SETTINGS.replace(**changes)))


def test_targets_to_learn_from_are_like_those_of_the_evaluation() -> None:
    inputs, targets = numbers(40, 1)
    with pytest.raises(TaskError, match=r"training targets: \(1,\) for each of 40 examples"):
        Task.regression(inputs, targets, training=(inputs, targets[:, 0]))
    with pytest.raises(TaskError, match="training targets: example 3 holds NaN"):
        spoilt = targets.clone()
        spoilt[3] = torch.nan
        Task.regression(inputs, targets, training=(inputs, spoilt))
