from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widgets.layer_groups import repeats

names = st.lists(
    st.one_of(st.integers(0, 6).map(str), st.sampled_from(["conv", "fc", "05", "layer1", "²"])), min_size=1, max_size=4
).map(".".join)
models = st.dictionaries(names, st.sampled_from(["Linear 8×8", "Conv2d 4×4"]), max_size=60)


def named(group: str) -> set[str]:
    """All names that a group's name stands for."""

    def values(segment: str) -> list[str]:
        if not (found := re.fullmatch(r"\[(.+)\]", segment)):
            return [segment]
        ends = [run.split("-") for run in found[1].split(",")]
        return [str(value) for run in ends for value in range(int(run[0]), int(run[-1]) + 1)]

    return {".".join(segments) for segments in product(*map(values, group.split(".")))}


@given(models)
def test_a_group_is_all_that_its_name_says_alike_and_no_layer_is_in_two(model):
    groups = repeats(model)
    members = [name for some in groups.values() for name in some]
    assert len(members) == len(set(members))
    for group, some in groups.items():
        assert len(some) >= 3
        assert named(group) == set(some)
        assert len({model[name] for name in some}) == 1


@given(models)
def test_groups_and_their_layers_stand_in_the_order_of_the_model(model):
    order = list(model)
    groups = list(repeats(model).values())
    assert all(list(some) == sorted(some, key=order.index) for some in groups)
    assert [some[0] for some in groups] == sorted((some[0] for some in groups), key=order.index)


@given(st.sets(st.integers(0, 40), min_size=3), st.sets(st.integers(0, 5), min_size=1), models)
def test_full_blocks_are_one_group_whatever_stands_beside_them(blocks, parts, others):
    own = [f"encoder.{block}.head.{part}.query" for block in blocks for part in parts]
    groups = repeats(others | dict.fromkeys(own, "Linear 8×8"))
    assert sum(set(some) == set(own) for some in groups.values()) == 1


@pytest.mark.parametrize(
    ("layers", "group"),
    [
        ([f"layer.{i}.query" for i in range(12)], "layer.[0-11].query"),
        ([f"layer.{i}.query" for i in (0, 1, 2, 3, 5)], "layer.[0-3,5].query"),
        ([f"features.{i}.{j}" for i in (1, 2, 3) for j in (0, 1, 2)], "features.[1-3].[0-2]"),
        ([f"features.4.{j}.fc" for j in (7, 2, 4)], "features.4.[2,4,7].fc"),
    ],
)
def test_how_groups_are_written(layers, group):
    assert repeats(dict.fromkeys(layers, "")) == {group: tuple(layers)}


def test_two_alike_are_no_group_and_ragged_blocks_are_cut():
    assert repeats({"a.0": "", "a.1": "", "b.0": "", "a.2": "other"}) == {}
    ragged = [f"stage.{i}.{j}" for i, depth in enumerate((2, 2, 5)) for j in range(depth)]
    assert list(repeats(dict.fromkeys(ragged, ""))) == ["stage.[0-1].[0-1]", "stage.2.[0-4]"]


def test_a_segment_of_thousands_of_digits_is_a_name_and_not_a_number():
    assert repeats({f"a.{'9' * 5000}{i}": "" for i in range(3)}) == {}
