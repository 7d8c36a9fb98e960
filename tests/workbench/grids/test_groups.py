"""Grids of groups and codebooks against a loop that has a grid for each group."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.grid import AnyGrid, CodebookGrid
from workbench.grids import GRIDS
from workbench.quantization.ranges import RANGES
from workbench.quantization.schemes import SCHEMES
from workbench.quantization.weight_grids import weight_grid


class Asked(NamedTuple):
    bits: int = 4
    scheme: str = "symmetric"
    granularity: str = "channel"
    range: str = "minmax"
    group_size: int = 0


EVERY = (*SCHEMES, "codebook")
seeds = st.integers(0, 10**6)
shapes = st.sampled_from([(4, 7), (3, 5, 3, 3), (6, 40), (2, 3, 1)])


def weight(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random) * torch.rand(shape[0], *[1] * (len(shape) - 1), generator=random)


@settings(deadline=None, max_examples=80)
@given(seeds, shapes, st.sampled_from(EVERY), st.integers(2, 8), st.integers(1, 50), st.sampled_from([0, 1]))
def test_a_group_is_a_tensor_of_its_own(
    seed: int, shape: tuple[int, ...], scheme: str, bits: int, size: int, axis: int
) -> None:
    x = weight(seed, shape)
    grid = weight_grid(x, Asked(bits, scheme, "group", "minmax", size), axis)
    made = grid.fake_quantize(x)
    for channel, done in zip(x.unbind(axis), made.unbind(axis), strict=True):
        # the other dimensions in their order, the first in the place of the channels
        values, found = (each.reshape(-1) if axis == 0 else each.flatten() for each in (channel, done))
        for start in range(0, len(values), size):
            part = values[start : start + size]
            alone = weight_grid(part[None], Asked(bits, scheme, "group", "minmax", size), 0).fake_quantize(part[None])
            expected = found[start : start + size]
            assert torch.allclose(alone[0], expected, rtol=2e-3, atol=2e-3 * float(x.abs().max()))


@settings(deadline=None, max_examples=100)
@given(
    seeds,
    shapes,
    st.sampled_from(EVERY),
    st.integers(2, 8),
    st.sampled_from(["tensor", "channel", "group"]),
    st.sampled_from([0, 1, None]),
    st.sampled_from(sorted(RANGES)),
)
def test_it_comes_back_from_what_is_stored_bit_for_bit(
    seed: int, shape: tuple[int, ...], scheme: str, bits: int, granularity: str, axis: int | None, how: str
) -> None:
    x = weight(seed, shape) * 10.0 ** (seed % 9 - 4)
    grid = weight_grid(x, Asked(bits, scheme, granularity, how, 5), axis)
    stored = grid.stored()
    again = GRIDS[grid.kind].restored(bits, grid.axis, shape, stored)
    q = grid.quantize(x)
    assert q.dtype == grid.dtype == again.dtype
    assert torch.equal(again.dequantize(q), grid.dequantize(q))
    assert torch.equal(again.quantize(x), q)
    assert again.words == grid.words
    assert again.integer == grid.integer
    again.check_codes(q)


@settings(deadline=None, max_examples=60)
@given(seeds, shapes, st.sampled_from(EVERY), st.integers(2, 8), st.sampled_from([0, 6]))
def test_whole_numbers_and_back_is_fake_quantization_and_what_lies_on_the_grid_stays(
    seed: int, shape: tuple[int, ...], scheme: str, bits: int, group: int
) -> None:
    x = weight(seed, shape)
    grid = weight_grid(x, Asked(bits, scheme, "group" if group else "channel", "mse", group), 0)
    made = grid.fake_quantize(x)
    assert torch.equal(grid.dequantize(grid.quantize(x)), made)
    assert torch.equal(grid.fake_quantize(made), made)
    lowest, stride = grid.code_span
    codes = (grid.quantize(x).int() - lowest) // stride
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 2**bits


@settings(deadline=None)
@given(seeds, st.integers(1, 5), st.sampled_from([0, 4]))
def test_a_codebook_takes_the_nearest_of_its_values(seed: int, bits: int, group: int) -> None:
    x = weight(seed, (5, 11))
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(5, *([3] if group else []), 2**bits, generator=random).sort(-1).values
    made = CodebookGrid(values, bits, 0, group).fake_quantize(x)
    for row in range(5):
        for column in range(11):
            own = values[row, column // group] if group else values[row]
            assert (made[row, column] == own).any()
            assert float((made - x)[row, column].abs()) <= float((own - x[row, column]).abs().min()) * (1 + 1e-6)


def bad(kind: str, shape: tuple[int, ...], **more: object) -> None:
    x = weight(0, (4, 10))
    scheme = {"even": "symmetric", "float": "float", "codebook": "codebook"}[kind]
    grid: AnyGrid = weight_grid(x, Asked(4, scheme, "group", "minmax", 5), 0)
    stored = grid.stored()
    about = {**stored.about, **{k: v for k, v in more.items() if k not in stored.tensors}}
    tensors = {**stored.tensors, **{k: v for k, v in more.items() if k in stored.tensors}}
    GRIDS[kind].restored(4, 0, shape, stored._replace(tensors=tensors, about=about))


@pytest.mark.parametrize("kind", sorted(GRIDS))
@pytest.mark.parametrize(("shape", "group"), [((4, 20), 5), ((5, 10), 5), ((4, 10), 4), ((4, 10), -1), ((4, 10), "5")])
def test_a_file_whose_parts_do_not_fit_together_is_refused(kind: str, shape: tuple[int, ...], group: object) -> None:
    bad(kind, (4, 10))
    with pytest.raises((ValueError, RuntimeError)):
        bad(kind, shape, group=group)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("even", {"scale": torch.full((8,), math.nan)}),
        ("even", {"scale": torch.zeros(8)}),
        ("float", {"scale": torch.full((8,), 255, dtype=torch.uint8)}),
        ("float", {"format": [2, 2]}),
        ("float", {"format": [-1, 4]}),
        ("float", {"format": [3.0, 0.0]}),
        ("codebook", {"values": torch.arange(128.0).flip(0)}),
        ("codebook", {"values": torch.full((128,), math.inf)}),
        ("codebook", {"exponent": 10**6}),
        ("codebook", {"exponent": "1"}),
    ],
)
def test_numbers_that_are_none_are_refused(kind: str, more: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        bad(kind, (4, 10), **more)
