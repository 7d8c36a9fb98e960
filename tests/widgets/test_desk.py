from __future__ import annotations

from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from widgets.desk import MOST_POINTS, Desk, UndoStack, cleared, desks, extended, fitting, merged
from workbench.errors import RecipeError, WorkbenchError
from workbench.recipe import Deployment, Distillation, Quantization, Recipe

LAYERS = ("conv1", "conv2", "fc1", "fc2")


def with_batch(batch: int) -> Recipe:
    return Recipe(deployment=Deployment(batch=batch))


class UndoAgainstAList(RuleBasedStateMachine):
    """The stack against the plainest thing that could be right: a list of (recipe, gesture, when it last moved)."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.stack = UndoStack(with_batch(1), clock=lambda: self.now)
        self.past, self.future = [1], []
        self.drag = None  # gesture and time of the last push, while it can still be continued

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.59, 0.61, 5.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(batch=st.integers(1, 4), gesture=st.sampled_from([None, "a", "b"]))
    def push(self, batch, gesture):
        if batch == self.past[-1]:
            return  # a session never pushes what is there already
        self.stack.push(with_batch(batch), gesture)
        self.future = []
        if self.drag is not None and self.drag[0] == gesture and self.now - self.drag[1] < 0.6:
            self.past.pop()
        if self.past[-1] == batch:
            self.drag = None
        else:
            self.past.append(batch)
            self.drag = None if gesture is None else (gesture, self.now)

    @rule()
    def undo(self):
        self.stack.undo()
        self.drag = None
        if len(self.past) > 1:
            self.future.append(self.past.pop())

    @rule()
    def redo(self):
        self.stack.redo()
        self.drag = None
        if self.future:
            self.past.append(self.future.pop())

    @invariant()
    def agree(self):
        batch = lambda recipe: None if recipe is None else recipe.deployment.batch  # noqa: E731
        assert batch(self.stack.current) == self.past[-1]
        assert batch(self.stack.earlier) == (self.past[-2] if len(self.past) > 1 else None)
        assert batch(self.stack.later) == (self.future[-1] if self.future else None)


TestUndoAgainstAList = UndoAgainstAList.TestCase
TestUndoAgainstAList.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_long_history_is_bounded_and_keeps_the_latest():
    stack = UndoStack(with_batch(1))
    for batch in range(2, 1200):
        stack.push(with_batch(batch))
    steps = 0
    while stack.earlier is not None:
        stack.undo()
        steps += 1
    assert 100 <= steps <= 1000
    assert stack.current == with_batch(1199 - steps)


overrides = st.dictionaries(
    st.sampled_from([*LAYERS, "conv*", "fc*", "*", "*1", "conv1*"]),
    st.dictionaries(st.sampled_from(["weight_bits", "activation_bits"]), st.sampled_from([None, 2, 5, 8]), min_size=1),
)


@given(overrides=overrides, names=st.lists(st.sampled_from(LAYERS), min_size=1, unique=True))
def test_cleared_layers_have_the_bits_of_all_and_the_others_keep_theirs(overrides, names):
    before = Quantization(weight_bits=4, activation_bits=6, layers=overrides)
    after = cleared(before, names, LAYERS)
    for layer in LAYERS:
        assert after.bits_for(layer) == ((4, 6) if layer in names else before.bits_for(layer))


def test_a_wildcard_can_be_cleared_by_its_own_name():
    before = Quantization(weight_bits=4, layers={"conv*": {"weight_bits": 2}, "fc1": {"weight_bits": 8}})
    assert dict(cleared(before, ["conv*"], LAYERS).layers) == {"fc1": before.layers["fc1"]}


@given(
    overrides=overrides,
    names=st.lists(st.sampled_from(LAYERS), min_size=1, unique=True),
    bits=st.sampled_from([None, 3]),
)
def test_merged_bits_hold_for_the_named_layers_and_change_nothing_else(overrides, names, bits):
    before = Quantization(weight_bits=4, activation_bits=6, layers=overrides)
    after = merged(before, names, {"weight_bits": bits})
    for layer in LAYERS:
        weight, activation = before.bits_for(layer)
        assert after.bits_for(layer) == (bits if layer in names else weight, activation)


def test_merging_an_unknown_field_is_refused_in_words():
    with pytest.raises(RecipeError, match="weight_bits, activation_bits"):
        merged(Quantization(), ["fc1"], {"bits": 4})


@given(st.integers(1, 3000))
@settings(max_examples=20, deadline=None)
def test_a_curve_is_bounded_ordered_and_keeps_its_ends(points):
    curve = ()
    for point in range(points):
        curve = extended(curve, point)
        assert curve[-1] == point
    assert curve[0] == 0
    assert list(curve) == sorted(set(curve))
    assert min(points, MOST_POINTS // 2) <= len(curve) <= MOST_POINTS


def offer(name, reason=None):
    return SimpleNamespace(name=name, reason=reason)


def test_teachers_and_students_of_another_bench_are_left_behind():
    bench = SimpleNamespace(
        teachers=lambda: [offer("a"), offer("b", "not here")], students=lambda: ("tiny",), training_images=20_000
    )
    wish = Distillation(teacher="old", others=("a", "b", "old"), student="large")
    assert fitting(bench, wish) == Distillation(teacher="a")
    kept = Distillation(teacher="a", student="tiny")
    assert fitting(bench, kept) == kept


@pytest.mark.parametrize(
    ("teachers", "images", "expected"),
    [
        ([offer("teacher-cnn")], 20_000, Distillation()),
        ([offer("teacher-cnn", "not here"), offer("self")], 20_000, Distillation(teacher="self")),
        ([offer("teacher-cnn")], 300, Distillation(images=300, labels=300)),
        ([], 0, Distillation()),
    ],
    ids=["as-wished", "another-teacher", "few-images", "nothing"],
)
def test_fitting_settings_stay_within_what_the_bench_has(teachers, images, expected):
    assert fitting(SimpleNamespace(teachers=lambda: teachers, training_images=images), Distillation()) == expected


@pytest.mark.parametrize("nonsense", [{}, 5, "seed-cnn", {"a": 5}], ids=repr)
def test_what_is_no_bench_is_refused_in_words(nonsense):
    with pytest.raises(WorkbenchError, match="bench"):
        desks(nonsense)


def test_a_desk_loads_its_bench_once():
    loaded = []
    desk = Desk("a", lambda: loaded.append(1) or "bench")
    assert (desk.open(), desk.open()) == ("bench", "bench")
    assert loaded == [1]
