from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench import Distillation, Quantization, Recipe, WorkbenchError
from workbench.frontier.shipped import Frontier, along, fingerprint, imported, read, write
from workbench.report import Comparison, Estimate, Flips, LayerRow, Report


def estimate(value: float, unit: str = "", source: str = "simulated") -> Estimate:
    return Estimate(value=value, low=round(value - 0.01, 6), high=round(value + 0.01, 6), unit=unit, source=source)


def report(recipe: Recipe, accuracy: float = 0.9, **more: object) -> Report:
    row = LayerRow(
        name="fc", kind="Linear", shape=(2, 2), parameters=4, weight_bits=4, activation_bits=8, bytes=4, sqnr=20.0
    )
    made = {
        "recipe": recipe,
        "evaluated": 10,
        "total": 10,
        "accuracy": estimate(accuracy),
        "drop": estimate(0.01),
        "flips": Flips(lost=1, gained=0, n=10, p_value=1.0),
        "size": Estimate.exact(100.0, "B"),
        "latency": estimate(1e-3, "s", "measured"),
        "layers": (row,),
        "environment": {"processor": "this one"},
        "notes": ("something about this machine",),
    }
    return Report(**made | more)


STUDENT = Recipe(quantization=Quantization(weight_bits=4), distillation=Distillation(width=0.25, initial="model"))


@pytest.fixture
def frontier() -> Frontier:
    comparison = Comparison(
        student=estimate(0.88),
        control=estimate(0.87),
        difference=estimate(0.01),
        teacher=estimate(0.93),
        parameters=10,
        steps=5,
        seconds=41.5,
    )
    reports = (report(Recipe()), report(STUDENT, 0.88, distillation=comparison))
    return Frontier(model="m", weights="w", data="d", reports=tuple(map(imported, reports)))


def estimates(value: object) -> list[Estimate]:
    if isinstance(value, Estimate):
        return [value]
    parts = [each for _, each in value] if isinstance(value, Report | Comparison) else []
    return [found for part in parts for found in estimates(part)]


def test_imported_marks_every_estimate_and_leaves_the_machine_out(frontier: Frontier) -> None:
    for each in frontier.reports:
        assert {found.source for found in estimates(each)} == {"imported"}
        assert (each.latency, each.layers, each.notes, each.environment) == (None, (), (), {})
    assert len(estimates(frontier.reports[1])) == 7


def test_what_is_written_is_read(frontier: Frontier, tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.json"
    write(frontier, path)
    assert read(path) == frontier
    assert along(path, "w", "d") == frontier.reports
    assert not list(path.parent.glob("*.partial"))


def test_recipes_are_written_whole_so_that_later_defaults_change_nothing(frontier: Frontier, tmp_path: Path) -> None:
    write(frontier, tmp_path / "m.json")
    written = json.loads((tmp_path / "m.json").read_text())["reports"][1]["recipe"]
    assert written == STUDENT.model_dump(mode="json")
    assert {"loss", "temperature", "weight", "labels"} <= set(written["distillation"])


@pytest.mark.parametrize(("weights", "data"), [("other", "d"), ("w", "other")])
def test_another_model_or_other_data_shows_nothing(
    frontier: Frontier, tmp_path: Path, caplog: pytest.LogCaptureFixture, weights: str, data: str
) -> None:
    write(frontier, tmp_path / "m.json")
    with caplog.at_level(logging.WARNING):
        assert along(tmp_path / "m.json", weights, data) == ()
    assert "other weights" in caplog.text


def test_no_file_is_nothing_to_speak_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert along(None, "w", "d") == along(tmp_path / "m.json", "w", "d") == ()
    assert caplog.text == ""


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_told_and_shows_nothing(
    frontier: Frontier, tmp_path: Path, caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    path = tmp_path / "m.json"
    write(frontier, path)
    whole = path.read_bytes().rstrip()
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:at] + data.draw(st.sampled_from([b"", b"\xff" + whole[at:]])))
    caplog.clear()
    assert along(path, "w", "d") == ()
    assert str(path) in caplog.text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"imported"', '"measured"'),
        ('"evaluated":10', '"evaluated":9'),
        ('"weight_bits":4', '"weight_bits":99'),
        ('"version": 1', '"version": 2'),
        ('"flips"', '"flops"'),
    ],
)
def test_values_that_are_not_allowed_are_refused(frontier: Frontier, tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "m.json"
    write(frontier, path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(WorkbenchError, match=r"m\.json"):
        read(path)


def test_a_fingerprint_is_of_names_shapes_and_values() -> None:
    state = {"a": torch.arange(6.0), "b": torch.ones(2)}
    others = (
        {**state, "b": torch.tensor([1.0, 1.0 + 1e-7])},
        {"a": state["a"].reshape(2, 3), "b": state["b"]},
        {"c": state["a"], "b": state["b"]},
        {"a": state["a"]},
    )
    assert fingerprint(dict(state)) == fingerprint(state)
    assert len({fingerprint(each) for each in (state, *others)}) == 5


def test_the_zoo_brings_a_full_frontier_of_the_seed_network(bench: wb.Bench) -> None:
    reports = bench.frontier_reports()
    assert len({each.recipe for each in reports}) == len(reports) >= 60
    for each in reports:
        bench.check(each.recipe)
        assert each.complete and each.total == 10_000 and each.latency is None
    kinds = {(r.recipe.distillation is not None, r.recipe.quantization.active) for r in reports}
    assert kinds == {(False, False), (False, True), (True, False), (True, True)}
    assert bench.frontier_file.stat().st_size < 150_000
