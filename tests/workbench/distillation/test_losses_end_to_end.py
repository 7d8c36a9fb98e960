"""Every loss from the recipe to a student that has learned, by way of the bench."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import Distillation, Features, Recipe, RecipeError, Task, WorkbenchError
from workbench.distillation import losses
from workbench.distillation.students import scale_width
from workbench.distillation.teacher import teacher_logits
from workbench.distillation.trainer import distil
from workbench.store import Store

SETTINGS = Distillation(teacher="big", images=640, labels=40, epochs=10, width=0.5)


def data(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of three stripes of a picture is brightest."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (n,), generator=generator)
    inputs = 0.5 * torch.randn(n, 1, 9, 9, generator=generator)
    for k in range(3):
        inputs[targets == k, :, 3 * k : 3 * k + 3] += 0.5
    return inputs, targets


def network(width: int) -> nn.Module:
    torch.manual_seed(width)
    body = nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 16), nn.ReLU()
    )
    return nn.Sequential(*body, nn.Linear(16, 3))


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    net, (inputs, targets) = network(12), data(1000, 9)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture
def bench(store: Store, teacher: nn.Module) -> wb.Bench:
    inputs, targets = data(300, 1)
    task = Task.classification(inputs, targets, calibration=data(60, 2)[0], training=data(2640, 3), classes=3)
    return wb.Bench(network(8), task, store=store, teachers={"big": teacher})


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_student_learns_by_any_loss_of_outputs(bench: wb.Bench, name: str) -> None:
    settings = SETTINGS.replace(loss=name)
    *_, last = bench.distil(settings)
    assert last.done
    assert math.isfinite(last.loss)
    assert last.student is not None
    assert last.student.low > 0.8
    assert bench.distilled(settings)
    assert not bench.distilled(SETTINGS.replace(loss=name, temperature=3.5))


@pytest.mark.parametrize("name", losses.FEATURE_LOSSES)
def test_a_student_learns_by_any_loss_of_features_beside_them(bench: wb.Bench, name: str) -> None:
    settings = SETTINGS.replace(features=Features(loss=name))
    *_, last = bench.distil(settings)
    assert last.student is not None
    assert last.student.low > 0.8


def test_proposed_pairs_can_be_taken_or_changed(bench: wb.Bench) -> None:
    attention = SETTINGS.replace(features=Features(loss="attention"))
    assert bench.feature_pairs(attention) == {"1": "1"}
    assert bench.feature_pairs(SETTINGS) == {"4": "4"}
    changed = attention.replace(features=Features(loss="attention", pairs={"0": "1"}))
    assert bench.feature_pairs(changed) == {"0": "1"}
    curves = {}
    for settings in (attention, attention.replace(features=Features(loss="attention", pairs={"1": "1"})), changed):
        *_, last = bench.distil(settings)
        curves[settings] = last.loss
    proposed, taken, other = curves.values()
    assert proposed == taken
    assert other != proposed
    with pytest.raises(RecipeError, match="no teacher"):
        bench.feature_pairs(SETTINGS.replace(teacher="bigg"))


def test_connectors_are_no_part_of_the_student(bench: wb.Bench) -> None:
    settings = SETTINGS.replace(features=Features(pairs={"0": "0"}), epochs=1)
    report = bench.measure(Recipe(distillation=settings))
    assert report.distillation is not None
    plain = sum(p.numel() for p in scale_width(network(8), data(2, 0)[0], settings.width, settings.seed).parameters())
    assert report.distillation.parameters == plain


def training(teacher: nn.Module, features: Features | None = None, *, told: bool = True) -> dict[str, torch.Tensor]:
    inputs, targets = data(640, 3)
    steps = distil(
        network(8),
        inputs[:2],
        SETTINGS.replace(features=features, epochs=1),
        inputs,
        targets,
        teacher_logits(teacher, inputs),
        data(100, 5),
        teacher=teacher if told else None,
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return dict(end.value.student_state) | {f"control.{k}": v for k, v in end.value.control_state.items()}


def test_features_change_the_student_reproducibly_and_the_control_not(teacher: nn.Module) -> None:
    plain, once, again = training(teacher), training(teacher, Features()), training(teacher, Features())
    assert plain.keys() == once.keys()
    for name, value in once.items():
        assert torch.equal(value, again[name])
        if name.startswith("control."):
            assert torch.equal(value, plain[name])
    assert not torch.equal(once["0.weight"], plain["0.weight"])


def test_more_weight_moves_the_hidden_layers_further(teacher: nn.Module) -> None:
    plain = training(teacher)["0.weight"]
    near, far = (training(teacher, Features(weight=weight))["0.weight"] - plain for weight in (1e-3, 10.0))
    assert far.norm() > 10 * near.norm()


def test_features_need_the_teacher_itself(teacher: nn.Module) -> None:
    with pytest.raises(WorkbenchError, match="the teacher itself is needed"):
        training(teacher, Features(), told=False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (SETTINGS.replace(loss="dkdd"), r"distillation\.loss: there is no loss 'dkdd'\. Did you mean 'dkd'"),
        (SETTINGS.replace(loss="hints"), r"It is one for distillation\.features\.loss"),
        (SETTINGS.replace(features=Features(loss="atention")), "'atention'.*Did you mean 'attention'"),
    ],
)
def test_an_unknown_loss_is_refused_before_anything_is_trained(
    bench: wb.Bench, settings: Distillation, said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        bench.distil(settings)
    with pytest.raises(RecipeError, match=said):
        bench.check(Recipe(distillation=settings))


def test_a_layer_that_does_not_exist_is_refused_and_the_session_lives_on(bench: wb.Bench) -> None:
    with pytest.raises(RecipeError, match="student has no layer 'conv'"):
        list(bench.distil(SETTINGS.replace(features=Features(pairs={"conv": "0"}))))
    assert list(bench.distil(SETTINGS.replace(epochs=1)))[-1].done


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"weight": 0}, r"Features\.weight = 0"),
        ({"weight": -1.0}, r"Features\.weight = -1"),
        ({"weight": math.nan}, r"Features\.weight"),
        ({"loss": ""}, r"Features\.loss"),
        ({"layers": {}}, "no such field; Features has loss, weight, pairs"),
    ],
)
def test_features_that_mean_nothing_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Features(**fields)


def test_a_recipe_without_features_keeps_its_text() -> None:
    plain = Recipe(distillation=Distillation())
    assert "features" not in plain.to_json()
    hinted = Recipe(distillation=Distillation(features=Features(loss="attention", pairs={"b": "c", "a": "d"})))
    assert Recipe.from_json(hinted.to_json()) == hinted
    assert hash(Recipe.from_json(hinted.to_json())) == hash(hinted)
    scope: dict[str, object] = {}
    exec(hinted.code(), scope)  # noqa: S102 - it is our own text
    assert scope["recipe"] == hinted
