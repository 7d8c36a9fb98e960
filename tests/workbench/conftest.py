"""Fixtures for tests that need the seed network; made once, never changed by a test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import workbench as wb
from workbench.store import Store

sys.path.insert(0, str(Path(__file__).parent))  # `quarters`


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Two test processes share two cores; spinning threads would make both slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> wb.Bench:
    """seed-cnn with a store of its own."""
    return wb.zoo.load("seed-cnn", store=Store(tmp_path_factory.mktemp("store")))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)
