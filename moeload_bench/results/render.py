"""Result tables as text: for a terminal (rich), for Markdown, and the cells that both share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from moeload_bench.results.grid import FLOOR_ROWS, NOTHING, Grid, Row, result_grid
from moeload_bench.results.record import Results
from moeload_bench.results.words import table_caption
from moeload_bench.scoring.catalogue import ratio_metric
from moeload_bench.suites.suite import CROSSING, STATES

COST_HEADINGS = ("ms", "% train")


def three_digits(value: float | None) -> str:
    """Three significant digits, "-" for nothing."""
    return NOTHING if value is None else f"{value:.3g}"


def result_table(results: Results, metric: str) -> Table | None:
    """`result_grid` drawn for a terminal."""
    grid = result_grid(results, metric)
    if grid is None:
        return None
    table = Table(
        title=f"{metric}, suite {results[0].suite.name}", caption=Text(table_caption(grid)), caption_justify="left"
    )
    for heading in ("state", "forecaster"):
        table.add_column(heading)
    for horizon in grid.horizons:
        table.add_column(f"h={horizon}", justify="right")
    for heading in ("skill", *COST_HEADINGS):
        table.add_column(heading, justify="right")
    for state in (*STATES, CROSSING):
        for row in (row for row in grid.rows if row.state == state):
            table.add_row(state, row.forecaster, *error_cells(row), row.skill, *cost_cells(row))
        for floor in FLOOR_ROWS:
            if (state, floor) in grid.floors:
                table.add_row(
                    state, marked_floor(floor, grid.marks), *map(three_digits, grid.floors[state, floor]), style="dim"
                )
        table.add_section()
    return table


def plain_table() -> Table:
    """A table with little between its columns: what 80 columns have room for."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False, pad_edge=False)


def marked_floor(floor: str, marks: Mapping[str, str]) -> str:
    """A floor's name, with how far it can be trusted where it is not exact."""
    mark = marks.get(floor, "exact")
    return floor if mark == "exact" else f"{floor} ({mark})"


def error_cells(row: Row) -> list[str]:
    """`error (excess)` at each horizon; only the error where there is no floor."""
    if not row.excess_K:
        return [three_digits(value) for value in row.value_K]
    return [
        f"{three_digits(value)} ({three_digits(over)})" for value, over in zip(row.value_K, row.excess_K, strict=True)
    ]


def imbalance_percent(row: Row) -> str:
    """Imbalance of a forecaster's plans against that of the reference's, in percent, from a row of a metric of plans.

    Skill is a ratio of imbalances, near 0 by nature: this says how much it is.
    """
    return NOTHING if row.skill_value is None else f"{-100 * row.skill_value + 0.0:+.1f}"


def cost_cells(row: Row) -> list[str]:
    """Time per answered origin, observing included, and as a share of the recorded training time."""
    return [
        three_digits(1e3 * row.per_forecast_s),
        three_digits(None if row.of_training is None else 100 * row.of_training),
    ]


def to_markdown(grid: Grid) -> str:
    """A result table as Markdown, its caption below; what forecasters cost is in a table of its own."""
    of_plans = "@" in grid.metric and ratio_metric(grid.metric) is not None
    heads = ["state", "forecaster", *(f"h = {h}" for h in grid.horizons), "skill"] + ["imbalance, %"] * of_plans
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * 2 + "---:|" * (len(heads) - 2)]
    for state in (*STATES, CROSSING):
        for row in (row for row in grid.rows if row.state == state):
            cells = [state, f"`{row.forecaster}`", *error_cells(row), row.skill] + [imbalance_percent(row)] * of_plans
            lines.append("| " + " | ".join(cells) + " |")
        for floor in FLOOR_ROWS:
            if (state, floor) in grid.floors:
                floor_K = map(three_digits, grid.floors[state, floor])
                lines.append("| " + " | ".join([state, f"*{marked_floor(floor, grid.marks)}*", *floor_K, ""]) + " |")
    below = "\n".join(line for line in table_caption(grid).split("\n") if not line.startswith("ms:"))
    if of_plans:
        below += "\nimbalance, %: of the plans, against that of the reference's plans; less is better."
    return "\n".join([*lines, "", below, ""])


def markdown_table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    if not rows:
        return "None yet."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
