"""The recipes tried so far as a table, as code and as CSV, and the current one as a file."""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from widgets.formatting import NOTHING, change, count, figures, score, title, with_unit
from widgets.naming import names_of
from widgets.part import Message, Part, source, text_of
from workbench.recipe import Recipe
from workbench.report import MetricInfo, Report

COLUMNS = ("accuracy", "low", "high", "drop", "bytes", "seconds", "lost", "won", "source", "recipe")


def tried_view(tried: Sequence[Report], recipe: Recipe) -> dict[str, Any]:
    """The picture of the tried recipes, the latest on top and the baseline at the foot."""
    names = names_of([report.recipe for report in tried])
    rows = [
        {
            "key": report.recipe.key,
            "name": names[report.recipe.key],
            "origin": report.accuracy.source,
            "accuracy": score(report.accuracy.value, report.metric).text,
            "drop": change(report.drop.value, report.metric) if index else "",
            "sure": not report.drop.includes(0),
            "kilobytes": figures(report.size.value / 1e3),
            "milliseconds": figures(report.latency.value * 1e3) if report.latency else NOTHING,
            "flips": count(report.flips.total) if index else "",
            "now": report.recipe.key == recipe.key,
        }
        for index, report in enumerate(tried)
    ]
    total = f"{count(len(tried))} recipe{'' if len(tried) == 1 else 's'}" if tried else ""
    metric = tried[0].metric if tried else MetricInfo()
    short = "Acc." if metric.name == "accuracy" else title(metric)
    heads = {
        "accuracy": with_unit(short, metric),
        "drop": "Drop" if metric.higher_is_better else "Change",
        "flips": "Flips" if metric.counted else "Changed",
    }
    return {"rows": rows[::-1], "heads": heads, "remark": total, "code": recipe.code(), "csv": as_csv(tried)}


def as_csv(tried: Sequence[Report]) -> str:
    """The tried recipes in SI units and fractions, one a line, the recipe as JSON in the last column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *COLUMNS])
    for r in tried:
        latency = r.latency.value if r.latency else ""
        numbers = (
            r.accuracy.value,
            r.accuracy.low,
            r.accuracy.high,
            r.drop.value,
            r.size.value,
            latency,
            r.flips.lost,
            r.flips.gained,
        )
        writer.writerow([r.recipe.label, *numbers, r.accuracy.source, r.recipe.to_json()])
    return text.getvalue()


class Tried(Part):
    """A table of what was tried; a row that is clicked becomes the recipe again."""

    _esm = source("tried.js")
    watches: ClassVar[tuple[str, ...]] = ("tried", "recipe")

    def draw(self) -> dict[str, Any]:
        """The table for this model."""
        return tried_view(self.session.tried, self.session.recipe)

    def actions(self) -> dict[str, Any]:
        """``restore``: the recipe with that ``key``; ``export``: the file of the recipe on the screen."""
        return {"restore": self._restore, "export": self._export}

    def _restore(self, message: Message) -> None:
        self.session.restore(text_of(message, "key"))

    def _export(self, _: Message) -> None:
        bench, recipe = self.session.bench, self.session.recipe
        name = re.sub(r"[^\w.×-]+", "-", f"{bench.name} {recipe.label}")
        with tempfile.TemporaryDirectory() as folder:
            path = bench.export(recipe, Path(folder) / "model.safetensors")
            self.send({"file": f"{name}.safetensors"}, buffers=[path.read_bytes()])
