"""Reports on disk: ask twice, computed once, also from two processes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import ValidationError

from workbench.errors import RecipeError, StoreError
from workbench.report import Report

SCHEMA = """
CREATE TABLE IF NOT EXISTS reports (
    recipe TEXT NOT NULL, model TEXT NOT NULL, data TEXT NOT NULL, environment TEXT NOT NULL,
    created REAL NOT NULL, label TEXT NOT NULL, report TEXT NOT NULL,
    PRIMARY KEY (recipe, model, data, environment)
) WITHOUT ROWID
"""
WAIT_SECONDS = 5.0


def default_folder() -> Path:
    """Where reports and trained students are kept: ``$WORKBENCH_STORE`` or the user's data folder."""
    named = os.environ.get("WORKBENCH_STORE")
    return Path(named) if named else platformdirs.user_data_path("acceleration-workbench", appauthor=False)


class Store:
    """A folder with ``reports.sqlite`` (write-ahead log, one short transaction a report) and ``students/``.

    A store that cannot be opened or written loses nothing that is on the screen: reports stay in
    memory and `problem` says why.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        """
        Args:
            folder: Made where it is missing; None for `default_folder`.
        """
        self.folder = Path(folder) if folder is not None else default_folder()
        self.problem: str = ""
        """Why nothing can be kept on disk, in words; empty while all is well."""
        self._memory: dict[tuple[str, str, str, str], Report] = {}
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        try:
            with self._lock, self._transaction():
                pass
        except StoreError as error:
            self.problem = str(error)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._connection is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                connection = sqlite3.connect(
                    self.folder / "reports.sqlite", timeout=WAIT_SECONDS, check_same_thread=False
                )
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(SCHEMA)
                self._connection = connection
            with self._connection:
                yield self._connection
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"The store in {self.folder} cannot be used ({error}). Reports are kept in memory until the end; "
                "free some space or name another folder in WORKBENCH_STORE."
            ) from error

    def get(self, recipe: str, model: str, data: str, environment: str) -> Report | None:
        """The report that was kept under these four hashes, or None."""
        key = (recipe, model, data, environment)
        with self._lock:
            if key in self._memory:
                return self._memory[key]
            try:
                with self._transaction() as connection:
                    row = connection.execute(
                        "SELECT report FROM reports WHERE recipe=? AND model=? AND data=? AND environment=?", key
                    ).fetchone()
            except StoreError as error:
                self.problem = str(error)
                return None
            if row is None:
                return None
            try:
                report = Report.model_validate_json(row[0])
            except (ValidationError, RecipeError):  # written by another version, or altered: measure again
                return None
            self._memory[key] = report
            return report

    def put(self, report: Report, model: str, data: str, environment: str) -> None:
        """Keep a report; on a disk that is full or read-only, in memory alone (`problem` says so)."""
        key = (report.recipe.key, model, data, environment)
        with self._lock:
            self._memory[key] = report
            try:
                with self._transaction() as connection:
                    connection.execute(
                        "INSERT OR REPLACE INTO reports VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (*key, time.time(), report.recipe.label, report.model_dump_json()),
                    )
                self.problem = ""
            except StoreError as error:
                self.problem = str(error)

    def rows(self, model: str | None = None) -> list[dict[str, Any]]:
        """Everything kept on disk, newest first, one dict per report (`pandas.DataFrame(store.rows())`).

        Args:
            model: Only reports of the model with this hash.

        Raises:
            StoreError: The store cannot be read.
        """
        with self._lock, self._transaction() as connection:
            found = connection.execute(
                "SELECT created, label, model, report FROM reports "
                "WHERE ?1 IS NULL OR model = ?1 ORDER BY created DESC",
                (model,),
            ).fetchall()
        rows = []
        for created, label, of, text in found:
            report = Report.model_validate_json(text)
            row = {"created": created, "label": label, "model": of, "recipe": report.recipe.to_json()}
            for name in ("accuracy", "drop", "size", "latency", "speedup"):
                estimate = getattr(report, name)
                for part in ("value", "low", "high"):
                    row[f"{name}_{part}"] = getattr(estimate, part) if estimate else None
            rows.append({**row, "lost": report.flips.lost, "gained": report.flips.gained, "n": report.evaluated})
        return rows

    def close(self) -> None:
        """Release the file; the store opens it again when it is next used."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
