"""Tables in CSV and Parquet files, of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import TaskError, nearest
from workbench.inputs import Inputs
from workbench.sources.base import Examples, check_memory, optional
from workbench.sources.targets import named_classes

SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet", ".pq")
EXACT = 2**24
"""Whole numbers up to here are exact in float32."""


def table(path: str | Path, *, target: str | None = None, columns: Sequence[str] | None = None) -> Examples:
    """Read a table whose first line names the columns.

    Args:
        path: A file that ends in .csv (comma), .tsv (tab), .parquet or .pq.
        target: The column of what is right. Whole numbers are class indices, texts and booleans names of
            classes (numbered in sorted order), other numbers stay numbers.
        columns: The columns of numbers that are inputs; all but the target's where they are not given.

    Returns:
        Inputs of shape (n, columns), float32; targets, shape (n,), int64 or float32.

    Raises:
        TaskError: No such file, a damaged one or one of another kind; a column that is not there, has no
            values in some rows, or holds text.
        WorkbenchError: pandas is not installed, or pyarrow for Parquet.
    """
    file = Path(path)
    ending = file.suffix.lower()
    if ending not in (*SEPARATORS, *PARQUET):
        known = ", ".join((*SEPARATORS, *PARQUET))
        raise TaskError(f"{str(file)!r}: a table ends in one of {known}.")
    if not file.is_file():
        raise TaskError(f"{str(file)!r}: there is no such file.")
    pandas = optional("pandas", "Reading tables", "pandas")
    read = _parquet(pandas, file) if ending in PARQUET else _csv(pandas, file, SEPARATORS[ending])
    names = [str(name) for name in read.columns]
    read.columns = names
    if not len(read):
        raise TaskError(f"{str(file)!r}: there are no rows in it.")
    chosen = [name for name in names if name != target] if columns is None else [str(name) for name in columns]
    for what, name in [("columns", name) for name in chosen] + ([("target", target)] if target is not None else []):
        if name not in names:
            raise TaskError(f"{what}: {str(file)!r} has no column {name!r}. {nearest(str(name), names)}")
    if target in chosen:
        raise TaskError(f"columns: {target!r} is the target; a model that sees it has nothing to predict.")
    if not chosen:
        raise TaskError(f"columns: {str(file)!r} has no column besides the target.")
    check_memory("table", len(read), len(read) * len(chosen) * 4, "the first {n} rows")
    inputs = torch.empty(len(read), len(chosen))
    notes = []
    for place, name in enumerate(chosen):
        values = _numbers(pandas, read[name], name)
        inputs[:, place] = torch.from_numpy(values.to_numpy("float64", copy=True))
        if pandas.api.types.is_integer_dtype(values.dtype) and int(values.abs().max()) > EXACT:
            notes.append(f"column {name!r} holds whole numbers above {EXACT:,}, which float32 rounds")
    targets, classes = (None, ()) if target is None else _target(pandas, read[target], target)
    return Examples(Inputs(inputs), targets, classes, tuple(notes))


def _csv(pandas: Any, file: Path, separator: str) -> Any:
    try:
        with file.open("rb") as opened:
            head = opened.read(2**16)
            lines, values = head.count(b"\n") + 1, head.count(separator.encode()) + head.count(b"\n") + 1
            share = file.stat().st_size / max(1, len(head))
            check_memory("table", lines * share, values * 8 * share, "the first {n} rows")
            opened.seek(0)
            read = pandas.read_csv(opened, sep=separator, compression=None)
    except TaskError:
        raise
    except (ValueError, OSError, pandas.errors.ParserError) as error:  # wrong encodings are ValueErrors
        text = str(error).strip().partition("\n")[0]
        raise TaskError(
            f"{str(file)!r} cannot be read as a table whose values are separated by {_named(separator)}, "
            f"in UTF-8 ({text})."
        ) from error
    names = [str(name) for name in read.columns]
    if not isinstance(read.index, pandas.RangeIndex):
        raise TaskError(f"{str(file)!r}: its rows have more values than its first line has names, {len(names)}.")
    other = next((each for each in (";", "\t", "|", ",") if len(names) == 1 and each in names[0]), None)
    if other:
        raise TaskError(
            f"{str(file)!r} has one column, {names[0][:60]!r}: its values seem to be separated by {_named(other)}, "
            f"not by {_named(separator)}. Write it anew: "
            f"pandas.read_csv(path, sep={other!r}).to_csv(path, index=False)."
        )
    if all(_is_number(name) for name in names):
        raise TaskError(f"{str(file)!r}: its first line should name the columns, but holds {', '.join(names[:5])}.")
    return read


def _parquet(pandas: Any, file: Path) -> Any:
    parquet = optional("pyarrow.parquet", "Reading Parquet", "pyarrow")
    try:
        with file.open("rb") as opened:
            described = parquet.ParquetFile(opened).metadata
            groups = (described.row_group(index) for index in range(described.num_row_groups))
            size = max(described.num_rows * described.num_columns * 8, sum(group.total_byte_size for group in groups))
            check_memory("table", described.num_rows, size, "the first {n} rows")
            opened.seek(0)
            return pandas.read_parquet(opened, engine="pyarrow")
    except TaskError:
        raise
    except Exception as error:  # pyarrow has many kinds of errors for damaged files
        text = str(error).strip().partition("\n")[0]
        raise TaskError(f"{str(file)!r} cannot be read as Parquet ({text}); it may be truncated.") from error


def _numbers(pandas: Any, column: Any, name: str) -> Any:
    """The column if it holds a number in every row."""
    rows = len(column)
    missing = int(column.isna().sum())
    if pandas.api.types.is_bool_dtype(column.dtype) or pandas.api.types.is_numeric_dtype(column.dtype):
        if missing:
            raise _missing(name, missing, rows)
        return column
    as_numbers = pandas.to_numeric(column.astype("string"), errors="coerce")
    wrong = as_numbers.isna() & column.notna()
    if not wrong.any() and missing:
        raise _missing(name, missing, rows)
    if not wrong.any() and not pandas.api.types.is_datetime64_any_dtype(column.dtype):
        return as_numbers
    first = int(wrong.to_numpy().argmax())
    raise TaskError(
        f"columns: {name!r} holds something else than numbers in {int(wrong.sum()):,} of {rows:,} rows, first in row "
        f"{first + 1:,} ({str(column.iloc[first])[:40]!r}). Leave it out with `columns`, or make it numbers before: "
        "pandas.get_dummies turns categories into columns."
    )


def _target(pandas: Any, column: Any, name: str) -> tuple[Tensor, tuple[str, ...]]:
    missing = int(column.isna().sum())
    if missing:
        raise _missing(name, missing, len(column))
    types = pandas.api.types
    if types.is_integer_dtype(column.dtype):
        return torch.from_numpy(column.to_numpy("int64", copy=True)), ()
    if types.is_float_dtype(column.dtype):
        return torch.from_numpy(column.to_numpy("float32", copy=True)), ()
    return named_classes(column.tolist())


def _missing(name: str, missing: int, rows: int) -> TaskError:
    return TaskError(
        f"columns: {name!r} has no value in {missing:,} of {rows:,} rows. Leave these rows out "
        "(pandas.DataFrame.dropna), fill them in (fillna), or leave out the column with `columns`."
    )


def _named(separator: str) -> str:
    return {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}[separator]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
