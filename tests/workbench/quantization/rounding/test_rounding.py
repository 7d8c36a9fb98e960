"""Rounding methods against an exhaustive search, and what must hold for any layer."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import Cancelled
from workbench.quantization.quantizer import WeightSpec
from workbench.quantization.ranges import grid_over, spanned
from workbench.quantization.rounding import ROUNDINGS, Problem, Rounded, Watch, on_grid
from workbench.quantization.rounding.quantease import descend, fitted_scale
from workbench.quantization.schemes import SCHEMES
from workbench.quantization.weight_grids import weight_grid
from workbench.recipe import Quantization

METHODS = sorted(ROUNDINGS)
EVEN = ("symmetric", "affine", "midrise")
seeds = st.integers(0, 10**6)


def problem(
    seed: int,
    bits: int = 2,
    scheme: str = "symmetric",
    n: int = 5,
    rows: int = 3,
    groups: int = 1,
    axis: int | None = 0,
    independent: bool = False,
) -> Problem:
    """Correlated inputs, as those of a layer behind a ReLU are."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups * rows, n, generator=random)
    x = torch.rand(groups, 4 * n, 3, generator=random) @ torch.randn(groups, 3, n, generator=random)
    x = (x + 0.3 * torch.randn(groups, 4 * n, n, generator=random)).relu()
    moments = torch.eye(n).repeat(groups, 1, 1) if independent else x.transpose(1, 2) @ x / (4 * n)
    if axis is None:
        low, high = spanned(weight.reshape(1, -1), None, bits, scheme, "mse")
        grid = grid_over(low[0], high[0], bits, scheme)
    else:
        grid = grid_over(*spanned(weight, None, bits, scheme, "mse"), bits, scheme, axis)
    return Problem.of(weight, grid, moments)


def loss(p: Problem, found: Rounded) -> torch.Tensor:
    return replace(p, scale=found.scale).loss(found.steps)


def best_of_all(p: Problem) -> torch.Tensor:
    """The least loss of each row over every point of its grid."""
    best = []
    for row in range(p.rows.shape[1]):
        zero = int(p.zero[0, row, 0])
        levels = range(p.low - zero, p.high - zero + 1, p.stride)
        every = torch.tensor(list(itertools.product(levels, repeat=p.rows.shape[-1])), dtype=torch.float32)
        change = (every * p.scale[0, row] - p.rows[0, row]).double()
        best.append(((change @ p.moments[0].double()) * change).sum(1).min())
    return torch.stack(best).float()


@pytest.mark.parametrize("scheme", EVEN)
@pytest.mark.parametrize(("method", "share"), [("gptq", 0.75), ("quantease", 0.8), ("adaround", 0.65)])
def test_close_to_the_best_of_all_roundings_and_never_below(method: str, share: float, scheme: str) -> None:
    found, least, nearest = [], [], []
    for seed in range(12):
        p = problem(seed, scheme=scheme)
        made = ROUNDINGS[method](p, Watch())
        least.append(best_of_all(replace(p, scale=made.scale)))  # on the grid that it ended with
        found.append(loss(p, made)[0])
        nearest.append(p.loss(p.nearest(p.rows))[0])
    found, least, nearest = map(torch.cat, (found, least, nearest))
    assert (found >= least * (1 - 1e-4) - 1e-6).all()
    assert (found <= nearest * (1 + 1e-5)).all()
    assert (found <= 1.05 * least + 1e-6).float().mean() >= share
    assert (nearest <= 1.05 * least + 1e-6).float().mean() < share


@settings(deadline=None, max_examples=20)
@given(seeds, st.sampled_from(METHODS), st.sampled_from(EVEN), st.integers(2, 8), st.sampled_from([0, None]))
def test_whole_numbers_on_the_grid_and_never_worse_than_nearest(
    seed: int, method: str, scheme: str, bits: int, axis: int | None
) -> None:
    p = problem(seed, bits, scheme, n=9, groups=2, axis=axis)
    made = ROUNDINGS[method](p, Watch())
    assert torch.equal(made.steps, made.steps.round())
    assert torch.equal(made.steps, replace(p, scale=made.scale).nearest(made.steps * made.scale))
    ours, nearest = loss(p, made), p.loss(p.nearest(p.rows))
    if axis is None:
        assert len(made.scale.unique()) == 1
        ours, nearest = ours.sum(), nearest.sum()
    assert (ours <= nearest * (1 + 1e-4) + 1e-7).all()


@settings(deadline=None, max_examples=25)
@given(
    seeds,
    st.sampled_from(METHODS),
    st.sampled_from([*SCHEMES, "codebook"]),
    st.integers(2, 5),
    st.sampled_from([0, 4, 9]),
)
def test_any_grid_is_kept_and_never_worse_than_nearest(
    seed: int, method: str, scheme: str, bits: int, group: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 9, generator=random)
    x = torch.rand(2, 40, 3, generator=random) @ torch.randn(2, 3, 9, generator=random)
    moments = x.transpose(1, 2) @ x / 40 + 0.01 * torch.eye(9)
    spec = WeightSpec("", bits, method, scheme, "group" if group else "channel", "mse", group_size=group)
    grid = weight_grid(weight, spec, 0)
    p = Problem.of(weight, grid, moments)
    assert torch.allclose((p.nearest(p.rows) * p.scale).reshape(6, 9), grid.fake_quantize(weight), rtol=1e-4, atol=1e-5)
    found = ROUNDINGS[method](p, Watch())
    q, made = on_grid(found, grid, weight)
    values = made.dequantize(q)
    assert torch.allclose(values, (found.steps * found.scale).reshape(6, 9), rtol=1e-5, atol=1e-6)
    assert torch.equal(made.fake_quantize(values), values)
    if group or scheme in ("power_of_two", "mx", "codebook"):
        assert made is grid, "its parameters have to stay"

    def lost(each: torch.Tensor) -> torch.Tensor:
        change = (each - weight).reshape(2, 3, 9)
        return ((change @ moments) * change).sum(-1)

    assert (lost(values) <= lost(grid.fake_quantize(weight)) * (1 + 1e-3) + 1e-5).all()


@settings(deadline=None, max_examples=20)
@given(seeds, st.sampled_from(["gptq", "adaround"]), st.integers(2, 6))
def test_independent_inputs_are_rounded_to_nearest(seed: int, method: str, bits: int) -> None:
    p = problem(seed, bits, independent=True, n=12)
    made = ROUNDINGS[method](p, Watch())
    nearest = p.nearest(p.rows)
    halfway = ((p.rows / p.scale) % 1 - 0.5).abs() < 1e-3
    assert torch.equal(made.steps[~halfway], nearest[~halfway])


@settings(deadline=None, max_examples=20)
@given(seeds, st.sampled_from(METHODS), st.randoms(use_true_random=False))
def test_the_order_of_the_inputs_does_not_count(seed: int, method: str, random: object) -> None:
    p = problem(seed, 3, n=10)
    order = list(range(10))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = replace(p, rows=p.rows[..., order], moments=p.moments[:, order][..., order])
    one, other = ROUNDINGS[method](p, Watch()), ROUNDINGS[method](shuffled, Watch())
    # sums in another order can tip what lies halfway, but no worse solution comes out of it
    assert torch.allclose(loss(p, one), loss(shuffled, other), rtol=0.2)
    same = (one.steps[..., order] == other.steps).float().mean()
    assert same > 0.8


def test_groups_are_solved_each_with_its_own_moments() -> None:
    p = problem(3, 3, n=9, groups=4)
    for method in METHODS:
        together = ROUNDINGS[method](p, Watch())
        for group in range(4):
            part = slice(group, group + 1)
            one = replace(p, rows=p.rows[part], moments=p.moments[part], scale=p.scale[part], zero=p.zero[part])
            alone = ROUNDINGS[method](one, Watch())
            assert torch.allclose(loss(p, together)[part], loss(one, alone), rtol=0.05)


def test_blocks_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    p = problem(1, 3, n=40, rows=8)
    whole = [ROUNDINGS[name](p, Watch()).steps for name in ("gptq", "quantease")]
    for name in ("gptq", "quantease"):
        monkeypatch.setattr(sys.modules[f"workbench.quantization.rounding.{name}"], "BLOCK", 7)
    blocks = [ROUNDINGS[name](p, Watch()).steps for name in ("gptq", "quantease")]
    for one, other in zip(whole, blocks, strict=True):
        assert (one == other).float().mean() > 0.99


@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(2, 5))
def test_every_sweep_and_every_fit_lowers_the_loss(seed: int, bits: int) -> None:
    p = problem(seed, bits, n=12).damped()
    steps = p.nearest(p.rows)
    for _ in range(3):
        swept = descend(p, steps, 1)
        assert (p.loss(swept) <= p.loss(steps) * (1 + 1e-4) + 1e-7).all()
        fitted = replace(p, scale=fitted_scale(p, swept))
        assert (fitted.loss(swept) <= p.loss(swept) * (1 + 1e-4) + 1e-7).all()
        p, steps = fitted, swept


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "moments",
    [torch.zeros(1, 5, 5), torch.full((1, 5, 5), float("inf")), -torch.eye(5)[None], torch.ones(1, 5, 5)],
    ids=["dead", "infinite", "negative", "of rank one"],
)
def test_moments_that_tell_nothing_still_give_whole_numbers(method: str, moments: torch.Tensor) -> None:
    p = replace(problem(0), moments=moments)
    made = ROUNDINGS[method](p, Watch())
    assert torch.equal(made.steps, replace(p, scale=made.scale).nearest(made.steps * made.scale))
    assert (made.scale > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_it_says_how_far_it_is_and_stops_in_the_middle(method: str) -> None:
    told: list[float] = []
    cancel = threading.Event()
    p = problem(0, n=300)
    ROUNDINGS[method](p, Watch(None, told.append))
    assert told == sorted(told)
    assert 0 <= told[0] < told[-1] <= 1
    before = p.rows.clone()

    def stop(done: float) -> None:
        if done > 0.3:
            cancel.set()

    with pytest.raises(Cancelled):
        ROUNDINGS[method](p, Watch(cancel, stop))
    assert torch.equal(p.rows, before)


@pytest.mark.parametrize("scheme", EVEN)
@pytest.mark.parametrize("axis", [0, None])
def test_a_solution_is_a_weight_on_a_grid(scheme: str, axis: int | None) -> None:
    weight = torch.randn(6, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    rows = weight.flatten(1) if axis == 0 else weight.reshape(1, -1)
    low, high = spanned(rows, None, 3, scheme, "mse")
    grid = grid_over(low, high, 3, scheme, 0) if axis == 0 else grid_over(low[0], high[0], 3, scheme)
    p = Problem.of(weight, grid, torch.eye(18)[None])
    q, made = on_grid(Rounded(p.nearest(p.rows), p.scale), grid, weight)
    assert torch.equal(q, grid.quantize(weight))
    assert torch.allclose(made.dequantize(q), grid.fake_quantize(weight))
    assert q.is_contiguous(memory_format=torch.channels_last)


def test_a_recipe_knows_every_method() -> None:
    allowed = {method for method in METHODS if Quantization(method=method).informed}
    assert allowed == set(METHODS)
    with pytest.raises(ValueError, match="gptq"):
        Quantization(method="magic")
