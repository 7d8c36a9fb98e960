"""How the tests are spread over processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def training_here() -> Iterator[None]:
    """Students are trained in the test's own process: one more for each would take seconds and say nothing new."""
    from workbench.distillation import apart, trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart, "distil", trainer.distil)
        patch.setattr(apart, "warm", lambda: None)
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """All browser tests in one process, so that there is one server and one Chromium; the others as they come.

    The mark `xdist_group` would say the same, but xdist writes it into node ids, which pytest 9.2 keeps elsewhere.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneBrowser(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "browser" if "tests/browser/" in nodeid else nodeid

    return OneBrowser(config, log)
