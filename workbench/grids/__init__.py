"""Grids: the numbers that a quantized value can have. A new one is a file beside these and an entry in `GRIDS`."""

from __future__ import annotations

from workbench.grids.base import AnyGrid, Stored
from workbench.grids.codebook import CodebookGrid
from workbench.grids.dynamic import DynamicGrid
from workbench.grids.even import Grid
from workbench.grids.floats import FloatFormat, FloatGrid

GRIDS: dict[str, type[AnyGrid]] = {grid.kind: grid for grid in (Grid, FloatGrid, CodebookGrid)}
"""By what a file calls them."""

__all__ = ["GRIDS", "AnyGrid", "CodebookGrid", "DynamicGrid", "FloatFormat", "FloatGrid", "Grid", "Stored"]
