"""k-means against scipy, exhaustive search, and the even grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.vq import kmeans2

from workbench.quantization.codebooks import k_means
from workbench.quantization.ranges import grid_over, spanned

seeds = st.integers(0, 10**6)


def lost(rows: torch.Tensor, values: torch.Tensor, counts: torch.Tensor | None = None) -> torch.Tensor:
    squares = (rows[:, :, None] - values[:, None]).square().amin(2)
    return (squares if counts is None else squares * counts).sum(1)


@pytest.mark.parametrize("weighted", [False, True])
def test_close_to_the_best_of_all_partitions_and_never_below(weighted: bool) -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 12, generator=random).sort(1).values
    counts = torch.rand(40, 12, generator=random) + 0.01 if weighted else None
    found = lost(rows, k_means(rows, counts, 2), counts)
    weight = torch.ones_like(rows) if counts is None else counts
    least = torch.full((40,), torch.inf)
    for cuts in itertools.combinations(range(1, 12), 3):
        total = torch.zeros(40)
        for start, stop in itertools.pairwise((0, *cuts, 12)):
            part, mass = rows[:, start:stop], weight[:, start:stop]
            mean = (part * mass).sum(1) / mass.sum(1)
            total += ((part - mean[:, None]).square() * mass).sum(1)
        least = torch.minimum(least, total)
    assert (found >= least * (1 - 1e-4) - 1e-6).all()
    assert (found <= 1.05 * least).float().mean() >= 0.5  # Lloyd's algorithm ends in local optima
    assert found.sum() <= 1.4 * least.sum()


def test_as_good_as_scipys_from_many_starts() -> None:
    rows = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
    ours = lost(rows, k_means(rows, None, 3))
    for row, own in zip(rows, ours, strict=True):
        tried = [kmeans2(row.numpy(), 8, 50, minit="++", rng=np.random.default_rng(seed))[0] for seed in range(20)]
        theirs = min(float(lost(row[None], torch.from_numpy(each)[None].float())) for each in tried)
        assert float(own) <= 1.03 * theirs


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(2, 5), st.booleans())
def test_never_worse_than_the_even_grid(seed: int, bits: int, weighted: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(4, 60, generator=random) ** 3
    counts = torch.rand(4, 60, generator=random) if weighted else None
    even = grid_over(*spanned(rows, counts, bits, "affine", "mse"), bits, "affine", axis=0).fake_quantize(rows)
    squares = (even - rows).square() if counts is None else (even - rows).square() * counts
    assert (lost(rows, k_means(rows, counts, bits), counts) <= squares.sum(1) * (1 + 1e-5) + 1e-9).all()


def test_few_different_values_are_kept_exactly() -> None:
    rows = torch.tensor([[1.0, 1.0, -2.0, 5.0, 5.0, 5.0], [0.0] * 6])
    values = k_means(rows, None, 3)
    assert torch.equal(values, values.sort(1).values)
    assert float(lost(rows, values).max()) < 1e-10
