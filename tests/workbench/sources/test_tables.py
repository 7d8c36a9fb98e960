from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import Task, TaskError, WorkbenchError
from workbench.sources import base, table

FRAME = pd.DataFrame(
    {
        "height": [1.5, 1.25, 2.0, 1.0],
        "age": [3, 5, 8, 2],
        "tame": [True, False, True, True],
        "kind": ["dog", "cat", "dog", "ant"],
        "mass": [10.5, 4.25, 20.0, 0.5],
    }
)
NUMBERS = ["height", "age", "tame"]


def written(frame: pd.DataFrame, file: Path) -> Path:
    match file.suffix:
        case ".parquet" | ".pq":
            pytest.importorskip("pyarrow")
            frame.to_parquet(file)
        case ".tsv":
            frame.to_csv(file, index=False, sep="\t")
        case _:
            frame.to_csv(file, index=False)
    return file


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet", "a.pq", "A.CSV"])
def test_numbers_become_one_input(name: str, tmp_path: Path) -> None:
    found = table(written(FRAME, tmp_path / name), target="kind", columns=NUMBERS)
    np.testing.assert_array_equal(found.inputs.tensors[0].numpy(), FRAME[NUMBERS].to_numpy(np.float32))
    assert found.inputs.tensors[0].dtype == torch.float32
    assert found.classes == ("ant", "cat", "dog")
    assert found.targets.tolist() == [2, 1, 2, 0]


def test_targets_keep_their_kind(tmp_path: Path) -> None:
    file = written(FRAME.drop(columns="kind"), tmp_path / "a.csv")
    whole = table(file, target="age")
    assert (whole.targets.dtype, whole.classes, whole.targets.tolist()) == (torch.int64, (), [3, 5, 8, 2])
    assert whole.inputs.tensors[0].shape == (4, 3)
    real = table(file, target="mass")
    assert (real.targets.dtype, real.targets.tolist()) == (torch.float32, [10.5, 4.25, 20.0, 0.5])
    yes = table(file, target="tame")
    assert (yes.classes, yes.targets.tolist()) == (("False", "True"), [1, 0, 1, 1])
    assert table(file).targets is None
    assert len(Task.regression(real, calibration=real.inputs)) == 4


def test_categories_of_parquet_are_classes(tmp_path: Path) -> None:
    frame = FRAME.assign(kind=FRAME["kind"].astype("category"))
    found = table(written(frame, tmp_path / "a.parquet"), target="kind", columns=["age"])
    assert found.classes == ("ant", "cat", "dog")
    assert found.targets.tolist() == [2, 1, 2, 0]


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_floats_round_trip(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    floats = st.floats(-1e6, 1e6, width=32)
    rows = data.draw(st.lists(st.tuples(floats, floats), min_size=1, max_size=8))
    frame = pd.DataFrame(rows, columns=["a", "b"]).astype("float32")
    found = table(written(frame, tmp_path_factory.mktemp("t") / "a.csv"))
    np.testing.assert_array_equal(found.inputs.tensors[0].numpy(), frame.to_numpy())


def test_whole_numbers_that_float32_rounds_are_noted(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [2**24 + 1, 5], "x": [1, 2]})
    assert table(written(frame, tmp_path / "a.csv")).notes == (
        "column 'id' holds whole numbers above 16,777,216, which float32 rounds",
    )


MISSING = "a,b\n1,2\n,3\n4,\n5,\n"


@pytest.mark.parametrize(
    ("name", "content", "arguments", "words"),
    [
        ("a.csv", MISSING, {}, r"columns: 'a' has no value in 1 of 4 rows.*dropna"),
        ("a.csv", MISSING, {"columns": ["b"]}, r"'b' has no value in 2 of 4 rows"),
        ("a.csv", "a,b\n1,2\n3,\n", {"target": "b"}, r"'b' has no value in 1 of 2 rows"),
        (
            "a.csv",
            "a,b\n1,x\n2,3\n4,y y\n",
            {},
            r"'b' holds something else .* 2 of 3 rows, first in row 1 \('x'\)",
        ),
        ("a.csv", "a,day\n1,2024-01-01\n", {}, "'day' holds something else than numbers in 1 of 1 rows"),
        ("a.csv", "height,b\n1,2\n", {"columns": ["hieght"]}, "columns: .* no column 'hieght'. Did you mean 'height'"),
        ("a.csv", "height,b\n1,2\n", {"target": "c"}, "target: .* no column 'c'. Known: height, b"),
        ("a.csv", "a,b\n1,2\n", {"target": "b", "columns": ["a", "b"]}, "'b' is the target"),
        ("a.csv", "a\n1\n", {"target": "a"}, "no column besides the target"),
        ("a.csv", "a;b\n1;2\n3;4\n", {}, r"one column, 'a;b': its values seem .* semicolons, not by commas.*sep=';'"),
        ("a.csv", "a\tb\n1\t2\n", {}, "separated by tabs"),
        ("a.tsv", "a,b\n1,2\n", {}, "separated by commas, not by tabs"),
        ("a.csv", "1,2\n3,4\n", {}, "its first line should name the columns, but holds 1, 2"),
        ("a.csv", "a,b\n1,2\n1,2,3,4\n", {}, "cannot be read as a table .*Expected 2 fields in line 3, saw 4"),
        ("a.csv", "a,b\n1,2,3\n1,2,4\n", {}, "rows have more values than its first line has names, 2"),
        ("a.csv", "", {}, "cannot be read as a table .*No columns"),
        ("a.csv", "a,b\n", {}, "there are no rows in it"),
        ("a.csv", b"a,b\n1,\xff\xfe\n", {}, "in UTF-8"),
        ("a.csv", b"\x00\x01\x02PK", {}, "a.csv'"),
        ("a.parquet", b"PAR1 and then nothing", {}, "cannot be read as Parquet .*truncated"),
        ("a.parquet", b"", {}, "cannot be read as Parquet"),
        ("a.xlsx", "", {}, r"a table ends in one of \.csv, \.tsv, \.parquet, \.pq"),
        ("a.csv.gz", "", {}, "a table ends in one of"),
    ],
)
def test_bad_tables_are_named(
    name: str, content: str | bytes, arguments: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TaskError, match=words):
        table(tmp_path / name, **arguments)


def test_a_parquet_file_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    whole = written(FRAME, tmp_path / "a.parquet").read_bytes()
    for stop in range(0, len(whole), 97):
        (tmp_path / "cut.parquet").write_bytes(whole[:stop])
        with pytest.raises(TaskError, match="cannot be read as Parquet"):
            table(tmp_path / "cut.parquet", columns=["age"])


def test_a_missing_file_and_a_missing_package_are_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"nothing\.csv': there is no such file"):
        table(tmp_path / "nothing.csv")
    with pytest.raises(TaskError, match="there is no such file"):
        table("https://example.org/a.csv")
    with pytest.raises(WorkbenchError, match=r"Reading maps needs no_such_package, which .*; pip install maps"):
        base.optional("no_such_package.part", "Reading maps", "maps")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_tables_that_do_not_fit_are_refused_before_they_are_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame(np.random.default_rng(0).random((2000, 5)), columns=list("abcde"))
    file = written(frame, tmp_path / name)
    monkeypatch.setattr(base, "MEMORY", 40_000)
    monkeypatch.setattr(pd, "read_csv", None)
    monkeypatch.setattr(pd, "read_parquet", None)
    with pytest.raises(TaskError, match=r"table: .* examples take about .* the first \d+ rows"):
        table(file)
