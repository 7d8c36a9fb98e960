"""What a bench says of a student before it is trained, and students of each form through a measurement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import workbench as wb
from workbench import Distillation, Quantization, Recipe, RecipeError, WorkbenchError
from workbench.store import Store

CLASSES, SIDE = 3, 6
W4A8 = Quantization(weight_bits=4, activation_bits=8)
SETTINGS = Distillation(teacher="self", images=64, labels=32, epochs=1)


def data(n: int, seed: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(n, 5, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, :CLASSES].mean((2, 3)).argmax(1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(5, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * SIDE * SIDE, 6),
        nn.ReLU(),
        nn.Linear(6, CLASSES),
    )


def flat(hidden: int, classes: int = CLASSES) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(5 * SIDE**2, hidden), nn.ReLU(), nn.Linear(hidden, classes))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> wb.Bench:
    inputs, targets = data(60, 1)
    task = wb.Task.classification(inputs, targets, calibration=data(20, 2)[0], training=data(2100, 3), classes=CLASSES)
    store = Store(tmp_path_factory.mktemp("store"))
    students = {"flat": flat(7), "large": flat(400), "other": flat(7, CLASSES + 1)}
    return wb.Bench(network(), task, store=store, teachers={"small": flat(2)}, students=students)


def test_what_is_said_agrees_with_a_count_by_hand(bench: wb.Bench) -> None:
    found = bench.student(SETTINGS.replace(form="separable"))
    first, second = 5 * 9 + 5 * 8, 8 * 9 + 8 * 8
    linear = 8 * 36 * 6 + 6 * 3
    assert found.parameters == first + 8 + 16 + second + 8 + linear + 9
    assert found.bytes == 4 * (found.parameters + 16)  # and the statistics of the BatchNorm
    assert found.macs == 36 * (first + second) + linear
    assert found.model_macs == 36 * (5 * 8 * 9 + 8 * 8 * 9) + linear
    assert found.share.value == found.macs / found.model_macs
    assert found.share.source == "predicted"
    assert found.changed == ("0", "3")
    assert found.kept == ("6, 8: no convolution",)
    assert found.notes == ()
    assert not found.larger


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({}, ("0", "3", "6")),
        ({"layers": {"3": 0.25}, "initial": "model"}, ("0", "3", "6")),
        ({"form": "depth", "depth": 0.5}, ("3",)),
        ({"form": "separable", "initial": "model"}, ("0", "3")),
        ({"form": "low_rank"}, ("0", "3", "6")),
        ({"student": "flat"}, ("1", "3")),
    ],
    ids=["width", "layers", "depth", "separable", "low-rank", "own"],
)
def test_each_form_is_told_trained_quantized_and_exported(
    bench: wb.Bench, fields: dict[str, object], changed: tuple[str, ...], tmp_path: Path
) -> None:
    settings = SETTINGS.replace(**fields)
    told = bench.student(settings, bench.hardware()[0].name)
    assert told.changed == changed
    assert told.latency is not None
    assert told.latency.latency.low > 0
    recipe = Recipe(distillation=settings, quantization=W4A8)
    report = bench.measure(recipe)
    assert report.distillation is not None
    assert report.distillation.parameters == told.parameters
    assert report.latency is not None
    assert {row.weight_bits for row in report.layers} == {4}
    assert bench.counts(recipe).macs == told.macs
    again = wb.Bench(network(), bench.task, store=Store(bench.store.folder), students={"flat": flat(7)})
    assert again.distilled(settings)  # as many processes as there are make one student of the settings
    bench.export(recipe, tmp_path / "shipped")
    assert any((tmp_path / "shipped").rglob("*.onnx"))


def test_a_student_may_be_larger_and_that_is_said(bench: wb.Bench) -> None:
    assert bench.students() == ("flat", "large", "other")
    large = bench.student(SETTINGS.replace(student="large"))
    assert large.larger
    assert large.parameters > large.model_parameters
    assert large.share.value > 1
    assert "larger than its teacher: 73,603 parameters against" in large.notes[0]
    assert "larger than its model: 73,603 parameters against" in large.notes[1]
    beside = bench.student(SETTINGS.replace(teacher="small"))
    assert beside.larger
    assert len(beside.notes) == 1


def test_widths_and_hidden_layers_are_told(bench: wb.Bench) -> None:
    found = bench.student(SETTINGS.replace(layers={"3": 0.25}))
    assert found.channels == {"0": (4, 8), "3": (2, 8), "6": (3, 6)}  # the last layer keeps its width
    assert found.layers["3"] == (2, SIDE, SIDE)
    assert found.teacher_layers["3"] == (8, SIDE, SIDE)
    assert "8" not in found.layers
    small = bench.student(SETTINGS.replace(teacher="small"))
    assert small.teacher_layers["1"] == (2,)


def test_a_device_without_floating_point_says_which_layers_need_bits(bench: wb.Bench) -> None:
    there = bench.student(SETTINGS, "Coral Edge TPU").latency
    assert there is not None
    assert there.latency is None
    assert "Put weights and inputs of 0, 3, 6 and 1 more on 8 bits or fewer" in there.sentence
    assert "has no bits" not in there.sentence


def test_what_a_call_takes_here_lies_between_its_share_of_the_work_and_the_whole(bench: wb.Bench) -> None:
    report = bench.measure(Recipe(quantization=W4A8))
    assert report.latency is not None
    assert report.speedup is not None
    least, most = (getattr(report.latency, end) * getattr(report.speedup, end) for end in ("low", "high"))
    found = bench.student(SETTINGS)
    here = found.beside(report)
    assert here is not None
    assert (here.low, here.high) == pytest.approx((found.share.value * least, most))
    assert here.source == "predicted"
    assert here.low < here.value < here.high
    larger = bench.student(SETTINGS.replace(student="large")).beside(report)
    assert larger is not None
    assert larger.low == least
    assert larger.high > most
    assert found.beside(report.model_copy(update={"latency": None})) is None


@pytest.mark.parametrize(
    ("loss", "pairs", "words"),
    [
        ("hints", {"3": "3"}, ""),
        ("hints", {"33": "3"}, "student has no hidden layer '33'"),
        ("hints", {"3": "8"}, "teacher has no hidden layer '8'"),
        ("hints", {"3": "6"}, r"position with position.*'distance'"),
        ("attention", {"6": "6"}, "position with position"),
        ("distance", {"3": "6"}, ""),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused_before_training(
    bench: wb.Bench, loss: str, pairs: dict[str, str], words: str
) -> None:
    features = wb.recipe.Features(loss=loss, pairs=pairs)
    settings = SETTINGS.replace(features=features)
    if not words:
        bench.student(settings).check_pairs(features)
        return
    with pytest.raises(RecipeError, match=words):
        bench.student(settings).check_pairs(features)
    with pytest.raises(WorkbenchError):  # as the trainer says
        bench.measure(Recipe(distillation=settings))


def test_a_network_of_which_no_block_can_be_left_out_is_told_before_training(bench: wb.Bench) -> None:
    plain = wb.Bench(flat(4)(), bench.task, store=bench.store)
    depth = SETTINGS.replace(form="depth")
    with pytest.raises(WorkbenchError, match=r"Nothing of Sequential.*1, 3: no block around gives back the shape"):
        plain.student(depth)
    with pytest.raises(WorkbenchError, match="Nothing of Sequential"):
        plain.measure(Recipe(distillation=depth))


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"student": "flatt"}, RecipeError, r"no student 'flatt'.*'flat'"),
        ({"teacher": "smal"}, RecipeError, r"no teacher 'smal'.*'small'"),
        ({"student": "other"}, WorkbenchError, r"\(5, 6, 6\).*returns \(4,\) and the model \(3,\)"),
    ],
    ids=["student", "teacher", "classes"],
)
def test_names_and_students_that_do_not_fit_are_refused(
    bench: wb.Bench, fields: dict[str, str], kind: type[WorkbenchError], words: str
) -> None:
    settings = SETTINGS.replace(**fields)
    with pytest.raises(kind, match=words):
        bench.student(settings)
    with pytest.raises(kind, match=words):
        bench.measure(Recipe(distillation=settings))


def test_another_own_student_of_the_same_name_is_another_student(bench: wb.Bench) -> None:
    settings = SETTINGS.replace(student="flat")
    list(bench.distil(settings))
    other = wb.Bench(network(), bench.task, store=bench.store, students={"flat": flat(9)})
    assert not other.distilled(settings)


def test_weights_of_another_form_are_trained_again(bench: wb.Bench) -> None:
    settings = SETTINGS.replace(form="depth", seed=3)
    narrow = SETTINGS.replace(seed=3)
    folder = bench.store.folder / "students"
    before = set(folder.iterdir())
    list(bench.distil(narrow))
    (one,) = set(folder.iterdir()) - before
    list(bench.distil(settings))
    (other,) = set(folder.iterdir()) - before - {one}
    other.write_bytes(one.read_bytes())
    again = wb.Bench(network(), bench.task, store=Store(bench.store.folder))
    assert len(list(again.distil(settings))) > 1
    assert len(list(again.distil(settings))) == 1
