"""What a student answers where its teacher answers what: a cell for each pair of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from widgets.formatting import between, count, percent

if TYPE_CHECKING:
    from workbench.levers.teaching import AgreementMatrix
    from workbench.report import Estimate

MOST_CLASSES = 12
"""A matrix of more classes is not legible: only the pairs that are confused most are shown."""
PAIRS = 6


def matrix_view(found: AgreementMatrix) -> dict[str, Any]:
    """The picture of an `AgreementMatrix`.

    On the diagonal a cell's shade is its share of its row: how often the student answers as the teacher does. Beside
    it, its share of the most frequent difference.
    """
    classes, counts = found.classes, found.counts
    pairs = sorted(
        ((n, row, column) for row, line in enumerate(counts) for column, n in enumerate(line) if n and row != column),
        reverse=True,
    )
    whole = len(classes) <= MOST_CLASSES
    worst = pairs[0][0] if pairs else 1
    return {
        "said": _said(found.agreement),
        "classes": list(classes) if whole else [],
        "rows": [_row(classes, row, line, worst) for row, line in enumerate(counts)] if whole else [],
        "pairs": [
            {"teacher": classes[row], "student": classes[column], "row": row, "column": column, "text": count(n)}
            for n, row, column in pairs[:PAIRS]
        ],
    }


def _said(agreement: Estimate) -> str:
    interval = between(percent(agreement.low).text, percent(agreement.high).text)
    return f"They agree on {percent(agreement.value)} {interval} of the test data."


def _row(classes: tuple[str, ...], row: int, line: tuple[int, ...], worst: int) -> dict[str, Any]:
    total = max(1, sum(line))
    return {
        "name": classes[row],
        "cells": [
            {
                "key": column,
                "text": count(n) if n else "",
                "shade": round(n / total if row == column else n / worst, 4),
                "same": row == column,
                "spoken": f"teacher {classes[row]}, student {classes[column]}: {count(n)}",
            }
            for column, n in enumerate(line)
        ],
    }
