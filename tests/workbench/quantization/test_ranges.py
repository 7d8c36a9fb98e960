"""Ranges against torch's observers and against exhaustive search."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

from workbench.quantization.ranges import grid_over, least_squares, naive_grid, spanned

seeds = st.integers(0, 10**6)
bits = st.integers(2, 8)


def rows(seed: int, count: int = 6, n: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, n, generator=generator) * torch.rand(count, 1, generator=generator).add(0.01)


@settings(deadline=None)
@given(seeds, bits)
def test_symmetric_minmax_is_torchs_per_channel_observer(seed: int, n: int) -> None:
    x = rows(seed)
    observer = PerChannelMinMaxObserver(
        ch_axis=0,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
        quant_min=-(2 ** (n - 1)),
        quant_max=2 ** (n - 1) - 1,
    )
    observer(x)
    scale, zero = observer.calculate_qparams()
    grid = grid_over(*spanned(x, None, n, "symmetric", "minmax"), n, "symmetric", axis=0)
    assert torch.allclose(grid.scale, scale, rtol=1e-6)
    assert torch.equal(grid.zero_point.long(), zero.long())


@settings(deadline=None)
@given(seeds, bits)
def test_affine_minmax_is_torchs_observer(seed: int, n: int) -> None:
    x = rows(seed, 1) + 0.3
    observer = MinMaxObserver(dtype=torch.quint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=2**n - 1)
    observer(x)
    scale, zero = observer.calculate_qparams()
    low, high = spanned(x, None, n, "affine", "minmax")
    grid = grid_over(low[0], high[0], n, "affine")
    assert float(grid.scale) == pytest.approx(float(scale), rel=1e-6)
    assert int(grid.zero_point) == int(zero)


def error(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, n: int, scheme: str) -> torch.Tensor:
    return (grid_over(low, high, n, scheme, axis=0).fake_quantize(x) - x).square().sum(1)


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(2, 6), st.sampled_from(["symmetric", "affine", "midrise"]))
def test_mse_is_close_to_exhaustive_search(seed: int, n: int, scheme: str) -> None:
    x = rows(seed, 3, 1000)
    found = error(x, *spanned(x, None, n, scheme, "mse"), n, scheme)
    low, high = x.amin(1), x.amax(1)
    tried = torch.stack([error(x, low * share, high * share, n, scheme) for share in torch.linspace(0.1, 1, 300)])
    assert (found <= tried.amin(0) * 1.05).all()


@settings(deadline=None, max_examples=40)
@given(seeds, st.booleans(), st.sampled_from(["symmetric", "midrise"]))
def test_one_bit_has_the_best_of_all_scales(seed: int, weighted: bool, scheme: str) -> None:
    x = rows(seed, 3, 500)
    counts = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) if weighted else torch.ones_like(x)
    low, high = spanned(x, counts if weighted else None, 1, scheme, "mse")
    assert torch.equal(grid_over(low, high, 1, scheme, axis=0).quantize(x), torch.where(x < 0, -1, 1).to(torch.int8))

    def lost(high: torch.Tensor) -> torch.Tensor:
        return ((grid_over(-high, high, 1, scheme, axis=0).fake_quantize(x) - x).square() * counts).sum(1)

    tried = torch.stack([lost(x.abs().amax(1) * share) for share in torch.linspace(0.01, 1, 500)])
    assert (lost(high) <= tried.amin(0) * (1 + 1e-5)).all()


@settings(deadline=None, max_examples=40)
@given(seeds, bits, st.sampled_from(["symmetric", "affine", "midrise"]))
def test_mse_is_never_worse_than_minmax(seed: int, n: int, scheme: str) -> None:
    x = rows(seed, 4)
    searched, plain = (error(x, *spanned(x, None, n, scheme, how), n, scheme) for how in ("mse", "minmax"))
    assert (searched <= plain * 1.0001).all()


@pytest.mark.parametrize("scheme", ["symmetric", "affine", "midrise"])
@pytest.mark.parametrize("at_once", [7, 64, 500])
def test_mse_does_not_depend_on_how_the_work_is_cut(scheme: str, at_once: int, monkeypatch) -> None:
    x = rows(3, 5, 200)
    whole = error(x, *spanned(x, None, 4, scheme, "mse"), 4, scheme)
    monkeypatch.setattr(sys.modules[least_squares.__module__], "AT_ONCE", at_once)  # parts of a row, or a few rows
    assert torch.allclose(error(x, *spanned(x, None, 4, scheme, "mse"), 4, scheme), whole, rtol=1e-4)


@settings(deadline=None)
@given(seeds, bits)
def test_a_count_is_as_good_as_repeating_a_value(seed: int, n: int) -> None:
    values = rows(seed, 1, 40).sort(1).values
    counts = torch.randint(1, 5, (40,), generator=torch.Generator().manual_seed(seed))
    repeated = values.repeat_interleave(counts, dim=1)
    for how in ("minmax", "mse", "percentile"):
        counted = spanned(values, counts.float(), n, "affine", how)
        written = spanned(repeated, None, n, "affine", how)
        assert torch.allclose(counted[0], written[0], atol=1e-6)
        assert torch.allclose(counted[1], written[1], atol=1e-6)


@pytest.mark.parametrize("at_once", [2**17, 64])
@pytest.mark.parametrize("scheme", ["symmetric", "affine", "midrise"])
def test_the_error_can_count_differently_for_each_value(scheme: str, at_once: int, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[least_squares.__module__], "AT_ONCE", at_once)
    x = rows(7, 4, 200)
    counts = torch.rand(4, 200, generator=torch.Generator().manual_seed(0)) ** 4

    def lost(weights: torch.Tensor | None) -> torch.Tensor:
        grid = grid_over(*spanned(x, weights, 3, scheme, "mse"), 3, scheme, axis=0)
        return ((grid.fake_quantize(x) - x).square() * counts).sum(1)

    assert (lost(counts) <= lost(None) * 1.0001).all()
    assert lost(counts).sum() < lost(None).sum()
    alone = [spanned(x[i : i + 1], counts[i], 3, scheme, "mse") for i in range(4)]
    together = spanned(x, counts, 3, scheme, "mse")
    assert torch.allclose(torch.cat([low for low, _ in alone]), together[0], rtol=1e-5)


def test_percentile_leaves_the_outermost_out() -> None:
    x = torch.linspace(-1, 1, 10_000)[None].clone()
    x[0, 0], x[0, -1] = -50.0, 90.0
    low, high = spanned(x, None, 8, "affine", "percentile")
    assert -1 <= float(low) < -0.99
    assert 0.99 < float(high) <= 1


def test_constant_and_empty_ranges_have_a_usable_scale() -> None:
    for value in (0.0, 3.0, -2.0):
        x = torch.full((1, 5), value)
        for scheme in ("symmetric", "affine"):
            grid = grid_over(*spanned(x, None, 4, scheme, "mse"), 4, scheme, axis=0)
            assert torch.isfinite(grid.fake_quantize(x)).all()
            assert (grid.fake_quantize(x) - x).abs().max() <= abs(value) / 7 + 1e-6


@pytest.mark.parametrize("n", range(2, 9))
def test_naive_is_the_surveys_formula(n: int) -> None:
    x = torch.linspace(-2, 2, 1001)
    expected = (x * 2 ** (n - 1)).round().clip(0, 2 ** (n - 1) - 1)
    assert torch.equal(naive_grid(n).quantize(x).float(), expected)
