"""The trade-off as a plotly figure, for notebooks: zoom, hover, export.

Plotly takes more than a second to import and its figures 5 MB each, so the page draws its own; this
module is imported only by who asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from widgets.axes import logarithmic
from widgets.formatting import between, score, size, with_unit
from widgets.tradeoff import AGAINST, frontier
from workbench.errors import WorkbenchError
from workbench.report import MetricInfo, Report

if TYPE_CHECKING:
    from plotly.graph_objects import FigureWidget

CONFIG: dict[str, Any] = {"showSendToCloud": False, "plotlyServerURL": "", "displaylogo": False, "responsive": True}
"""Without it plotly offers to upload the figure to its cloud."""
SYMBOLS = {"measured": "circle", "simulated": "circle-dot", "predicted": "circle-open", "imported": "diamond-open"}
COLOURS = {"measured": "#00795A", "simulated": "#0072B2", "predicted": "#B86E00", "imported": "#5d6673"}
UNITS = {"size": (1e3, "kB"), "latency": (1e-3, "ms")}


def tradeoff_figure(reports: Sequence[Report], against: str = "size") -> FigureWidget:
    """Accuracy against size or latency, with intervals, origins and the frontier.

    Args:
        reports: Any number; those without the quantity are left out.
        against: ``"size"`` or ``"latency"``.

    Returns:
        A ``plotly.graph_objects.FigureWidget``, which JupyterLab and Voila show as it is.

    Raises:
        WorkbenchError: Something else is asked for.
    """
    import plotly.graph_objects as go

    kind = next((kind for kind in AGAINST if kind.key == against), None)
    if kind is None:
        raise WorkbenchError(f"against = {against!r}: allowed are {', '.join(repr(kind.key) for kind in AGAINST)}.")
    factor, unit = UNITS[kind.key]
    known = [(report, estimate.value / factor) for report in reports if (estimate := kind.estimate(report))]
    figure = go.FigureWidget()
    figure._config = figure._config | CONFIG
    line = frontier([report for report, _ in known], kind)
    place = {id(report): x for report, x in known}
    figure.add_scatter(
        x=[place[id(report)] for report in line],
        y=[_factor(report) * report.accuracy.value for report in line],
        mode="lines",
        name="frontier",
        line={"color": COLOURS["simulated"], "width": 1.5},
        opacity=0.5,
        hoverinfo="skip",
    )
    for origin in SYMBOLS:
        some = [(report, x) for report, x in known if report.accuracy.source == origin]
        if some:
            figure.add_scatter(**_points(some, origin))
    # plotly's own ticks of a log axis are bare digits between the powers of ten
    ticks = logarithmic([x for _, x in known]).ticks if known else ()
    metric = known[0][0].metric if known else MetricInfo()
    figure.update_layout(
        template="plotly_white",
        margin={"l": 56, "r": 16, "t": 16, "b": 48},
        legend={"orientation": "h", "y": 1.08},
        font={"family": "Inter, system-ui, sans-serif"},
        xaxis={"type": "log", "title": f"{kind.title}, {unit}", "tickvals": ticks},
        yaxis={
            "title": with_unit(metric.name, metric),
            "autorange": True if metric.higher_is_better else "reversed",  # the better end is up
        },
    )
    return figure


def _factor(report: Report) -> int:
    return 100 if report.metric.share else 1


def _points(some: list[tuple[Report, float]], origin: str) -> dict[str, Any]:
    accuracies = [report.accuracy for report, _ in some]
    factor = _factor(some[0][0])
    return {
        "x": [x for _, x in some],
        "y": [factor * accuracy.value for accuracy in accuracies],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [factor * (accuracy.high - accuracy.value) for accuracy in accuracies],
            "arrayminus": [factor * (accuracy.value - accuracy.low) for accuracy in accuracies],
            "thickness": 1,
            "width": 2,
        },
        "mode": "markers",
        "name": origin,
        "marker": {"size": 11, "symbol": SYMBOLS[origin], "color": COLOURS[origin]},
        "customdata": [report.recipe.key for report, _ in some],
        "text": [
            f"<b>{escape(report.recipe.label)}</b><br>{score(report.accuracy.value, report.metric)} "
            f"{between(*(score(end, report.metric).text for end in (report.accuracy.low, report.accuracy.high)))}<br>"
            f"{size(report.size.value)}"
            for report, _ in some
        ],
        "hovertemplate": "%{text}<extra>%{fullData.name}</extra>",
    }
