"""How times and factors are written where a person reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from html import escape

from workbench.report import Estimate

SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


class Tabular(ABC):
    """A result that prints as a table, in plain text and in a notebook."""

    def __str__(self) -> str:
        return "\n".join([self._headline(), *columns(*self._table()), *self._said()])

    def _repr_html_(self) -> str:
        return table(self._headline(), *self._table(), self._said())

    @abstractmethod
    def _headline(self) -> str:
        """What it is, in a line."""

    @abstractmethod
    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Heads of the columns, and the rows."""

    @abstractmethod
    def _said(self) -> list[str]:
        """Sentences below."""


def duration(estimate: Estimate, *, interval: bool = True) -> str:
    """``1.23 ms (1.20 … 1.31)``."""
    scale, unit = next(((s, u) for s, u in SCALES if abs(estimate.value) >= s), SCALES[-1])
    text = f"{_three(estimate.value / scale)} {unit}"
    if not interval or estimate.low == estimate.high:
        return text
    return f"{text} ({_three(estimate.low / scale)} … {_three(estimate.high / scale)})"


def factor(estimate: Estimate) -> str:
    """``1.85× (1.80 … 1.90)``, or ``1×`` where it is exact."""
    if estimate.low == estimate.high:
        return f"{estimate.value:.3g}×"
    return f"{_three(estimate.value)}× ({_three(estimate.low)} … {_three(estimate.high)})"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """A table in HTML; all texts are escaped."""
    top = "".join(f"<th style='text-align:left'>{escape(each)}</th>" for each in head)
    body = "".join(
        f"<tr>{''.join(f'<td style=text-align:left>{escape(each)}</td>' for each in row)}</tr>" for row in rows
    )
    said = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<table><caption>{escape(caption)}</caption><tr>{top}</tr>{body}</table>{said}"


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The same in plain text, a line a row."""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    return [
        "  " + "  ".join(each.ljust(width) for each, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def _three(value: float) -> str:
    """Three significant figures, zeros kept, and never a power of ten."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
