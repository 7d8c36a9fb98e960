from __future__ import annotations

import subprocess
import sys

import ipywidgets
import pytest

import widgets
from widgets import Workbench
from workbench.errors import WorkbenchError
from workbench.recipe import Recipe


def test_all_parts_share_one_session_in_reading_order(session):
    s = session()
    workbench = Workbench(s)
    assert workbench.session is s
    assert all(part.session is s for part in workbench.parts)
    names = [type(part).__name__ for part in workbench.parts]
    apart = {"Guess", "GuessSpeed", "Session", "Workbench", "tradeoff_figure"}
    assert sorted(names) == sorted(set(widgets.__all__) - apart)
    assert names.index("Tiles") < names.index("Verdict") < names.index("QuantizationPanel") < names.index("TradeOff")
    assert "workbench" in workbench._dom_classes


def test_close_gives_everything_back_but_a_session_that_is_shared(session):
    s = session()
    before = set(ipywidgets.Widget._instances) if hasattr(ipywidgets.Widget, "_instances") else None
    workbench = Workbench(s)
    workbench.close()
    workbench.close()
    assert workbench.comm is None and all(part.comm is None for part in workbench.parts)
    assert ("close",) not in s.calls
    s.status = "still usable"
    if before is not None:
        assert set(ipywidgets.Widget._instances) == before


def test_a_session_and_a_recipe_contradict_each_other(session):
    with pytest.raises(WorkbenchError, match="Session"):
        Workbench(session(), recipe=Recipe())


def test_anything_else_becomes_a_session_that_ends_with_it(monkeypatch, session):
    import widgets.session as module

    made = []

    def make(source, **more):
        made.append((source, more))
        return session()

    monkeypatch.setattr(module, "Session", make)
    bench = object()
    workbench = Workbench(bench)
    other = Workbench({"a": bench}, recipe=Recipe())
    assert made == [(bench, {}), ({"a": bench}, {"recipe": Recipe()})]
    workbench.close()
    assert ("close",) in workbench.session.calls and ("close",) not in other.session.calls


def test_the_view_does_not_import_plotly():
    code = "import sys, widgets, widgets.workbench, widgets.figure; sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
