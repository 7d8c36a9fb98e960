"""Rounding with gradients, against torch's own learnable fake quantization and the paper's formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.finetuning.lsq import FixedGrid, LearnedGrid, stepped, trained
from workbench.grid import CodebookGrid, Grid
from workbench.quantization.ranges import grid_over

seeds = st.integers(0, 10_000)
bits = st.integers(2, 8)
SCHEMES = ("symmetric", "affine")


def values(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def narrow(x: Tensor, bits: int, scheme: str) -> Grid:
    """A grid that clips the outermost values."""
    return grid_over(x.min() * 0.63, x.max() * 0.47, bits, scheme)


@settings(max_examples=25, deadline=None)
@given(seeds, bits, st.sampled_from(SCHEMES))
def test_a_tensor_has_the_values_and_gradients_of_torch(seed: int, bits: int, scheme: str) -> None:
    x, upstream = values(seed, 4, 30), values(seed + 1, 4, 30)
    grid = narrow(x, bits, scheme)
    ours, step = x.clone().requires_grad_(), grid.scale.clone().requires_grad_()
    made = stepped(ours, step, grid)
    made.backward(upstream)
    theirs, scale = x.clone().requires_grad_(), grid.scale.reshape(1).clone().requires_grad_()
    zero = grid.zero_point.reshape(1).float().requires_grad_()
    wanted = torch._fake_quantize_learnable_per_tensor_affine(theirs, scale, zero, grid.quant_min, grid.quant_max, 1.0)
    wanted.backward(upstream)
    assert torch.equal(made, wanted)
    plain = torch.fake_quantize_per_tensor_affine(
        x, float(grid.scale), int(grid.zero_point), grid.quant_min, grid.quant_max
    )
    assert torch.equal(made, plain)
    assert torch.equal(ours.grad, theirs.grad)
    assert torch.allclose(step.grad, scale.grad[0], rtol=1e-3, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(seeds, bits, st.sampled_from(SCHEMES), st.sampled_from((0, 1)))
def test_channels_have_the_values_and_gradients_of_torch(seed: int, bits: int, scheme: str, axis: int) -> None:
    x, upstream = values(seed, 3, 3, 20), values(seed + 1, 3, 3, 20)
    rows = x.transpose(0, axis).flatten(1)
    grid = grid_over(rows.amin(1) * 0.63, rows.amax(1) * 0.47, bits, scheme, axis)
    ours, step = x.clone().requires_grad_(), grid.scale.clone().requires_grad_()
    made = stepped(ours, grid.along(step, x), grid)
    made.backward(upstream)
    theirs, scale = x.clone().requires_grad_(), grid.scale.clone().requires_grad_()
    zero = grid.zero_point.float().requires_grad_()
    wanted = torch._fake_quantize_learnable_per_channel_affine(
        theirs, scale, zero, axis, grid.quant_min, grid.quant_max, 1.0
    )
    wanted.backward(upstream)
    assert torch.equal(made, wanted)
    assert torch.equal(ours.grad, theirs.grad)
    assert torch.allclose(step.grad, scale.grad, rtol=1e-3, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 7))
def test_a_midrise_grid_follows_the_formula_of_the_paper(seed: int, bits: int) -> None:
    x = values(seed, 50)
    grid = narrow(x, bits, "midrise")
    ours, step = x.clone().requires_grad_(), grid.scale.clone().requires_grad_()
    stepped(ours, step, grid).sum().backward()
    whole = 2 * torch.floor(x / grid.scale / 2) + 1
    inside = (whole >= grid.quant_min) & (whole <= grid.quant_max)
    wanted = torch.where(inside, whole - x / grid.scale, whole.clamp(grid.quant_min, grid.quant_max)).sum()
    assert torch.equal(ours.grad, inside.float())
    assert torch.allclose(step.grad, wanted, rtol=1e-3, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_groups_have_a_step_and_a_gradient_each(seed: int) -> None:
    x = values(seed, 2, 8)
    scale = torch.full((2, 2), 0.5)
    grid = Grid(scale, torch.zeros(2, 2, dtype=torch.int32), -2, 1, 2, 0, group=4)
    module = LearnedGrid(grid)
    made = module.fake_quantize(x)
    made[0, :4].sum().backward()
    assert torch.equal(made, module.made().fake_quantize(x))
    touched = module.log_step.grad != 0
    assert not touched[0, 1] and not touched[1].any()


def test_no_gradient_passes_outside_the_range() -> None:
    grid = Grid(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), -2, 1, 2)
    x = torch.tensor([-9.0, -0.4, 0.3, 9.0], requires_grad=True)
    LearnedGrid(grid).fake_quantize(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(-3, 3))
def test_steps_of_two_to_the_k_stay_so(seed: int, moved: float) -> None:
    x = values(seed, 40)
    module = LearnedGrid(Grid(torch.tensor(0.25), torch.tensor(0, dtype=torch.int32), -4, 3, 3, power_of_two=True))
    with torch.no_grad():
        module.log_step += moved
    mantissa, _ = torch.frexp(module.made().scale)
    assert float(mantissa) == 0.5
    (module.fake_quantize(x) - x).square().sum().backward()
    assert float(module.log_step.grad) != 0


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_learned_step_finds_the_least_error(bits: int) -> None:
    x = values(7, 4000)
    module = LearnedGrid(grid_over(x.min() * 3, x.max() * 3, bits, "symmetric"))
    before = float((module.made().fake_quantize(x) - x).square().mean())
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        (module.fake_quantize(x) - x).square().mean().backward()
        optimizer.step()
    assert float((module.made().fake_quantize(x) - x).square().mean()) < before / 2


def test_a_grid_of_any_values_stays_and_lets_gradients_pass() -> None:
    grid = CodebookGrid(torch.tensor([-1.0, 0.0, 0.5, 2.0]), 2)
    x = torch.tensor([-3.0, 0.1, 0.4, 1.9], requires_grad=True)
    module = trained(grid)
    assert isinstance(module, FixedGrid)
    made = module.fake_quantize(x)
    made.sum().backward()
    assert made.tolist() == [-1.0, 0.0, 0.5, 2.0]
    assert x.grad.tolist() == [1, 1, 1, 1]
    assert list(module.parameters()) == []
