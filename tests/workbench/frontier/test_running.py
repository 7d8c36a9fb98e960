from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

import workbench as wb
from workbench import Distillation, Finetuning, Quantization, Recipe, WorkbenchError
from workbench.frontier import running
from workbench.frontier.programme import programme
from workbench.frontier.shipped import Frontier, imported, read, write
from workbench.store import Store

PLAIN = [Recipe(quantization=Quantization(weight_bits=bits)) for bits in range(2, 9)]
STUDENTS = [recipe.replace(distillation=Distillation(seed=seed)) for seed in (0, 1) for recipe in PLAIN[:2]]


class Counted(Executor):
    """Runs at once in this thread; from a number of calls on, its workers are dead."""

    def __init__(self, calls: int = 99) -> None:
        self.left = calls
        self.pieces: list[list[Recipe]] = []

    def submit(self, function: Callable[..., Any], /, model: str, recipes: Sequence[str], store: str | None) -> Any:
        future: Future[Any] = Future()
        self.pieces.append([Recipe.from_json(text) for text in recipes])
        self.left -= 1
        if self.left < 0:
            future.set_exception(BrokenProcessPool("killed"))
        else:
            future.set_result(function(model, recipes, store))
        return future


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, bench: wb.Bench) -> None:
    """The baseline's numbers for every recipe: what is measured is not the point here."""
    whole = imported(bench.baseline)

    def fake(model: str, recipes: Sequence[str], store: str | None) -> list[str]:
        made = [whole.model_copy(update={"recipe": Recipe.from_json(text)}) for text in recipes]
        return [each.model_dump_json() for each in made]

    monkeypatch.setattr(running, "measured", fake)


def test_every_recipe_is_in_the_file_in_its_order(measured: None, bench: wb.Bench, tmp_path: Path) -> None:
    recipes = [*STUDENTS, *PLAIN]
    path = tmp_path / "f.json"
    with ThreadPoolExecutor(2) as workers:
        *_, last = running.run(bench, recipes, path, workers)
    assert (last.done, last.total) == (len(recipes), len(recipes))
    assert [report.recipe for report in read(path).reports] == recipes


def test_recipes_of_a_student_go_to_one_worker(measured: None, bench: wb.Bench, tmp_path: Path) -> None:
    workers = Counted()
    trained = [recipe.replace(finetuning=Finetuning()) for recipe in PLAIN[:3]]
    list(running.run(bench, [*PLAIN, *STUDENTS, *trained], tmp_path / "f.json", workers))
    together = [{recipe.distillation for recipe in piece} for piece in workers.pieces]
    assert all(len(each) == 1 for each in together)
    assert sum(each == {STUDENTS[0].distillation} for each in together) == 1
    assert [piece for piece in workers.pieces if piece[0].finetuning] == [trained]


def test_a_run_that_was_killed_goes_on(measured: None, bench: wb.Bench, tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    with pytest.raises(WorkbenchError, match=r"worker process died.*f\.json holds"):
        list(running.run(bench, [*PLAIN, *STUDENTS], path, Counted(2)))
    kept = [report.recipe for report in read(path).reports]
    assert 0 < len(kept) < len(PLAIN) + len(STUDENTS)
    second = Counted()
    first, *_, last = running.run(bench, [*PLAIN, *STUDENTS], path, second)
    assert first.done == len(kept) and last.done == last.total
    assert not {recipe for piece in second.pieces for recipe in piece} & set(kept)
    third = Counted()
    assert len(list(running.run(bench, [*PLAIN, *STUDENTS], path, third))) == 1 and not third.pieces


def test_the_file_of_another_model_is_left_alone(measured: None, bench: wb.Bench, tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    write(Frontier(model="other", weights="w", data="d"), path)
    before = path.read_bytes()
    with pytest.raises(WorkbenchError, match="other weights or data"):
        list(running.run(bench, PLAIN, path, Counted()))
    assert path.read_bytes() == before


def test_what_came_along_is_what_a_worker_measures_here(bench: wb.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_bench", lambda model, store: bench)
    recipe = Recipe(quantization=Quantization(weight_bits=6, activation_bits=8))
    [text] = running.measured("seed-cnn", [recipe.to_json()])
    here = wb.Report.model_validate(json.loads(text))
    there = next(report for report in bench.frontier_reports() if report.recipe == recipe)
    assert here.latency is None and here.accuracy.source == "imported"
    assert here.size.value == there.size.value
    assert abs(here.accuracy.value - there.accuracy.value) < 0.001  # kernels of other machines round otherwise


def test_a_programme_has_only_what_the_model_can_be_made_into(bench: wb.Bench) -> None:
    recipes = programme(bench)
    assert len(set(recipes)) == len(recipes) >= 60
    for recipe in recipes:
        bench.check(recipe)
    assert not any(r.distillation and r.distillation.form == "depth" for r in recipes)  # it has no block to leave out
    assert {r.finetuning for r in recipes} > {None}
    quick = programme(bench, quick=True)
    assert len(quick) < 10 and any(r.distillation for r in quick)


def test_a_model_without_training_data_has_no_students(tmp_path: Path) -> None:
    inputs = torch.randn(20, 4)
    task = wb.Task.classification(inputs, torch.arange(20) % 2, calibration=inputs, classes=2)
    recipes = programme(wb.Bench(nn.Linear(4, 2), task, store=Store(tmp_path)))
    assert recipes and all(r.distillation is None and r.finetuning is None for r in recipes)


STARTED = """
import os
from workbench.frontier.running import workers
if __name__ == "__main__":
    print(workers(1).submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_worker_ends_with_a_command_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "started.py"
    script.write_text(STARTED)
    told = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=False)
    assert told.returncode == -signal.SIGKILL
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(told.stdout)).wait(30)  # raises where it is still there
