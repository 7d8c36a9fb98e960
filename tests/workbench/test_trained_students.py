"""Students by way of the bench: trained once, found again, stopped, refused."""

from __future__ import annotations

import dataclasses
import re
import threading

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import Cancelled, Distillation, Quantization, Recipe, RecipeError, Task, TaskError, WorkbenchError
from workbench.distillation.trained import Trained
from workbench.store import Store
from workbench.task import TrainingData

SETTINGS = Distillation(teacher="big", images=400, labels=40, epochs=2, width=0.5)


def data(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 1, 8, 8, generator=generator)
    return inputs, (inputs[:, 0, :4].sum((1, 2)) > 0).long() + (inputs[:, 0, 4:].sum((1, 2)) > 0).long()


def network(width: int, classes: int = 3) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, classes))


def learned_teacher() -> nn.Module:
    made = network(16)
    inputs, targets = data(1000, 9)
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(made(inputs), targets).backward()
        optimizer.step()
    return made


def bench(store: Store, **teachers: nn.Module) -> wb.Bench:
    inputs, targets = data(500, 1)
    task = Task.classification(inputs, targets, calibration=data(60, 2)[0], training=data(2600, 3), classes=3)
    return wb.Bench(network(8), task, store=store, teachers={"big": network(16), **teachers})


def test_a_student_is_trained_once_and_found_by_the_next_process(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench(store)
    assert not first.distilled(SETTINGS)
    progress = list(first.distil(SETTINGS))
    assert progress[-1].done
    assert [p.done for p in progress[:-1]] == [False] * (len(progress) - 1)
    report = first.measure(Recipe(distillation=SETTINGS))

    second = bench(Store(store.folder))
    monkeypatch.setattr("workbench.distillation.apart.distil", lambda *_, **__: pytest.fail("trained again"))
    assert second.distilled(SETTINGS)
    assert [p.done for p in second.distil(SETTINGS)] == [True]
    assert second.known(Recipe(distillation=SETTINGS)) == report
    assert not second.distilled(SETTINGS.replace(seed=1))


def test_the_report_compares_student_control_and_teacher(store: Store) -> None:
    report = bench(store).measure(Recipe(distillation=SETTINGS))
    told = report.distillation
    assert told is not None
    assert told.difference.value == pytest.approx(told.student.value - told.control.value)
    assert told.difference.low <= told.difference.value <= told.difference.high
    assert told.student.value == report.accuracy.value
    assert report.accuracy.source == "measured"
    assert told.parameters == sum(row.parameters for row in report.layers)


def test_a_student_can_be_quantized(store: Store) -> None:
    b = bench(store)
    plain, eight, two = (
        b.measure(Recipe(distillation=SETTINGS, quantization=Quantization(weight_bits=n, activation_bits=n and 8)))
        for n in (None, 8, 2)
    )
    assert plain.size.value > eight.size.value > two.size.value
    assert abs(plain.accuracy.value - eight.accuracy.value) < 0.05
    assert eight.distillation == plain.distillation


def test_stopped_at_once_nothing_is_learned(store: Store) -> None:
    b, cancel = bench(store), threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        b.measure(Recipe(distillation=SETTINGS), cancel)
    assert not b.distilled(SETTINGS)


def test_one_that_waits_for_another_training_can_be_stopped(store: Store) -> None:
    b, cancel = bench(store), threading.Event()
    running = b.distil(SETTINGS)
    next(running)
    timer = threading.Timer(0.2, cancel.set)
    timer.start()
    with pytest.raises(Cancelled):
        next(b.distil(SETTINGS.replace(seed=1), cancel))
    assert list(running)[-1].done  # the first one goes on
    assert list(b.distil(SETTINGS.replace(seed=1)))[-1].done


def test_stopped_midway_the_best_so_far_is_used_but_not_kept_on_disk(store: Store) -> None:
    b, cancel = bench(store), threading.Event()
    long = SETTINGS.replace(epochs=400)
    seen = set()
    for progress in b.distil(long, cancel):
        seen.add(progress.student and progress.student.value)
        if len(seen - {None}) > 1:  # it was evaluated again after it had learned something
            cancel.set()
    assert progress.cancelled
    assert b.distilled(long)
    stopped = b.measure(Recipe(distillation=long))
    assert stopped.distillation is not None
    assert stopped.distillation.steps < 400 * 400 // 64
    assert not bench(Store(store.folder)).distilled(long)


def test_a_damaged_student_is_trained_again(store: Store) -> None:
    list(bench(store).distil(SETTINGS))
    (path,) = (store.folder / "students").iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    again = bench(Store(store.folder))
    assert len(list(again.distil(SETTINGS))) > 1


def test_a_full_disk_keeps_the_student_in_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workbench.distillation.trained.Trained.save", full)
    b = bench(store)
    *_, last = b.distil(SETTINGS)
    assert last.done
    assert re.search(r"gone then, as it could not be written: .*No space left on device", last.note)
    assert b.distilled(SETTINGS)
    assert b.measure(Recipe(distillation=SETTINGS)).distillation is not None
    assert not bench(Store(store.folder)).distilled(SETTINGS)
    *_, last = b.distil(SETTINGS.replace(soup=2))
    assert "No space left on device" in last.note
    assert b.distilled(SETTINGS.replace(soup=2))


@pytest.mark.parametrize("labels", [0, 10, 40])
def test_a_teacher_at_chance_is_told_however_few_labels_there_are(store: Store, labels: int) -> None:
    settings = SETTINGS.replace(labels=labels, epochs=1)
    stuck = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(stuck[1].weight)
    nn.init.constant_(stuck[1].bias[2], 0.1)  # the class of a quarter
    right = r"The teacher is right for \d+% of 260 held-out examples .* not distinguishably more than chance, 33%"
    curve = list(bench(store, stuck=stuck).distil(settings.replace(teacher="stuck")))
    assert re.search(right, curve[-1].note)
    good = learned_teacher()
    assert "more than chance" not in list(bench(store, good=good).distil(settings.replace(teacher="good")))[-1].note


def test_a_teacher_that_made_the_targets_is_not_doubted_by_them(store: Store) -> None:
    inputs = data(600, 3)[0]
    task = dataclasses.replace(
        Task.fidelity(data(50, 1)[0], calibration=data(60, 2)[0]),
        training=TrainingData(600, lambda: (inputs, torch.zeros(600, dtype=torch.long))),
    )
    made = wb.Bench(network(8), task, store=store)
    assert "more than chance" not in list(made.distil(SETTINGS.replace(teacher="self", labels=0)))[-1].note


def test_a_loss_that_breaks_at_the_first_step_installs_no_student(store: Store) -> None:
    inputs, targets = data(2600, 3)
    inputs[:] = 3e38
    task = Task.classification(*data(500, 1), calibration=data(60, 2)[0], training=(inputs, targets), classes=3)
    teacher = nn.Sequential(nn.Hardtanh(), network(16))
    b = wb.Bench(network(8), task, store=store, teachers={"big": teacher})
    with pytest.raises(WorkbenchError, match=r"at step 1 of .* there is nothing to keep"):
        list(b.distil(SETTINGS))
    assert not b.distilled(SETTINGS)


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (network(4, classes=5), r"returns \(5,\).*the model \(3,\)"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(9, 3)),
            r"'wrong' does not take what the model takes. The model: \(1, 8, 8\) per example. The teacher: its layer 1 "
            r"takes \(9,\), and \(64,\) arrives there\.$",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)),
            r"The teacher: its layer 0 takes \(3, height, width\), and \(1, 8, 8\) arrives there\.$",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.LayerNorm(9), nn.Linear(9, 3)),
            r"The teacher: its layer 1 stops where \(64,\) arrives: .*normalized_shape",
        ),
    ],
    ids=["classes", "numbers", "channels", "another layer"],
)
def test_a_teacher_that_does_not_fit_is_told(store: Store, teacher: nn.Module, words: str) -> None:
    with pytest.raises(WorkbenchError, match=words):
        list(bench(store, wrong=teacher).distil(SETTINGS.replace(teacher="wrong")))


def test_a_cancelled_training_goes_on_where_it_was(store: Store) -> None:
    b, cancel = bench(store), threading.Event()
    for progress in b.distil(SETTINGS.replace(epochs=40), cancel):
        if progress.step >= 64:
            cancel.set()
    again = list(bench(Store(store.folder)).distil(SETTINGS.replace(epochs=40)))
    assert again[1].resumed
    assert again[1].step == progress.step
    assert len(list((store.folder / "students").iterdir())) == 1  # where it was is forgotten
    whole = bench(Store(store.folder / "other"))
    list(whole.distil(SETTINGS.replace(epochs=40)))
    files = [next((folder / "students").iterdir()) for folder in (store.folder, store.folder / "other")]
    states = [Trained.load(file).student_state for file in files]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_a_loss_that_breaks_leaves_the_best_and_the_session_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.distillation.pair.TRAINED_BETWEEN", 64)  # it is evaluated before it breaks
    inputs, targets = data(2600, 3)
    inputs[5] = 3e38
    task = Task.classification(*data(500, 1), calibration=data(60, 2)[0], training=(inputs, targets), classes=3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    b = wb.Bench(model, task, store=store, teachers={"big": nn.Sequential(nn.Hardtanh(), network(16))})
    long = SETTINGS.replace(epochs=40)
    with pytest.raises(WorkbenchError, match=r"in its part .* the best weights until then are kept"):
        list(b.distil(long))
    assert b.distilled(long)
    assert not any((store.folder / "students").glob("*.safetensors"))
    assert list(b.distil(SETTINGS.replace(images=4, labels=2)))[-1].done


def test_several_teachers_are_named_and_taught_by_together(store: Store) -> None:
    b = bench(store)
    both = SETTINGS.replace(others=("self",))
    assert list(b.distil(both))[-1].done
    assert not b.distilled(SETTINGS)
    with pytest.raises(RecipeError, match=r"distillation\.others: there is no teacher 'bigg'.*Did you mean 'big'"):
        b.distil(SETTINGS.replace(others=("bigg",)))
    with pytest.raises(RecipeError, match=r"distillation\.others: 'big' is the teacher already"):
        b.distil(SETTINGS.replace(others=("big",)))
    with pytest.raises(WorkbenchError, match=r"returns \(5,\).*the model \(3,\)"):
        list(bench(store, wrong=network(4, classes=5)).distil(SETTINGS.replace(others=("wrong",))))


def test_a_single_training_example_teaches_nobody(store: Store) -> None:
    task = Task.classification(*data(50, 1), calibration=data(60, 2)[0], training=data(1, 3), classes=3)
    b = wb.Bench(network(8), task, store=store)
    assert b.training_images == 0
    with pytest.raises(RecipeError, match="no training examples, or a single one"):
        b.distil(SETTINGS.replace(teacher="self"))


def test_the_model_can_be_its_own_teacher(store: Store) -> None:
    b = bench(store)
    assert [name for name, reason in b.teachers() if reason is None] == ["big", "self"]
    assert b.measure(Recipe(distillation=SETTINGS.replace(teacher="self"))).distillation is not None


def test_training_data_are_read_late_and_counted() -> None:
    short = TrainingData(10, lambda: data(9, 0))
    with pytest.raises(TaskError, match="10 examples were announced, 9 came"):
        _ = short.tensors
