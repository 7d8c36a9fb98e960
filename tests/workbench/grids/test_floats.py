"""Formats against torch's own 8-bit casts and the OCP specification's tables; blocks against its formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.grid import FloatFormat, FloatGrid
from workbench.quantization.schemes import FORMATS, grid_over

seeds = st.integers(0, 10**6)
formats = st.sampled_from(sorted({f for by_bits in FORMATS.values() for f in by_bits.values()}))
ONE = torch.tensor(1.0)


def spread_values(seed: int, shape: tuple[int, ...] = (700,)) -> torch.Tensor:
    """Over many powers of two, past the ends, with exact ties and signed zeros."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=random) * torch.randn(shape, generator=random).mul(4).exp()
    x.view(-1)[::5] = (x.view(-1)[::5] * 64).round() / 64
    x.view(-1)[:4] = torch.tensor([0.0, -0.0, 1e9, -1e9])
    return x


@pytest.mark.parametrize(
    ("format_", "dtype"), [((4, 3), torch.float8_e4m3fn), ((5, 2), torch.float8_e5m2)], ids=["e4m3", "e5m2"]
)
@given(seed=seeds)
def test_eight_bits_are_torchs_casts_bit_for_bit(format_: tuple[int, int], dtype: torch.dtype, seed: int) -> None:
    form = FloatFormat(*format_)
    grid = FloatGrid(form, ONE)
    x = spread_values(seed)
    cast = x.clamp(-form.largest, form.largest).to(dtype)
    assert torch.equal(grid.quantize(x), cast.view(torch.uint8))
    assert torch.equal(grid.fake_quantize(x), cast.float())
    every = torch.arange(256, dtype=torch.uint8)
    values = every.view(dtype).float()
    finite = torch.isfinite(values)
    assert torch.equal(grid.dequantize(every)[finite], values[finite])
    assert torch.isnan(grid.dequantize(every)[~finite]).all()
    with pytest.raises(ValueError, match="no number"):
        grid.check_codes(every)


@pytest.mark.parametrize(
    ("format_", "values"),
    [
        ((2, 1), [0, 0.5, 1, 1.5, 2, 3, 4, 6]),
        ((3, 0), [0, 0.25, 0.5, 1, 2, 4, 8, 16]),
        ((2, 0), [0, 1, 2, 4]),
    ],
)
def test_short_formats_have_the_tables_values(format_: tuple[int, int], values: list[float]) -> None:
    grid = FloatGrid(FloatFormat(*format_), ONE)
    assert grid.levels.tolist() == [*(-v for v in reversed(values[1:])), *values]


@pytest.mark.parametrize(
    ("format_", "largest", "emax"),
    [((4, 3), 448, 8), ((5, 2), 57344, 15), ((3, 2), 28, 4), ((2, 3), 7.5, 2), ((2, 1), 6, 2)],
)
def test_the_largest_numbers_are_the_specifications(format_: tuple[int, int], largest: float, emax: int) -> None:
    assert FloatFormat(*format_).largest == largest
    assert FloatFormat(*format_).emax == emax


@settings(deadline=None)
@given(formats, seeds, st.floats(2**-20, 2**10, width=32))
def test_every_value_goes_to_a_nearest_number_and_stays(format_: tuple[int, int], seed: int, scale: float) -> None:
    grid = FloatGrid(FloatFormat(*format_), torch.tensor(scale))
    x = spread_values(seed) * scale
    made = grid.fake_quantize(x)
    every = grid.levels.double() * scale
    nearest = (x.double()[:, None] - every).abs().amin(1)
    assert (((made.double() - x).abs() - nearest).abs() <= 1e-6 * (x.abs() + made.abs()) + 1e-9 * scale).all()
    assert torch.equal(grid.fake_quantize(made), made)
    assert torch.equal(grid.dequantize(grid.quantize(x)), made)


def microscaling(block: list[float], bits: int) -> list[float]:
    """The specification, element by element."""
    exponent, mantissa = {8: (4, 3), 6: (2, 3), 4: (2, 1)}[bits]
    emax, largest = {8: (8, 448.0), 6: (2, 7.5), 4: (2, 6.0)}[bits]
    shared = math.floor(math.log2(max(map(abs, block)))) - emax
    made = []
    for value in block:
        element = abs(value) / 2.0**shared
        least = 1 - (2 ** (exponent - 1) - 1)  # the exponent of subnormal numbers
        at = max(math.floor(math.log2(element)), least) if element else least
        step = 2.0 ** (at - mantissa)
        made.append(math.copysign(min(round(element / step) * step, largest), value) * 2.0**shared)
    return made


@settings(deadline=None)
@given(seeds, st.sampled_from([4, 6, 8]))
def test_blocks_are_the_specifications_microscaling(seed: int, bits: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 32, generator=random) * torch.randn(6, 1, generator=random).mul(5).exp()
    grid = grid_over(x.amin(1)[:, None], x.amax(1)[:, None], bits, "mx", 0, 32)
    assert grid.fake_quantize(x).tolist() == [microscaling(row, bits) for row in x.tolist()]
    assert torch.equal(torch.frexp(grid.scale).mantissa, torch.full_like(grid.scale, 0.5))


def test_layout_and_input_are_kept() -> None:
    x = torch.randn(2, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    for group in (0, 7):
        scale = torch.rand(2, 11) + 0.1 if group else torch.rand(2) + 0.1
        grid = FloatGrid(FloatFormat(2, 1), scale, 0, group)
        assert grid.quantize(x).is_contiguous(memory_format=torch.channels_last)
        assert grid.fake_quantize(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)
