from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from workbench import Quantization, Recipe
from workbench.report import Estimate, Flips, Report
from workbench.store import Store, default_folder

KEYS = ("model", "data", "environment")


def report(bits: int = 4) -> Report:
    one = Estimate.exact(0.5, "")
    return Report(
        recipe=Recipe(quantization=Quantization(weight_bits=bits, layers={"fc2": {"weight_bits": None}})),
        evaluated=10,
        total=10,
        accuracy=one,
        drop=one,
        flips=Flips(lost=1, gained=2, n=10, p_value=1),
        size=Estimate.exact(10, "B"),
    )


def get(store: Store, r: Report) -> Report | None:
    return store.get(r.recipe.key, *KEYS)


def test_what_is_put_comes_back_in_another_store_on_the_folder(tmp_path: Path) -> None:
    Store(tmp_path).put(report(), *KEYS)
    assert get(Store(tmp_path), report()) == report()
    assert Store(tmp_path).get(report().recipe.key, "other model", "data", "environment") is None


def _fill(folder: Path, start: int) -> None:
    store = Store(folder)
    for index in range(start, start + 40):
        store.put(report(), f"model {index}", "data", "environment")
    assert not store.problem


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fill, args=(tmp_path, start)) for start in (0, 1000)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(Store(tmp_path).rows()) == 80


def test_a_full_disk_keeps_the_report_in_memory_and_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(report(4), *KEYS)
    with store._transaction() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")
    for index in range(200):
        store.put(report(5), f"model {index}", "data", "environment")
    assert "full" in store.problem
    assert "WORKBENCH_STORE" in store.problem
    assert store.get(report(5).recipe.key, "model 199", "data", "environment") == report(5)
    assert get(Store(tmp_path), report(4)) == report(4)


def test_a_read_only_store_still_reads(tmp_path: Path) -> None:
    Store(tmp_path).put(report(4), *KEYS)
    store = Store(tmp_path)
    with store._transaction() as connection:
        connection.execute("PRAGMA query_only=ON")
    store.put(report(5), *KEYS)
    assert "readonly" in store.problem
    assert get(store, report(4)) == report(4)
    assert get(store, report(5)) == report(5)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = Store(tmp_path / "file" / "store")
    assert "cannot be used" in store.problem
    store.put(report(), *KEYS)
    assert get(store, report()) == report()


@pytest.mark.parametrize("text", ["", "{}", '{"recipe": 1}', "\x00"])
def test_an_altered_row_is_measured_again(tmp_path: Path, text: str) -> None:
    Store(tmp_path).put(report(), *KEYS)
    with sqlite3.connect(tmp_path / "reports.sqlite") as connection:
        connection.execute("UPDATE reports SET report = ?", (text,))
    assert get(Store(tmp_path), report()) is None


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "reports.sqlite").write_bytes(b"this is no database " * 100)
    store = Store(tmp_path)
    assert "not a database" in store.problem
    store.put(report(), *KEYS)
    assert get(store, report()) == report()


def test_rows_are_flat(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(report(), *KEYS)
    (row,) = store.rows()
    assert row["accuracy_value"] == 0.5
    assert row["latency_value"] is None
    assert Recipe.from_json(row["recipe"]) == report().recipe
    assert store.rows(model="another") == []


def test_the_folder_can_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORKBENCH_STORE", str(tmp_path))
    assert default_folder() == tmp_path
