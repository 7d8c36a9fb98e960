from __future__ import annotations

import sys
from pathlib import Path

import pytest

import workbench as wb
from workbench.store import Store

sys.path.insert(0, str(Path(__file__).parent))
from lever_bench import bench


@pytest.fixture
def made(store: Store) -> wb.Bench:
    return bench(store)
