from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench import TaskError
from workbench.inputs import Inputs

lengths = st.lists(st.integers(1, 4), min_size=1, max_size=20)


def texts(lengths: list[int]) -> Inputs:
    """Examples that can be told apart, of these lengths."""
    ids = tuple(torch.full((length,), index) for index, length in enumerate(lengths))
    return Inputs(ids, mask=tuple(torch.ones_like(row) for row in ids), weight=torch.arange(len(lengths)))


def digest(inputs: Inputs) -> str:
    made = hashlib.sha256()
    inputs.update(made)
    return made.hexdigest()


@given(lengths, st.integers(1, 6), st.randoms(use_true_random=False))
def test_batches_cover_every_index_once_with_equal_shapes(lengths: list[int], size: int, random: Any) -> None:
    order = list(range(len(lengths)))
    random.shuffle(order)
    inputs = texts(lengths)
    batches = inputs.batches(torch.tensor(order), size)
    assert sorted(int(i) for batch in batches for i in batch) == sorted(order)
    for batch in batches:
        assert 1 <= len(batch) <= size
        ids, mask, weight = inputs[batch].tensors
        assert ids.shape == mask.shape == (len(batch), lengths[int(batch[0])])
        assert ids[:, 0].tolist() == weight.tolist() == batch.tolist()


@given(st.integers(1, 20), st.integers(1, 6))
def test_batches_of_equal_shapes_keep_the_order(n: int, size: int) -> None:
    order = torch.randperm(n)
    batches = Inputs(torch.zeros(n, 2)).batches(order, size)
    assert torch.cat(batches).tolist() == order.tolist()
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)


def test_call_gives_the_model_its_arguments() -> None:
    seen = {}

    def model(*positional: torch.Tensor, **named: torch.Tensor) -> str:
        seen.update(enumerate(positional), **named)
        return "out"

    columns = torch.rand(3, 2), torch.arange(3), torch.ones(3, 4)
    assert Inputs(*columns[:2], mask=columns[2]).call(model) == "out"
    assert list(seen) == [0, 1, "mask"]
    assert all(torch.equal(given, column) for given, column in zip(seen.values(), columns, strict=True))


@given(lengths.filter(lambda found: len(set(found)) > 1))
def test_ragged_examples_are_not_stacked_or_called_at_once(lengths: list[int]) -> None:
    inputs = texts(lengths)
    assert not inputs.uniform
    for use in (lambda: inputs.tensors, lambda: inputs.call(print)):
        with pytest.raises(TaskError, match="different shapes and cannot be stacked"):
            use()


@pytest.mark.parametrize("inputs", [texts([2, 2, 2, 2]), texts([1, 2, 1, 2])], ids=["uniform", "ragged"])
def test_every_kind_of_index_takes_the_same(inputs: Inputs) -> None:
    mask = torch.tensor([False, True, False, True])
    for index in (slice(1, 4, 2), [1, 3], torch.tensor([1, 3]), mask):
        taken = inputs[index]
        assert len(taken) == 2
        assert taken.uniform
        assert taken.named["weight"].tolist() == taken.positional[0][:, 0].tolist() == [1, 3]
    assert len(inputs[[]]) == len(inputs[4:]) == 0


def test_padded_repeats_the_last_and_cycled_the_first() -> None:
    inputs = texts([2, 1, 2])
    assert [int(row[0]) for row in inputs.padded(5).positional[0]] == [0, 1, 2, 2, 2]
    assert inputs.cycled(5).positional[0][:, 0].tolist() == [0, 2, 0, 2, 0]


@pytest.mark.parametrize(
    ("data", "shapes"),
    [
        (np.zeros((4, 2)), {"0": (4, 2)}),
        ((torch.zeros(4, 2), np.ones((4, 3), np.int64)), {"0": (4, 2), "1": (4, 3)}),
        ({"a": torch.zeros(4, 2), "b": [[1, 2]] * 4}, {"a": (4, 2), "b": (4, 2)}),
        (([torch.zeros(2)] * 3,), {"0": (3, 2)}),
        ([], None),
    ],
)
def test_what_people_pass(data: Any, shapes: dict[str, tuple[int, ...]] | None) -> None:
    if shapes is None:
        with pytest.raises(TaskError, match=r"inputs: a torch\.Tensor.* is needed, this is a list"):
            Inputs.of(data)
    else:
        assert {name: tuple(column.shape) for name, column in Inputs.of(data).columns.items()} == shapes


def test_types_of_what_people_pass() -> None:
    assert Inputs.of(np.zeros((4, 2))).tensors[0].dtype == torch.float32
    assert Inputs.of(torch.zeros(4, 2, dtype=torch.float64)).tensors[0].dtype == torch.float64
    assert Inputs.of({"ids": [[1, 2], [3]]}).named["ids"][1].dtype == torch.int64


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Inputs(), "there are none"),
        (lambda: Inputs(torch.zeros(3, 1), b=torch.zeros(4, 1)), r"\{'0': 3, 'b': 4\}"),
        (lambda: Inputs(torch.tensor(1.0)), "one entry per example"),
        (lambda: Inputs.of({}), "there are none"),
        (lambda: Inputs.of({"a": ["x", "y"]}), "list cannot be made a tensor of numbers"),
        (lambda: Inputs.of({"a": object()}, "calibration"), "calibration: object cannot be made a tensor"),
    ],
)
def test_bad_arguments_are_named(make: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        make()


def test_the_digest_follows_names_shapes_types_and_values() -> None:
    x = torch.arange(6.0).reshape(3, 2)
    made = [
        Inputs(x),
        Inputs(a=x),
        Inputs(b=x),
        Inputs(x.reshape(3, 1, 2)),
        Inputs(x.double()),
        Inputs(x + 1),
        Inputs((x[0], x[1], x[2, :1])),
    ]
    assert len({digest(inputs) for inputs in made}) == len(made)
    assert digest(Inputs(x.clone().T.contiguous().T)) == digest(made[0])
    assert digest(Inputs(tuple(x))) == digest(made[0])


def test_layout_and_device_change_no_values() -> None:
    images = torch.rand(2, 3, 4, 4)
    moved = Inputs(images, mask=torch.ones(2, 1)).channels_last().to("cpu")
    assert moved.positional[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moved.positional[0], images)
    assert texts([1, 2]).to("cpu").channels_last().positional[0][1].tolist() == [1, 1]


def test_the_text_tells_shapes() -> None:
    assert repr(Inputs(torch.zeros(6, 3), mask=torch.ones(6, 1))) == "Inputs(6 × (3), mask=(1))"
    assert repr(texts([1, 3])[:2]) == "Inputs(2 × (1 to 3 values), mask=(1 to 3 values), weight=())"
    assert repr(Inputs(())) == "Inputs(0 × (0 to 0 values))"
