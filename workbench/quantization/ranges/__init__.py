"""Which range a grid should span; one file per idea, registered here.

Weights come as rows, one per scale; activations as a histogram. Both are samples with a count, so
that one search serves them.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from workbench.quantization.ranges.divergence import closest
from workbench.quantization.ranges.least_squares import least_squares
from workbench.quantization.ranges.percentile import percentile
from workbench.quantization.schemes import grid_over, naive_grid

Range = Callable[[Tensor, "Tensor | None", int, str], tuple[Tensor, Tensor]]


def minmax(values: Tensor, counts: Tensor | None, bits: int, scheme: str) -> tuple[Tensor, Tensor]:
    """All values; see `spanned`."""
    del counts, bits, scheme
    return values.amin(1), values.amax(1)


RANGES: dict[str, Range] = {"minmax": minmax, "percentile": percentile, "mse": least_squares, "kl": closest}
"""By the name that a recipe gives them; what looks at more than values is made of these."""

__all__ = ["RANGES", "grid_over", "minmax", "naive_grid", "spanned"]


def spanned(values: Tensor, counts: Tensor | None, bits: int, scheme: str, how: str) -> tuple[Tensor, Tensor]:
    """The range that a grid should span.

    Args:
        values: Shape (rows, n): one range per row. With counts for ``kl``, in rising order.
        counts: How often each value occurs, shape (n,), or how much its error counts, shape (rows, n) (``mse``
            only); None: once each.
        bits: 1 to 8.
        scheme: One of `SCHEMES`.
        how: One of `RANGES`.

    Returns:
        low and high, each of shape (rows,).
    """
    return RANGES[how](values, counts, bits, scheme)
