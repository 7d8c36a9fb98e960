"""Writing the recipe on the screen down: read again, packed, delivered; or refused, or ended."""

from __future__ import annotations

import io
import threading
import zipfile
from types import SimpleNamespace

import pytest
import small_bench
from small_bench import LONG, until

from widgets.exporting import FORMS
from widgets.session import Session
from workbench.errors import Cancelled, WorkbenchError
from workbench.recipe import Quantization, Recipe

W4A8 = Recipe(quantization=Quantization(weight_bits=4, activation_bits=8))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_bench.made(tmp_path_factory.mktemp("store"))


@pytest.fixture
def session(small):
    session = Session(small, W4A8)
    session.wait(LONG)
    yield session
    session.close()
    assert "workbench-exporting" not in [thread.name for thread in threading.enumerate()]


def written(session, form):
    got = []
    session.export(form, lambda name, content: got.append((name, content)))
    until(lambda: not session.exporting)
    return got


@pytest.mark.parametrize(
    ("form", "name"),
    [("safetensors", "small-W4-A8.safetensors"), ("onnx", "small-W4-A8.onnx"), ("pt2", "small-W4-A8.pt2")],
)
def test_what_is_one_file_is_delivered_as_it_is(session, form, name):
    [(got, content)] = written(session, form)
    assert got == name and content and session.export_problem == ""
    assert session.exported.startswith(name) and "the simulation’s answer on" in session.exported


@pytest.mark.parametrize(
    ("form", "inside"),
    [("openvino", {"small-W4-A8.xml", "small-W4-A8.bin"}), ("folder", {"model.onnx", "report.json"})],
)
def test_what_is_more_is_delivered_as_one_archive(session, form, inside):
    [(name, content)] = written(session, form)
    assert name == f"small-W4-A8-{form}.zip" and session.export_problem == ""
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert {f"small-W4-A8/{each}" for each in inside} <= set(names)


def test_every_form_is_one_that_the_bench_writes(session):
    with pytest.raises(WorkbenchError, match="'onnx'"):
        session.export("onxn", print)
    assert {form.ending for form in FORMS.values()} == {".safetensors", ".onnx", ".pt2", ".xml", ""}


def test_a_refusal_is_said_in_words_and_another_form_can_be_had(session, small, monkeypatch):
    def refuse(recipe, path, cancel):
        raise WorkbenchError(f"{path.name}: it cannot be written so. .onnx can be written.")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(small, "export_stream", refuse)
        assert written(session, "pt2") == []
    assert session.export_problem == "small-W4-A8.pt2: it cannot be written so. .onnx can be written."
    assert session.problem == "" and session.exported == ""
    assert len(written(session, "safetensors")) == 1 and session.export_problem == ""


def test_it_can_be_ended_and_then_nothing_is_delivered(session, small, monkeypatch):
    reached, got = threading.Event(), []

    def hold(recipe, path, cancel):
        yield SimpleNamespace(stage="writing", agreement=None)
        reached.set()
        assert cancel.wait(LONG)
        raise Cancelled

    monkeypatch.setattr(small, "export_stream", hold)
    session.export("onnx", lambda name, content: got.append(name))
    assert reached.wait(LONG) and session.exporting == "Writing…"
    session.look("timing")  # waits, as its times would be spoilt
    session.stop_exporting()
    until(lambda: not session.looking)
    assert (got, session.exporting, session.exported, session.export_problem) == ([], "", "", "")
    assert session.findings["timing"].done
