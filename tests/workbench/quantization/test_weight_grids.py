"""The choice of a range: divergence against a loop, and the best of all by the layer's output."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.quantization.calibration import Observation
from workbench.quantization.quantizer import WeightSpec
from workbench.quantization.ranges import RANGES, divergence, spanned
from workbench.quantization.ranges.by_output import input_range
from workbench.quantization.schemes import SCHEMES, affine_over, grid_over
from workbench.quantization.weight_grids import weight_grid

seeds = st.integers(0, 10**6)


def by_hand(centres: list[float], counts: list[float], low: float, high: float, bits: int) -> float:
    """KL(P, Q) of one range of an affine grid, bin by bin."""
    grid = grid_over(torch.tensor(low), torch.tensor(high), bits, "affine")
    inside = [low <= c <= high for c in centres]
    first, last = inside.index(True), len(inside) - 1 - inside[::-1].index(True)
    p = [count if own else 0.0 for count, own in zip(counts, inside, strict=True)]
    kept = list(p)
    p[first] += sum(counts[:first])
    p[last] += sum(counts[last + 1 :])
    cells: dict[int, list[int]] = {}
    for at, centre in enumerate(centres):
        if kept[at] > 0:
            cells.setdefault(int(grid.quantize(torch.tensor(centre))), []).append(at)
    q = [0.0] * len(centres)
    for places in cells.values():
        for at in places:
            q[at] = sum(kept[place] for place in places) / len(places)
    p, q = ([value / sum(each) for value in each] for each in (p, q))
    return sum(a * math.log(a / max(b, divergence.FLOOR)) for a, b in zip(p, q, strict=True) if a > 0)


@settings(deadline=None, max_examples=12)
@given(seeds, st.integers(2, 4))
def test_the_range_of_least_divergence_is_that_of_a_loop(seed: int, bits: int) -> None:
    random = torch.Generator().manual_seed(seed)
    centres = torch.linspace(-0.5, 4.0, 90)
    counts = (torch.exp(-centres.abs() * 2) * 400 * torch.rand(90, generator=random)).round()
    counts[-1] = 1
    low, high = spanned(centres[None], counts, bits, "affine", "kl")
    found = by_hand(centres.tolist(), counts.tolist(), float(low), float(high), bits)
    tried = [
        by_hand(centres.tolist(), counts.tolist(), -0.5 * float(share), 4.0 * float(share), bits)
        for share in divergence.SHARES
    ]
    assert found <= min(tried) + 2e-5


def test_divergence_cuts_a_long_tail_and_leaves_a_flat_one() -> None:
    random = torch.Generator().manual_seed(0)
    flat = torch.rand(1, 20_000, generator=random) * 2 - 1
    tail = torch.cat([torch.randn(1, 20_000, generator=random), torch.tensor([[9.0, -9.0]])], 1)
    assert float(spanned(flat, None, 4, "symmetric", "kl")[1]) > 0.9
    assert float(spanned(tail, None, 4, "symmetric", "kl")[1]) < 5


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_rows_of_few_values_share_the_share_of_their_range(scheme: str) -> None:
    rows = torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    _, high = spanned(rows, None, 4, scheme, "kl")
    shares = high / (rows.abs().amax(1) if SCHEMES[scheme].signed else rows.amax(1))
    assert torch.allclose(shares, shares[0].expand(20))
    assert 0.12 < float(shares[0]) <= 2


@settings(deadline=None, max_examples=25)
@given(
    seeds, st.sampled_from([*SCHEMES, "codebook"]), st.integers(2, 5), st.sampled_from(["channel", "group", "tensor"])
)
def test_auto_changes_the_output_no_more_than_any_range(seed: int, scheme: str, bits: int, granularity: str) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 20, generator=random) ** 3
    x = torch.rand(50, 4, generator=random) @ torch.randn(4, 20, generator=random)
    x = x + torch.randn(50, 20, generator=random) * torch.rand(20, generator=random)

    def change(how: str) -> float:
        spec = WeightSpec("", bits, "nearest", scheme, granularity, how, group_size=8)
        made = weight_grid(weight, spec, 0, (x.T @ x / 50)[None]).fake_quantize(weight)
        return float((x @ (made - weight).T).square().sum())

    assert change("auto") <= min(change(how) for how in (*RANGES, "hessian")) * (1 + 1e-3) + 1e-6


def test_auto_without_moments_is_least_squares() -> None:
    weight = torch.randn(6, 20) ** 3
    one, other = (
        weight_grid(weight, WeightSpec("", 3, "nearest", "affine", "channel", how), 0) for how in ("auto", "mse")
    )
    assert torch.equal(one.fake_quantize(weight), other.fake_quantize(weight))


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(2, 6))
def test_an_inputs_range_keeps_the_output_of_independent_inputs(seed: int, bits: int) -> None:
    random = torch.Generator().manual_seed(seed)
    values = (torch.randn(4000, 30, generator=random) * 1.5).relu() ** 2  # independent and alike
    centres = torch.linspace(0, float(values.max()), 512)
    counts = torch.histc(values, 512, 0, float(values.max()))
    weight = torch.rand(5, 30, generator=random)  # of one sign: a shift of the mean adds up

    def error(low: torch.Tensor, high: torch.Tensor) -> float:
        made = affine_over(low.flatten()[0], high.flatten()[0])(bits).fake_quantize(values)
        return float(((made - values) @ weight.T).square().mean())

    chosen = error(*input_range(Observation(centres, counts), bits, weight, 0))
    others = [error(*spanned(centres[None], counts, bits, "affine", how)) for how in RANGES]
    assert chosen <= 1.12 * min(others)  # the histogram is coarser than the values
