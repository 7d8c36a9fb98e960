"""The grid against torch's own fake quantization, bit for bit."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.grid import Grid

settings.register_profile("grid", deadline=None, max_examples=150)
settings.load_profile("grid")

scales = st.floats(2**-16, 2**10, width=32)
bits = st.integers(2, 8)


@st.composite
def grids(draw: st.DrawFn, channels: int | None = None) -> Grid:
    n, signed = draw(bits), draw(st.booleans())
    low, high = (-(2 ** (n - 1)), 2 ** (n - 1) - 1) if signed else (0, 2**n - 1)
    count = channels or 1
    scale = torch.tensor([draw(scales) for _ in range(count)], dtype=torch.float32)
    zero = torch.tensor([draw(st.integers(low, high)) for _ in range(count)], dtype=torch.int32)
    if channels is None:
        return Grid(scale[0], zero[0], low, high, n)
    return Grid(scale, zero, low, high, n, axis=draw(st.integers(0, 1)))


def values(seed: int, shape: tuple[int, ...], scale: torch.Tensor) -> torch.Tensor:
    """Reaches past both ends of the grid and holds exact ties."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale.max() * 40
    drawn.view(-1)[::3] = ((drawn.view(-1)[::3] / scale.max()).round() + 0.5) * scale.max()
    return drawn


@given(grids(), st.integers(0, 10**6))
def test_per_tensor_agrees_bit_for_bit(grid: Grid, seed: int) -> None:
    x = values(seed, (5, 41), grid.scale)
    oracle = torch.fake_quantize_per_tensor_affine(
        x, float(grid.scale), int(grid.zero_point), grid.quant_min, grid.quant_max
    )
    assert torch.equal(grid.fake_quantize(x), oracle)


@given(grids(channels=4), st.integers(0, 10**6))
def test_per_channel_agrees_bit_for_bit(grid: Grid, seed: int) -> None:
    x = values(seed, (4, 4, 9), grid.scale)
    oracle = torch.fake_quantize_per_channel_affine(
        x, grid.scale, grid.zero_point, grid.axis, grid.quant_min, grid.quant_max
    )
    assert torch.equal(grid.fake_quantize(x), oracle)


@given(grids(channels=3), st.integers(0, 10**6))
def test_whole_numbers_and_back_is_fake_quantization(grid: Grid, seed: int) -> None:
    x = values(seed, (3, 3, 7), grid.scale)
    q = grid.quantize(x)
    assert q.dtype == grid.dtype
    assert int(q.min()) >= grid.quant_min
    assert int(q.max()) <= grid.quant_max
    assert torch.equal(grid.dequantize(q), grid.fake_quantize(x))


@given(grids(), st.integers(0, 10**6))
def test_what_lies_on_the_grid_stays(grid: Grid, seed: int) -> None:
    q = torch.randint(grid.quant_min, grid.quant_max + 1, (50,), generator=torch.Generator().manual_seed(seed))
    on = grid.dequantize(q)
    assert torch.equal(grid.fake_quantize(on), on)


def test_layout_and_input_are_kept() -> None:
    x = torch.randn(2, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    made = Grid(torch.tensor(0.1), torch.tensor(3, dtype=torch.int32), 0, 15, 4).fake_quantize(x)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)


@given(st.integers(1, 7), st.floats(2**-10, 2**5, width=32), st.integers(0, 10**6))
def test_mid_rise_takes_the_nearest_of_as_many_values_on_either_side_of_zero(n: int, scale: float, seed: int) -> None:
    most = 2**n - 1
    grid = Grid(torch.tensor(scale), torch.tensor(0, dtype=torch.int32), -most, most, n, stride=2)
    x = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed)) * scale * most
    every = torch.arange(-most, most + 1, 2) * torch.tensor(scale)
    assert len(every) == 2**n
    nearest = (x[..., None] - every).abs().amin(-1)
    assert torch.allclose((grid.fake_quantize(x) - x).abs(), nearest, rtol=1e-5, atol=1e-6 * scale)
    q = grid.quantize(x)
    assert q.dtype == torch.int8
    assert bool((q % 2 != 0).all())
    assert torch.equal(grid.dequantize(q), grid.fake_quantize(x))
