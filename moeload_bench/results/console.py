"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from rich import box
from rich.console import JustifyMethod
from rich.table import Table as Drawn
from rich.text import Text

if TYPE_CHECKING:
    from moeload_bench.results.tables import Table  # brings suites and results, which `traces list` has no use for


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
