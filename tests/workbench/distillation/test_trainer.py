from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Generator
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workbench.distillation import pair, trainer
from workbench.distillation.goal import accuracy
from workbench.distillation.learner import BATCH, Learner, batches
from workbench.distillation.students import scale_width
from workbench.distillation.teacher import TeacherLogits, fingerprint
from workbench.distillation.trainer import DivergenceError, Progress, Trained, distil
from workbench.errors import RecipeError, TaskError, WorkbenchError
from workbench.recipe import Distillation, Features

CLASSES, FEATURES = 6, 12
GENERATOR = torch.Generator().manual_seed(0)
RULE = torch.randn(FEATURES, CLASSES, generator=GENERATOR)
INPUTS = torch.randn(1500, FEATURES, generator=GENERATOR)
HELD_OUT = torch.randn(600, FEATURES, generator=GENERATOR)
SETTINGS = Distillation(width=0.5, images=1500, labels=24, epochs=8)


def taught(inputs: Tensor) -> TeacherLogits:
    """A teacher that is always right."""
    return TeacherLogits(4 * inputs @ RULE, fingerprint(inputs))


def right(inputs: Tensor) -> Tensor:
    return (inputs @ RULE).argmax(1)


def model() -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 48),
        nn.BatchNorm1d(48),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(48, 24),
        nn.ReLU(),
        nn.Linear(24, CLASSES),
    )


def training(settings: Distillation = SETTINGS, **changes: Any) -> Generator[Progress, None, Trained]:
    arguments: dict[str, Any] = {
        "model": model(),
        "example": INPUTS[:2],
        "settings": settings,
        "inputs": INPUTS,
        "labels": right(INPUTS),
        "teacher_logits": taught(INPUTS),
        "validation": (HELD_OUT, right(HELD_OUT)),
    }
    return distil(**(arguments | changes))


def run(training: Generator[Progress, None, Trained]) -> tuple[list[Progress], Trained]:
    curve = []
    while True:
        try:
            curve.append(next(training))
        except StopIteration as end:
            return curve, end.value


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def finished() -> tuple[list[Progress], Trained]:
    return run(training())


def test_with_few_labels_the_student_learns_from_its_teacher_what_the_control_cannot(
    finished: tuple[list[Progress], Trained],
) -> None:
    curve, trained = finished
    last = curve[-1]
    assert last.student.low > 0.75
    assert last.student.low > last.control.high
    assert last.control.low > 1 / CLASSES  # it learns from its labels, too
    network = scale_width(model(), INPUTS[:2], SETTINGS.width, SETTINGS.seed)
    for state, told in ((trained.student_state, last.student), (trained.control_state, last.control)):
        network.load_state_dict(state)
        assert accuracy(network, HELD_OUT, right(HELD_OUT)) == told


def test_progress_begins_before_the_first_step_and_ends_with_done(finished: tuple[list[Progress], Trained]) -> None:
    curve, trained = finished
    steps = math.ceil(SETTINGS.epochs * SETTINGS.images / BATCH)
    assert (curve[0].step, curve[-1].step, trained.steps) == (0, steps, steps)
    assert curve[0].student == curve[0].control  # the same weights
    assert {progress.steps for progress in curve} == {steps}
    assert [progress.done for progress in curve] == [False] * (len(curve) - 1) + [True]
    assert not any(progress.cancelled for progress in curve)
    assert [p.seconds for p in curve] == sorted(p.seconds for p in curve)
    assert all(math.isfinite(progress.loss) for progress in curve[1:])
    assert curve[-1].loss < curve[1].loss
    assert len({progress.student.value for progress in curve}) > 3  # a curve, not a line


def test_the_same_settings_give_the_same_bits(
    finished: tuple[list[Progress], Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN", 0.0)  # how often is spoken must not matter
    torch.manual_seed(99)  # nor what others draw

    def with_others_drawing() -> Generator[Progress, None, Trained]:
        steps = training()
        while True:
            torch.rand(1)
            try:
                yield next(steps)
            except StopIteration as end:
                return end.value

    curve, trained = run(with_others_drawing())
    assert len(curve) > len(finished[0])
    assert same(trained.student_state, finished[1].student_state)
    assert same(trained.control_state, finished[1].control_state)
    _, other = run(training(SETTINGS.replace(seed=1)))
    assert not same(other.student_state, trained.student_state)


def test_the_callers_random_state_is_left_alone() -> None:
    steps = training(SETTINGS.replace(epochs=1))
    before = torch.get_rng_state()
    run(steps)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_teachers_share_and_with_all_labels_student_and_control_are_one() -> None:
    """They differ in nothing else: weights, order, steps, schedule, dropout."""
    _, trained = run(training(SETTINGS.replace(weight=0, labels=1500, epochs=2)))
    assert same(trained.student_state, trained.control_state)


def test_labels_that_were_not_given_are_not_looked_at() -> None:
    """The labels of all but the chosen examples may be anything."""
    settings = SETTINGS.replace(epochs=1)
    _, honest = run(training(settings))
    chosen = torch.randperm(1500, generator=torch.Generator().manual_seed(settings.seed))[: settings.labels]
    spoilt = (right(INPUTS) + 1) % CLASSES
    spoilt[chosen] = right(INPUTS)[chosen]
    _, other = run(training(settings, labels=spoilt))
    assert same(honest.student_state, other.student_state)
    assert same(honest.control_state, other.control_state)


def test_images_beyond_the_settings_are_not_trained_on() -> None:
    settings = SETTINGS.replace(images=500, epochs=1)
    other = INPUTS.clone()
    other[500:] *= -1
    _, ours = run(training(settings))
    _, theirs = run(training(settings, inputs=other, labels=right(other), teacher_logits=taught(other)))
    assert same(ours.student_state, theirs.student_state)
    assert same(ours.control_state, theirs.control_state)


def test_the_loss_is_the_sum_of_its_parts_and_the_time_left_is_told(
    finished: tuple[list[Progress], Trained],
) -> None:
    curve, _ = finished
    learned = [progress for progress in curve if progress.step]
    for progress in learned:
        assert set(progress.parts) == {"teacher", "labels"}
        assert sum(progress.parts.values()) == pytest.approx(progress.loss, rel=1e-5)
        assert math.isfinite(progress.control_loss)
    assert not curve[0].parts
    assert curve[0].seconds_left is None
    assert all(progress.seconds_left > 0 for progress in learned[:-1])
    assert Progress.from_dict(json.loads(json.dumps(learned[-1].to_dict()))) == learned[-1]
    pairs = SETTINGS.replace(features=Features(loss="hints", pairs={"4": "0"}), epochs=1)
    *_, last = run(training(pairs, teacher=nn.Sequential(nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES))))[0]
    assert set(last.parts) == {"teacher", "labels", "hidden layers"}
    assert sum(last.parts.values()) == pytest.approx(last.loss, rel=1e-5)


def test_patience_ends_both_early_and_uses_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "WATCHED_BETWEEN", BATCH)
    curve, trained = run(training(SETTINGS.replace(epochs=60, patience=12)))
    assert "Stopped early: 12 evaluations" in curve[-1].note
    assert not trained.cancelled
    assert trained.steps == curve[-1].step < curve[-1].steps
    shown = [progress for progress in curve if progress.step and not progress.done]
    network = scale_width(model(), INPUTS[:2], SETTINGS.width, SETTINGS.seed)
    for who, state in (("student", trained.student_state), ("control", trained.control_state)):
        best = max(getattr(progress, who).value for progress in shown)
        assert best == max(getattr(progress, who).value for progress in shown[:-11])
        network.load_state_dict(state)
        assert accuracy(network, HELD_OUT, right(HELD_OUT)).value == best


def test_patience_looks_more_often_than_a_curve_needs() -> None:
    plain, watched = (
        {progress.step for progress in run(training(SETTINGS.replace(epochs=20, patience=patience)))[0]}
        for patience in (None, 1000)
    )
    assert {0, 79, 158} <= plain and {0, 32, 64, 96} <= watched  # 5,000 and 2,000 examples


def test_a_loss_that_breaks_before_anything_was_evaluated_leaves_nothing() -> None:
    spoilt = INPUTS.clone()
    spoilt[:] = 3e38
    logits = TeacherLogits(taught(INPUTS).logits, fingerprint(spoilt))
    with pytest.raises(DivergenceError, match=r"at step 1 of .* there is nothing to keep") as error:
        run(training(inputs=spoilt, teacher_logits=logits))
    assert error.value.trained is None


def test_weights_that_are_no_numbers_are_never_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finite loss with an infinite gradient spoils the weights one step before the loss shows it."""

    def spoil(learner: Learner) -> float:
        with torch.no_grad():
            next(iter(learner.network.parameters())).fill_(math.nan)
        learner.taken += 1
        return 0.5 if learner.taken == 1 else math.nan

    monkeypatch.setattr(pair, "TRAINED_BETWEEN", BATCH)
    monkeypatch.setattr(Learner, "step", spoil)
    with pytest.raises(DivergenceError, match="there is nothing to keep") as error:
        run(training())
    assert error.value.trained is None


def test_a_cancel_stops_before_the_next_step_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(pair, "TRAINED_BETWEEN", 2 * BATCH)
    cancel, curve = threading.Event(), []
    steps = training(cancel=cancel)
    for progress in steps:
        curve.append(progress)
        if progress.step == 41:
            cancel.set()
            break
    rest, trained = run(steps)
    assert [(p.done, p.cancelled, p.step) for p in rest] == [(True, True, 41)]
    assert trained.cancelled
    assert trained.steps == 41
    network = scale_width(model(), INPUTS[:2], SETTINGS.width, SETTINGS.seed)
    for who, state in (("student", trained.student_state), ("control", trained.control_state)):
        best = max(getattr(p, who).value for p in curve if p.step)
        network.load_state_dict(state)
        assert getattr(rest[0], who).value == best
        assert accuracy(network, HELD_OUT, right(HELD_OUT)).value == best


def test_a_cancel_before_the_first_step_leaves_what_there_was() -> None:
    cancel = threading.Event()
    cancel.set()
    curve, trained = run(training(cancel=cancel))
    assert (curve[-1].done, curve[-1].cancelled, curve[-1].student, curve[-1].control) == (True, True, None, None)
    assert (trained.steps, trained.cancelled) == (0, True)
    start = scale_width(model(), INPUTS[:2], SETTINGS.width, SETTINGS.seed).state_dict()
    assert same(trained.student_state, start)
    assert same(trained.control_state, start)


def test_without_labels_the_control_stays_where_it_was_and_that_is_said() -> None:
    curve, trained = run(training(SETTINGS.replace(labels=0, epochs=3)))
    assert same(trained.control_state, scale_width(model(), INPUTS[:2], 0.5, 0).state_dict())
    assert curve[-1].student.low > 0.5
    assert {p.control for p in curve} == {curve[0].control}
    assert all("no labelled example" in progress.note for progress in curve)


def test_logits_in_another_order_are_noticed() -> None:
    logits = taught(INPUTS)
    with pytest.raises(TaskError, match="other inputs"):
        training(inputs=INPUTS.flip(0), teacher_logits=logits)
    with pytest.raises(TaskError, match="other inputs"):
        training(teacher_logits=taught(INPUTS.roll(1, 0)))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "TRAINED_BETWEEN", BATCH)
    spoilt = INPUTS.clone()
    spoilt[700] = 3e38  # finite, but not when it is multiplied
    logits = TeacherLogits(taught(INPUTS).logits, fingerprint(spoilt))
    curve: list[Progress] = []
    with pytest.raises(
        DivergenceError, match=r"student became nan at step .* in its part teacher; .* the training inputs"
    ) as error:
        curve.extend(training(inputs=spoilt, teacher_logits=logits))
    states = (error.value.trained.student_state, error.value.trained.control_state)
    assert all(torch.isfinite(value).all() for state in states for value in state.values())
    assert curve
    assert not curve[-1].done
    assert not same(error.value.trained.student_state, scale_width(model(), INPUTS[:2], 0.5, 0).state_dict())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": 1501}, r"distillation\.images = 1501: allowed are 1 to 1500"),
        ({"images": 100, "labels": 101}, r"distillation\.labels = 101: allowed are 0 to 100"),
        ({"loss": "kdd"}, r"no loss 'kdd'\. Did you mean 'kd'"),
    ],
    ids=["images", "labels", "loss"],
)
def test_settings_that_are_not_possible_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        training(SETTINGS.replace(**changes))


def test_data_that_do_not_fit_are_named() -> None:
    with pytest.raises(TaskError, match=r"training: label 7 is out of range.*0 to 5"):
        training(labels=torch.full((1500,), 7))
    with pytest.raises(TaskError, match="validation: label -1 is out of range"):
        training(validation=(HELD_OUT, torch.full((600,), -1)))
    with pytest.raises(TaskError, match="validation: one class index per example"):
        training(validation=(HELD_OUT[:0], right(HELD_OUT[:0])))
    with pytest.raises(TaskError, match=r"training: .* 1500 examples and targets of shape \(1499,\)"):
        training(labels=right(INPUTS)[1:])
    wider = TeacherLogits(torch.zeros(1500, 9), fingerprint(INPUTS))
    with pytest.raises(WorkbenchError, match=r"returns \(6,\) per example, the teacher 9"):
        training(teacher_logits=wider)


@pytest.mark.parametrize("images", [1, 2, 3, 63, 64, 65, 200])
def test_any_number_of_images_makes_full_batches(images: int) -> None:
    curve, trained = run(training(SETTINGS.replace(images=images, labels=1, epochs=1)))
    assert trained.steps == math.ceil(images / BATCH)
    assert curve[-1].step == curve[-1].steps == trained.steps


def test_batches_are_full_and_every_example_comes_equally_often() -> None:
    drawn = list(islice(batches(10, 4, seed=3), 25))
    assert {len(batch) for batch in drawn} == {4}
    assert set(Counter(torch.cat(drawn).tolist()).values()) == {10}
    assert sorted(torch.cat(drawn)[:10].tolist()) == list(range(10))
    assert [batch.tolist() for batch in islice(batches(10, 4, seed=3), 25)] == [batch.tolist() for batch in drawn]


def test_images_are_trained_in_any_memory_format_alike() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(200, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 4, (200,), generator=generator)
    logits = TeacherLogits(torch.randn(200, 4, generator=generator), fingerprint(images))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    settings = Distillation(images=150, labels=20, epochs=2)
    ends = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = images.contiguous(memory_format=memory_format)
        ends.append(run(distil(net, x[:2], settings, x, labels, logits, (x[150:], labels[150:])))[1])
    assert same(ends[0].student_state, ends[1].student_state)
