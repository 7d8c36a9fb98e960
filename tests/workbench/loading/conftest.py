from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # mutations, fuzzing: shared with the bench
from torchvision_stub import declare_torchvision


@pytest.fixture(scope="session")
def torchvision():
    declare_torchvision()


@pytest.fixture
def transformers(torchvision):
    return pytest.importorskip("transformers")


@pytest.fixture
def timm(torchvision):
    return pytest.importorskip("timm")
