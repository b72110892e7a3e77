"""Tables as HTML; whatever is in a cell is shown as text."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from moeload_bench.results.captions import DASH
from moeload_bench.results.tables import Table

NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def number(text: str) -> str:
    """Return a number as it is printed: with a minus sign, and a dash for nothing."""
    return NONE if text == DASH else text.replace("-", MINUS)


def html_table(table: Table, links: Mapping[str, str] | None = None) -> str:
    """Return a table with its caption above; names in ``links`` lead to these addresses."""
    label = escape(table.caption)
    heads = "".join(f'<th scope="col"{_kind(table, at)}>{escape(head)}</th>' for at, head in enumerate(table.heads))
    body = "\n".join(_row(table, at, links or {}) for at in range(len(table.rows)))
    return (
        f'<p class="under cap">{label}</p>\n<div class="scroll" tabindex="0" role="region" aria-label="{label}">\n'
        f'<table class="data" aria-label="{label}">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n'
        "</table>\n</div>"
    )


def _row(table: Table, at: int, links: Mapping[str, str]) -> str:
    name, *cells = table.rows[at]
    shown = f'<a href="{escape(links[name])}">{escape(name)}</a>' if name in links else escape(name)
    rest = "".join(
        f"<td{_kind(table, column)}>{escape(number(cell) if table.numeric(column) else cell)}</td>"
        for column, cell in enumerate(cells, start=1)
    )
    kind = ' class="floor"' if at in table.quiet else ""
    return f'<tr{kind}><th scope="row">{shown}</th>{rest}</tr>'


def _kind(table: Table, column: int) -> str:
    """Return the class of a column's cells: numbers, or text that stands behind them."""
    return ' class="n"' if table.numeric(column) else ' class="t"' if column >= table.numbers_to else ""
