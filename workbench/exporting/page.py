"""The report of an exported model as one file of HTML: no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from workbench.exporting.agreement import Agreement
from workbench.report import LayerRow, Report

MARKS = {"measured": "●", "simulated": "◐", "predicted": "○", "imported": "◇", "counted": "●"}

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --line: #dde1e7; --ink: #1d2430; --quiet: #5b6675;
  --measured: #00714f; --simulated: #005f99; --predicted: #a04a00; --bar: #9cc5e3; }
@media (prefers-color-scheme: dark) { :root { --page: #14181e; --card: #1c222a; --line: #333c48; --ink: #e6eaf0;
  --quiet: #a3aebc; --measured: #4cc79c; --simulated: #6cb8ec; --predicted: #f0a35e; --bar: #2f5f80; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 14px/1.5 Inter, system-ui, sans-serif; font-variant-numeric: tabular-nums }
main { max-width: 920px; margin: 0 auto; padding: 24px 16px; display: grid; gap: 14px }
h1 { font-size: 20px; margin: 0 } h2 { font-size: 14px; margin: 0 0 8px } p { margin: 0 } .quiet { color: var(--quiet) }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px;
  overflow-x: auto }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px }
.tiles b { display: block; font-size: 20px; font-weight: 600 }
table { border-collapse: collapse; width: 100% } th { text-align: left; font-weight: 500; color: var(--quiet) }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); white-space: nowrap }
tr:last-child > * { border-bottom: 0 } .number { text-align: right }
.bar { width: 30%; min-width: 90px } .bar i { display: block; height: 8px; border-radius: 4px; background: var(--bar) }
.measured, .counted, .imported { color: var(--measured) } .simulated { color: var(--simulated) }
.predicted { color: var(--predicted) }
ul { margin: 0; padding-left: 18px } code { font-size: 12px; overflow-wrap: anywhere }
"""


def page(name: str, report: Report, agreement: Agreement) -> str:
    """The text of the file.

    Args:
        name: Of the model.
        report: Of the recipe.
        agreement: Of what was written with the simulation.
    """
    title = escape(f"{name}: {report.recipe.label}")
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{STYLE}</style></head><body><main>",
            f"<header><h1>{title}</h1>",
            f'<p class="quiet">{report.evaluated:,} of {report.total:,} examples</p></header>',
            f'<div class="tiles">{"".join(_tiles(report))}</div>',
            *_verdict(report),
            _section("What was written, against the simulation", f"<p>{escape(agreement.sentence)}</p>"),
            _section("Layers", _layers(report.layers)) if report.layers else "",
            _section("To know", _listed(report.remarks)) if report.remarks else "",
            _section("Measured with", _environment(report)),
            _section("Recipe", f"<code>{escape(report.recipe.to_json())}</code>"),
            "</main></body></html>\n",
        )
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _tiles(report: Report) -> Iterator[str]:
    for name, said, source in report.said():
        value, _, within = said.replace("-", "−").partition(" (")
        doubt = f'<span class="quiet">{escape(within.rstrip(")"))}</span><br>' if within else ""
        origin = f'<span class="{escape(source)}">{MARKS.get(source, "")} {escape(source)}</span>'
        yield f'<section><span class="quiet">{escape(name)}</span><b>{escape(value)}</b>{doubt}{origin}</section>'


def _verdict(report: Report) -> Iterator[str]:
    if report.advice is not None:
        told = (report.advice.verdict, report.advice.reason, report.advice.suggestion)
        yield _section("What that means", "".join(f"<p>{escape(text)}</p>" for text in told if text))


def _layers(rows: tuple[LayerRow, ...]) -> str:
    largest = max((row.bytes for row in rows), default=0) or 1
    head = ("layer", "kind", "weights", "input", "SQNR", "bytes")
    cells = "".join(f"<th{_number(at)}>{text}</th>" for at, text in enumerate(head))
    body = "".join(f"<tr>{_cells(row, largest)}</tr>" for row in rows)
    return f"<table><tr>{cells}<th></th></tr>{body}</table>"


def _cells(row: LayerRow, largest: int) -> str:
    bits = (f"{each} bit" if each else "fp32" for each in (row.weight_bits, row.activation_bits))
    sqnr = "" if row.sqnr is None else f"{row.sqnr:.1f} dB"
    told = (row.name, row.kind, *bits, sqnr, f"{row.bytes:,}")
    cells = "".join(f"<td{_number(at)}>{escape(text)}</td>" for at, text in enumerate(told))
    return f'{cells}<td class="bar"><i style="width:{100 * row.bytes / largest:.1f}%"></i></td>'


def _number(at: int) -> str:
    return ' class="number"' if at >= 2 else ""


def _listed(texts: tuple[str, ...]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def _environment(report: Report) -> str:
    told = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in report.environment.items())
    return f"<table>{told}</table>"
