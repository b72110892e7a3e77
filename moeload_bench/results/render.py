"""Tables of texts: what is in each cell, and the three ways to draw them: in a terminal, as Markdown, as HTML."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TypeVar

from rich import box
from rich.console import JustifyMethod
from rich.table import Table as Drawn
from rich.text import Text

from moeload_bench.results.formats import DASH

NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns. The caption says what a row is, what a column is, and which direction is better.

    Columns ``numbers_from`` up to ``numbers_to`` are numbers, the others text; the ``quiet`` rows, by number, are
    floors.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers_from: int = 1
    numbers_to: int = 99
    quiet: frozenset[int] = field(default_factory=frozenset)

    def numeric(self, column: int) -> bool:
        """Return whether a column is one of numbers, which stand at its right."""
        return self.numbers_from <= column < self.numbers_to


def table_of(
    caption: str, records: Iterable[T], columns: Mapping[str, Callable[[T], object]], numbers_to: int
) -> Table:
    """Make a table of a record per row, and a function of the record per column."""
    rows = tuple(tuple(str(cell(record)) for cell in columns.values()) for record in records)
    return Table(caption, tuple(columns), rows, numbers_to=numbers_to)


def plain_table(*heads: str, left: Collection[str] = (), fold: str = "") -> Drawn:
    """Return a table with little between its columns: what 80 columns have room for.

    Columns stand at the right, but for those of ``left`` and the one that may ``fold``.
    """
    table = Drawn(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False, pad_edge=False)
    for head in heads:
        justify: JustifyMethod = "left" if head == fold or head in left else "right"
        table.add_column(head, justify=justify, no_wrap=head != fold, overflow="fold" if head == fold else "ellipsis")
    return table


def draw_table(table: Table, title: str | None = None, most_name: int | None = None) -> Drawn:
    """Draw a table: with a title in full, its caption below and a line where the first column changes; else plainly.

    A plain table folds names of more than ``most_name`` columns.
    """
    out = plain_table() if title is None else Drawn(title=title, caption=Text(table.caption), caption_justify="left")
    for column, head in enumerate(table.heads):
        name = column == 0 and title is None
        out.add_column(
            head,
            justify="right" if table.numeric(column) else "left",
            no_wrap=title is None and not name,
            max_width=most_name if name else None,
            overflow="fold" if name else "ellipsis",
        )
    for number, row in enumerate(table.rows):
        if title is not None and number and row[0] != table.rows[number - 1][0]:
            out.add_section()
        out.add_row(*row, style="dim" if number in table.quiet else None)
    return out


def markdown_table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; bars inside cells are escaped."""
    if not rows:
        return "None yet."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def captioned(table: Table) -> str:
    """Return a table whose numbers stand at the right, and its caption below."""
    marks = ("---:" if table.numeric(column) else "---" for column in range(len(table.heads)))
    lines = ["| " + " | ".join(row) + " |" for row in (table.heads, *table.rows)]
    return "\n".join([lines[0], "|" + "|".join(marks) + "|", *lines[1:], "", table.caption, ""])


def number(text: str) -> str:
    """Return a number as it is printed: with a minus sign, and a dash for nothing."""
    return NONE if text == DASH else text.replace("-", MINUS)


def html_table(table: Table, links: Mapping[str, str] | None = None) -> str:
    """Return a table with its caption above; names in ``links`` lead to these addresses."""
    label = escape(table.caption)
    heads = "".join(f'<th scope="col"{_kind(table, i)}>{escape(head)}</th>' for i, head in enumerate(table.heads))
    body = "\n".join(_row(table, row, links or {}) for row in range(len(table.rows)))
    return (
        f'<p class="under cap">{label}</p>\n<div class="scroll" tabindex="0" role="region" aria-label="{label}">\n'
        f'<table class="data" aria-label="{label}">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n'
        "</table>\n</div>"
    )


def _row(table: Table, row: int, links: Mapping[str, str]) -> str:
    name, *cells = table.rows[row]
    shown = f'<a href="{escape(links[name])}">{escape(name)}</a>' if name in links else escape(name)
    rest = "".join(
        f"<td{_kind(table, column)}>{escape(number(cell) if table.numeric(column) else cell)}</td>"
        for column, cell in enumerate(cells, start=1)
    )
    kind = ' class="floor"' if row in table.quiet else ""
    return f'<tr{kind}><th scope="row">{shown}</th>{rest}</tr>'


def _kind(table: Table, column: int) -> str:
    """Return the class of a column's cells: numbers, or text that stands behind them."""
    return ' class="n"' if table.numeric(column) else ' class="t"' if column >= table.numbers_to else ""
