"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from moeload_bench.results.tables import Table


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
