"""Non-dominated points and the area that they dominate."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from workbench.planning.frontier import hypervolume, non_dominated

SIDE = 8
points = st.lists(st.tuples(st.integers(0, SIDE), st.integers(0, SIDE)), max_size=12)


@given(points)
def test_the_area_is_what_counting_cells_gives(found: list[tuple[int, int]]) -> None:
    cells = itertools.product(range(SIDE), range(SIDE))
    counted = sum(any(size <= x and drop <= y for size, drop in found) for x, y in cells)
    assert hypervolume([(float(s), float(d)) for s, d in found], (SIDE, SIDE)) == counted


@given(points)
def test_what_is_kept_is_beaten_by_nothing_and_beats_the_rest(found: list[tuple[int, int]]) -> None:
    kept = [found[index] for index in non_dominated(found)]
    assert kept == sorted(kept)
    assert len(set(kept)) == len(kept)
    for point in found:
        assert any(other[0] <= point[0] and other[1] <= point[1] for other in kept)
    for a, b in itertools.permutations(kept, 2):
        assert not (a[0] <= b[0] and a[1] <= b[1])
