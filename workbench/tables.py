"""Results as tables, in plain text and in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from html import escape

from workbench.report import Estimate, MetricInfo


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

    def _said(self) -> list[str]:
        """Sentences below."""
        return []


def interval(estimate: Estimate, metric: MetricInfo, of_a_share: str) -> str:
    """``1.25 points (1.02 … 1.48)``.

    Args:
        estimate: In the metric's unit.
        metric: What it is of.
        of_a_share: What a hundredth is called where the metric is a share: ``%`` or ``points``.
    """
    scale, unit = (100, of_a_share) if metric.share else (1, metric.unit)
    value, low, high = (f"{scale * each:.2f}" for each in (estimate.value, estimate.low, estimate.high))
    return f"{value} {unit} ({low} … {high})".replace("  ", " ")


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
