"""Examples from what people have: tensors, datasets, loaders, dicts, folders of images, tables."""

from __future__ import annotations

from workbench.sources.base import Examples
from workbench.sources.pictures import folder
from workbench.sources.reading import examples
from workbench.sources.tables import table

__all__ = ["Examples", "examples", "folder", "table"]
