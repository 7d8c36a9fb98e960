from __future__ import annotations

import itertools
from collections import UserDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from workbench import TaskError
from workbench.inputs import Inputs
from workbench.sources import Examples, base, examples

X = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 4


class Items(Dataset):
    """A map-style dataset of anything."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Any:
        return iter(self.items)


def columns(found: Examples) -> dict[str, list[torch.Tensor]]:
    return {name: list(column) for name, column in found.inputs.columns.items()}


def same(found: Examples, x: Any = X, y: torch.Tensor | None = Y) -> bool:
    right = found.targets is None if y is None else found.targets is not None and torch.equal(found.targets, y)
    return right and torch.equal(found.inputs.positional[0], x)


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(X, Y),
        Items([(x, int(y)) for x, y in zip(X, Y, strict=True)]),
        Items([(x.numpy(), np.int64(y)) for x, y in zip(X, Y, strict=True)]),
        Items([([x], y) for x, y in zip(X, Y, strict=True)]),
        Stream(list(zip(X, Y, strict=True))),
        [(x, y) for x, y in zip(X, Y, strict=True)],
        DataLoader(Stream(list(zip(X, Y, strict=True))), batch_size=7),
        DataLoader(TensorDataset(X, Y), batch_size=None),
        DataLoader(TensorDataset(X, Y), batch_size=6, collate_fn=list),
        DataLoader(TensorDataset(X, Y), batch_sampler=BatchSampler(SequentialSampler(range(20)), 3, False)),
    ],
    ids=[
        "tensors",
        "items",
        "numpy",
        "one-argument",
        "stream",
        "list",
        "stream-loader",
        "unbatched",
        "lists",
        "sampler",
    ],
)
def test_every_form_gives_the_tensors(data: Any) -> None:
    assert same(examples(data))


def test_a_generator_is_read_once() -> None:
    read = []
    found = examples((read.append(i) or (X[i], Y[i])) for i in range(20))
    assert same(found)
    assert read == list(range(20))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.sampled_from(["tuple", "dict", "nested"]))
def test_any_split_into_batches_gives_the_tensors_themselves(sizes: list[int], form: str) -> None:
    n = sum(sizes)
    x, other, y = torch.randn(n, 2), torch.arange(n), torch.arange(n) % 3
    bounds = list(itertools.pairwise(itertools.accumulate(sizes, initial=0)))
    match form:
        case "tuple":
            data: Any = TensorDataset(x, other, y)
        case "dict":
            data = Items([{"a": x[i], "b": other[i], "labels": y[i]} for i in range(n)])
        case _:
            data = Items([((x[i], other[i]), y[i]) for i in range(n)])
    loader = DataLoader(data, batch_sampler=[list(range(*bound)) for bound in bounds])
    found = examples(loader)
    assert torch.equal(found.targets, y)
    assert list(found.inputs.columns) == (["a", "b"] if form == "dict" else ["0", "1"])
    for column, right in zip(found.inputs.tensors, (x, other), strict=True):
        assert torch.equal(column, right)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_padded_to_different_widths_stay_ragged(workers: int) -> None:
    def padded(items: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
        pad = torch.nn.utils.rnn.pad_sequence
        ids, labels = zip(*items, strict=True)
        return {"input_ids": pad(list(ids), True), "labels": pad(list(labels), True, -100)}

    texts = [torch.arange(1, 2 + i) for i in range(6)]
    loader = DataLoader(Items([(t, t % 3) for t in texts]), batch_size=2, collate_fn=padded, num_workers=workers)
    found = examples(loader)
    assert [len(row) for row in found.inputs.named["input_ids"]] == [2, 2, 4, 4, 6, 6]
    assert found.targets.shape == (6, 6)
    assert found.targets[0].tolist() == [1, -100, -100, -100, -100, -100]
    assert any("padded with -100" in note for note in found.notes)


def test_rows_like_those_of_a_dataset_hub() -> None:
    rows = [
        {"id": f"a{i}", "input_ids": list(range(i + 1)), "attention_mask": [1] * (i + 1), "text": "x", "label": i % 2}
        for i in range(4)
    ]
    found = examples(rows)
    assert list(found.inputs.columns) == ["input_ids", "attention_mask"]
    assert [row.tolist() for row in found.inputs.named["input_ids"]] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert found.targets.tolist() == [0, 1, 0, 1]
    assert found.notes == (
        "targets are taken from 'label'",
        "left out, for they are not numbers: 'id' (str), 'text' (str)",
    )


def test_what_a_tokenizer_returns() -> None:
    encoded = UserDict(
        input_ids=[[5, 6], [7], []], attention_mask=[[1, 1], [1], []], text=["a", "b", "c"], labels=[1, 0, 1]
    )
    found = examples(encoded)
    assert [row.tolist() for row in found.inputs.named["input_ids"]] == [[5, 6], [7], []]
    assert {row.dtype for row in found.inputs.named["input_ids"]} == {torch.int64}
    assert found.targets.tolist() == [1, 0, 1]
    assert "left out, for they are not numbers: 'text' (list)" in found.notes
    with pytest.raises(TaskError, match="those of one text; pass a list of texts"):
        examples({"input_ids": [1, 2, 3]})


@pytest.mark.parametrize("key", ["label", "labels", "target", "targets", "y"])
def test_the_target_is_taken_out_of_a_dict(key: str) -> None:
    found = examples([{"x": x, key: y} for x, y in zip(X, Y, strict=True)])
    assert list(found.inputs.columns) == ["x"]
    assert torch.equal(found.targets, Y)
    assert found.notes == (f"targets are taken from {key!r}",)


def test_one_target_of_two_is_taken() -> None:
    found = examples([{"x": 1.0, "labels": 1, "label": 0}, {"x": 2.0, "labels": 1, "label": 1}])
    assert list(found.inputs.columns) == ["x"]
    assert found.targets.tolist() == [0, 1]
    assert found.notes == ("targets are taken from 'label'; 'labels' left out as well",)


def test_numbers_names_and_dicts_beside_a_target() -> None:
    found = examples([({"age": 3, "mass": 1.5, "ok": True}, "cat"), ({"age": 4, "mass": 2, "ok": False}, "ant")])
    assert found.inputs.named["age"].dtype == torch.int64
    assert found.inputs.named["mass"].tolist() == [1.5, 2.0]
    assert found.inputs.named["ok"].dtype == torch.bool
    assert found.classes == ("ant", "cat")
    assert found.targets.tolist() == [1, 0]


def test_entries_behind_the_target_that_are_no_numbers_are_left_out() -> None:
    found = examples([(X[i], i % 2, f"{i}.jpg") for i in range(4)])
    assert found.targets.tolist() == [0, 1, 0, 1]
    assert len(found.inputs.positional) == 1
    assert found.notes == ("left out, for they are not numbers: '2' (str)",)
    three = examples(TensorDataset(X, X + 1, Y))
    assert len(three.inputs.positional) == 2
    assert three.notes == ("of 3 entries the last one is taken as the target, the others as inputs",)


def test_pictures_and_arrays_in_items() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    for item in (Image.fromarray(colours), colours, colours.transpose(2, 0, 1)):
        found = examples(Items([(item, 0), (item, 1)])).inputs.tensors[0]
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found[1].numpy(), colours.transpose(2, 0, 1) / 255, atol=1e-6)
    grey = examples(Items([Image.fromarray(colours[..., 0]), colours[..., 0]])).inputs.tensors[0]
    np.testing.assert_allclose(grey.numpy(), np.stack([colours[None, ..., 0] / 255] * 2), atol=1e-6)
    masks = examples(Items([(X[0], Image.fromarray(colours[..., 0])), (X[1], colours[..., 0])])).targets
    assert masks.dtype == torch.int64
    assert masks[0].tolist() == colours[..., 0].tolist() == masks[1].tolist()
    deep = np.array([[0, 65535, 32768]], np.uint16)
    np.testing.assert_allclose(examples(Items([Image.fromarray(deep)])).inputs.tensors[0][0, 0, 0], deep[0] / 65535)


def test_float64_becomes_float32_and_shared_buffers_are_copied() -> None:
    assert examples(np.zeros((3, 2))).inputs.tensors[0].dtype == torch.float32
    assert examples([np.zeros(2), np.ones(2)]).inputs.tensors[0].dtype == torch.float32

    def filled(buffer: Any) -> Any:
        for i in range(3):
            buffer[:] = i
            yield buffer

    for buffer in (np.zeros(2, np.float32), np.zeros(2, np.int64), torch.zeros(2)):
        assert examples(filled(buffer)).inputs.tensors[0][:, 0].tolist() == [0, 1, 2]


def test_lists_in_dicts_survive_the_default_collation() -> None:
    rows = [{"ids": [i, i + 1, i + 2], "labels": i % 2} for i in range(6)]
    found = examples(DataLoader(Items(rows), batch_size=4))
    assert found.inputs.named["ids"].tolist() == [row["ids"] for row in rows]
    assert found.targets.tolist() == [0, 1] * 3


def test_classes_are_those_that_the_dataset_names() -> None:
    data = TensorDataset(X, Y)
    data.classes = ["a", "b", "c", "d"]
    assert examples(Subset(data, range(10))).classes == ("a", "b", "c", "d")
    assert examples(DataLoader(data, batch_size=3)).classes == ("a", "b", "c", "d")
    data.classes = ["a", "b"]
    assert examples(data).classes == ()


def test_given_targets_replace_those_of_the_data() -> None:
    found = examples(TensorDataset(X, Y), list("abcd") * 5)
    assert found.classes == ("a", "b", "c", "d")
    assert torch.equal(found.targets, Y)
    kept = examples([{"x": 1.0, "label": 1, "id": "a"}], [[2.5]])
    assert kept.targets.tolist() == [[2.5]]
    assert kept.notes == ("left out, for they are not numbers: 'id' (str)",)
    assert examples(X, Y.numpy()).targets.dtype == torch.int64
    assert examples(X, ([1] * 3, [2])).targets.tolist() == [[1, 1, 1], [2, -100, -100]]
    read = examples(TensorDataset(X, Y))
    assert examples(read).inputs is read.inputs


@given(st.integers(1, 25), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_a_limit_takes_the_first(limit: int, batch: int) -> None:
    data = TensorDataset(X, Y)
    for labelled in (data, DataLoader(data, batch_size=batch), examples(X, Y), {"x": X, "y": Y}):
        found = examples(labelled, limit=limit)
        assert torch.equal(found.inputs.tensors[0], X[:limit])
        assert torch.equal(found.targets, Y[:limit])
    for unlabelled in (X, iter(list(X))):
        assert torch.equal(examples(unlabelled, limit=limit).inputs.tensors[0], X[:limit])


def test_a_limit_reads_no_further() -> None:
    assert len(examples(({"x": float(i)} for i in itertools.count()), limit=5)) == 5


class Shuffled(IterableDataset):
    def __iter__(self) -> Any:
        return iter(X[torch.randperm(20)])


class Augmented(Items):
    def __getitem__(self, index: int) -> Any:
        return self.items[index] + torch.rand(())


AUGMENTED = Augmented(list(X))


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(TensorDataset(X, Y), shuffle=True),
        DataLoader(TensorDataset(X, Y), batch_sampler=BatchSampler(RandomSampler(range(20)), 4, False)),
        DataLoader(TensorDataset(X, Y), sampler=torch.utils.data.WeightedRandomSampler(torch.ones(20), 20)),
    ],
)
def test_a_loader_that_shuffles_is_refused(loader: Any) -> None:
    with pytest.raises(TaskError, match=r"inputs: the loader shuffles.*shuffle=False"):
        examples(loader)


@pytest.mark.parametrize(
    "data",
    [
        Shuffled(),
        DataLoader(Shuffled(), batch_size=4),
        Augmented(list(X)),
        DataLoader(Augmented(list(X)), batch_size=4),
    ],
    ids=["stream", "stream-loader", "augmented", "augmented-loader"],
)
def test_an_order_that_changes_is_found(data: Any) -> None:
    with pytest.raises(TaskError, match=r"order changes between passes.*same order.*augmentation"):
        examples(data)


def test_a_change_is_found_before_all_was_read() -> None:
    read = []

    class Slow(Augmented):
        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return super().__getitem__(index)

    with pytest.raises(TaskError, match="order changes"):
        examples(Slow(list(X) * 50))
    assert len(read) < 100


def test_a_stream_that_can_be_read_once_is_accepted() -> None:
    class Once(IterableDataset):
        items = iter(list(zip(X, Y, strict=True)))

        def __iter__(self) -> Any:
            return self.items

    assert same(examples(Once()))


def broken() -> Any:
    yield X[0]
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("data", "targets", "words"),
    [
        (DataLoader(Stream([])), None, "inputs: at least one example is needed; there is none"),
        ([], None, "inputs: at least one example"),
        (X[:0], None, "inputs: at least one example"),
        ({}, None, "inputs: there are no columns of numbers"),
        (3, None, "inputs: a torch.Tensor, .* is needed; this is of type int"),
        ("images/", None, r"'images/' is a path; workbench\.sources\.folder"),
        (["one text", "two texts"], None, r"holds no numbers, only '0' \(str\); texts are tokenised"),
        ([{"text": "a"}], None, r"holds no numbers, only 'text' \(str\)"),
        ({"text": ["a", "b"]}, None, r"no columns of numbers, only 'text' \(list\)"),
        ([{"a": 1, "b": 2}, {"a": 1}], None, "'b' holds numbers in some examples, but in example 1 it is missing"),
        ([{"a": 1}, {"a": None}], None, "'a' holds numbers .* in example 1 it is of type NoneType"),
        ([{"a": 1}, {"a": 1, "c": 2}], None, "'c' holds numbers .* in example 0 it is missing"),
        ([(1.0, 1), (2.0, None)], None, "targets: some examples have one and others, such as example 1, do not"),
        ([(1.0, 1), (2.0, "b")], None, "targets: some are names and others are numbers"),
        ([(1.0, X[0]), (1.0, X[0, :2])], None, r"targets: they have different shapes, such as \(2, 4\), \(3, 4\)"),
        (broken(), None, r"inputs: entry 1 could not be read \(OSError: the disk is gone\)"),
        (X, torch.tensor(3), "targets: numbers or names of classes are needed.*Tensor"),
        (X, [None] * 20, "targets: numbers or names of classes are needed.*list"),
        (X, "abc", "targets: numbers or names of classes are needed.*str"),
        (torch.tensor(3.0), None, "every argument needs one entry per example"),
        ((X, Y[:4]), None, "every argument needs one entry per example.*20.*4"),
    ],
)
def test_bad_data_is_named(data: Any, targets: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        examples(data, targets)


def test_errors_name_the_data_that_is_meant() -> None:
    for data in ([], "x", DataLoader(TensorDataset(X), shuffle=True), (["a"],)):
        with pytest.raises(TaskError, match=r"^calibration: "):
            examples(data, what="calibration")


def test_uneven_batches_are_named() -> None:
    loader = DataLoader(
        Items(list(X)), batch_size=5, collate_fn=lambda batch: {"a": torch.stack(batch), "b": torch.ones(3)}
    )
    with pytest.raises(TaskError, match=r"different lengths, \{'a': 5, 'b': 3\}"):
        examples(loader)


def test_too_many_examples_are_refused_from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MEMORY", 1_000_000)
    read = []

    class Large(Items):
        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return torch.zeros(1000)

    for data in (Large([0] * 5000), DataLoader(Large([0] * 5000), batch_size=10)):
        read.clear()
        with pytest.raises(TaskError, match=r"inputs: 5,000 examples take about .*Subset\(dataset, range\(2\d0\)\)"):
            examples(data)
        assert len(read) < 100
        assert len(examples(data, limit=50)) == 50
    with pytest.raises(TaskError, match=r"examples take about .*itertools\.islice\(data, 2\d0\)"):
        examples(torch.zeros(1000) for _ in itertools.count())


def test_inputs_pass_through() -> None:
    inputs = Inputs(X, mask=Y)
    assert examples(inputs).inputs is inputs
    assert columns(examples({"x": X, "mask": Y.numpy()}))["mask"][1] == 1
