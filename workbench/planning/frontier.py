"""What no other choice beats in both size and drop, and how good such a set is."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]
"""Size and drop: the smaller, the better, both of them."""


def non_dominated(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other one beats, from the smallest size on; of equal points, the first."""
    best, kept = float("inf"), []
    for index in sorted(range(len(points)), key=lambda i: (points[i], i)):
        if points[index][1] < best:
            best = points[index][1]
            kept.append(index)
    return kept


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The area that points dominate, up to a reference that is worse in both (Zitzler and Thiele 1998)."""
    area, height = 0.0, reference[1]
    for index in non_dominated(points):
        size, drop = points[index]
        if size < reference[0] and drop < height:
            area += (reference[0] - size) * (height - drop)
            height = drop
    return area
