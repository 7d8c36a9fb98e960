"""How the tests are spread over processes."""

from __future__ import annotations

from typing import Any

import pytest


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
