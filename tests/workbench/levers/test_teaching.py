"""What a teacher says to examples, and what its student makes of it."""

from __future__ import annotations

import dataclasses
import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lever_bench import SETTINGS, bench, data, network
from torch import nn
from torch.func import functional_call

import workbench as wb
from workbench import Cancelled, Distillation, Quantization, Recipe, RecipeError, Task
from workbench.quantization.quantizer import specs
from workbench.store import Store
from workbench.task import TrainingData


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> wb.Bench:
    """With a student, and a second teacher that says the next class."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x).roll(1, dims=1)

    made = bench(Store(tmp_path_factory.mktemp("store")), turned=Turned())
    list(made.distil(SETTINGS))
    return made


def says(module: nn.Module, x: torch.Tensor, temperature: float) -> list[float]:
    with torch.inference_mode():
        logits = [value / temperature for value in module(x[None])[0].double().tolist()]
    whole = math.fsum(map(math.exp, logits))
    return [math.exp(value) / whole for value in logits]


@settings(max_examples=20, deadline=None)
@given(index=st.integers(0, 399), temperature=st.floats(0.5, 20))
def test_probabilities_are_those_of_the_softened_logits(trained: wb.Bench, index: int, temperature: float) -> None:
    said = trained.softened(SETTINGS, index, temperature)
    pictures, labels = data(400, 1)
    assert said.teacher == pytest.approx(says(network(16), pictures[index], temperature), abs=1e-5)
    known = trained._students.get(SETTINGS).networks
    for who in ("student", "control"):
        assert getattr(said, who) == pytest.approx(says(known[who].module, pictures[index], temperature), abs=1e-5)
    assert said.target == labels[index]
    assert said.classes == ("top left", "top right", "bottom left", "bottom right")


def test_the_temperature_of_the_settings_is_the_usual_one(trained: wb.Bench) -> None:
    assert trained.softened(SETTINGS, 3) == trained.softened(SETTINGS, 3, SETTINGS.temperature)


def test_several_teachers_say_their_mean(trained: wb.Bench) -> None:
    both = SETTINGS.replace(others=("turned",))
    one, other = (trained.softened(SETTINGS.replace(teacher=name), 5).teacher for name in ("big", "turned"))
    said = trained.softened(both, 5)
    assert said.teacher == pytest.approx([(a + b) / 2 for a, b in zip(one, other, strict=True)])
    assert said.student is None and said.control is None  # nobody trained it


def test_a_network_is_asked_once_about_an_example(trained: wb.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    warm = trained.softened(SETTINGS, 7, 1.0)
    for each in trained._students.get(SETTINGS).networks.values():
        monkeypatch.setattr(each, "call", lambda *_: pytest.fail("asked again"))
    hot = trained.softened(SETTINGS, 7, 10.0)
    assert max(hot.teacher) < max(warm.teacher)


@pytest.mark.parametrize(
    ("changes", "index", "temperature", "words"),
    [
        ({}, 400, None, "0 to 399"),
        ({}, -1, None, "0 to 399"),
        ({}, True, None, "0 to 399"),
        ({}, 0, 0.0, "temperature"),
        ({"teacher": "bigg"}, 0, None, "Did you mean 'big'"),
    ],
)
def test_what_cannot_be_heard_is_told(
    changes: dict[str, str], index: int, temperature: float | None, words: str, trained: wb.Bench
) -> None:
    with pytest.raises(RecipeError, match=words):
        trained.softened(SETTINGS.replace(**changes), index, temperature)


@pytest.mark.parametrize("bits", [None, 2])
def test_answers_are_counted_by_pairs(bits: int | None, trained: wb.Bench) -> None:
    recipe = Recipe(distillation=SETTINGS, quantization=Quantization(weight_bits=bits))
    matrix = trained.confusion(recipe)
    student = trained._network_for(recipe)
    layers = student.quantized(specs(recipe.quantization, student.layers))
    weights = {key: value for layer in layers.values() for key, value in layer.parameters().items()}
    with torch.inference_mode():
        answers = functional_call(student.module, weights, (data(400, 1)[0],)).argmax(1)
        wanted = network(16)(data(400, 1)[0]).argmax(1)
    pairs = [[int(((wanted == row) & (answers == column)).sum()) for column in range(4)] for row in range(4)]
    assert [list(row) for row in matrix.counts] == pairs
    assert matrix.agreement.value == pytest.approx(float((wanted == answers).float().mean()))
    assert matrix.agreement.source == ("simulated" if bits else "measured")
    assert matrix.classes[0] == "top left"
    apart = (wanted != answers).nonzero().flatten().tolist()
    assert sorted(each.index for each in matrix.differing) == apart
    assert all((each.teacher, each.student) == (wanted[each.index], answers[each.index]) for each in matrix.differing)
    sure = [each.probability for each in matrix.differing]
    assert sure == sorted(sure, reverse=True)
    first = matrix.differing[0]
    assert first.probability == pytest.approx(max(says(network(16), data(400, 1)[0][first.index], 1.0)), abs=1e-5)


def test_a_recipe_without_a_student_has_nobody_to_compare(trained: wb.Bench) -> None:
    with pytest.raises(RecipeError, match="has no student"):
        trained.confusion(Recipe())


def test_a_cancelled_count_says_so(trained: wb.Bench) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        trained.confusion(Recipe(distillation=SETTINGS), cancel)


def test_a_task_without_classes_is_refused_in_words(store: Store) -> None:
    pictures, _ = data(100, 1)
    targets = torch.randn(100, 4)
    training = TrainingData(2500, lambda: (data(2500, 3)[0], torch.zeros(2500, 4)))
    task = dataclasses.replace(Task.regression(pictures, targets, calibration=data(64, 2)[0]), training=training)
    made = wb.Bench(network(8), task, store=store)
    with pytest.raises(RecipeError, match=r"no classes.*shape \(4,\).*MAE"):
        made.softened(Distillation(teacher="self", images=10, labels=0, loss="mse"), 0)
