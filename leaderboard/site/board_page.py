"""What the page of a board shows: who forecasts best, by how much, on what, how sure; then the tables behind it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from leaderboard.boards import decision_board, quantile_board
from leaderboard.leading import lead_table, summary
from leaderboard.site.board import REGRET, Board, Cell
from leaderboard.site.forests import forest
from leaderboard.site.words import NOT_GIVEN, direction, interval_text, named, signed_skill
from moeload_bench.errors import counted
from moeload_bench.results.columns import floor_marks
from moeload_bench.results.formats import horizon_heads, marked_floor, three_digits
from moeload_bench.results.render import NONE, Table
from moeload_bench.results.results import Results
from moeload_bench.results.strata import run_groups
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.floors import FLOOR_NAMES
from moeload_bench.traces.meta import STRATA
from moeload_bench.words import listed

STANDINGS = ("forecaster", "skill", "95 %, a new recipe", "95 %, new seeds", "ranks", PRIMARY, REGRET, "ms", "type",
             "status")  # fmt: skip
SHADES = 4
"""How many shades a map of skill has on either side; the darkest begins below 1 / 2."""


class HeatRow(NamedTuple):
    """A row of a map: text and class of each cell."""

    name: str
    cells: list[tuple[str, str]]


def board_page(board: Board) -> dict[str, Any]:
    """Return what the template shows of a board."""
    return {
        "title": board.title,
        "about": board.about,
        "reach": board.reach,
        "score": board.score,
        "ask": plain(board.ask),
        "sentences": sentences(board),
        "numbers": numbers(board),
        "beside": boards_beside(board),
        "size": size(board),
        "batches": batches(),
        "reference": board.results.suite.reference,
        "panels": forest({cell.title: cell.of(board.summary) for cell in board.state_cells}, "forecaster"),
        "standings": [(cell.title, without_empty_columns(standings(board, cell))) for cell in board.cells],
        "horizons": [(cell.title, horizons(board, cell)) for cell in board.cells],
        "recipes": recipe_maps(board),
        "metrics": [(named(metric), by_metric(board, metric)) for metric in board.metrics],
    }


@lru_cache(maxsize=256)
def groups(board: Board) -> dict[str, Results]:
    """Return the results that are averaged, by a title; empty titles where there is one group."""
    parts = run_groups(board.results)
    return parts if len(parts) > 1 else {"": next(iter(parts.values()))}


def sentences(board: Board) -> list[str]:
    """Return who leads, by how much and what it is worth: the sentence of README and of the season's page."""
    return [plain(f"{title}. {summary(part)}" if title else summary(part)) for title, part in groups(board).items()]


def plain(text: str) -> str:
    """Return a text of pages without the marks of code."""
    return text.replace("`", "")


def numbers(board: Board) -> list[tuple[str, Table]]:
    """Return the numbers behind the sentence, by what they are about."""
    leads = {title: lead_table(part) for title, part in groups(board).items()}
    return [(title or "Who leads", plain_table(table)) for title, table in leads.items() if table is not None]


def plain_table(table: Table) -> Table:
    """Return a table without the marks of code."""
    rows = tuple(tuple(map(plain, row)) for row in table.rows)
    return Table(plain(table.caption), table.heads, rows, table.numbers_from, table.numbers_to, table.quiet)


def boards_beside(board: Board) -> list[tuple[str, list[tuple[str, Table]]]]:
    """Return the boards by decision and by quantiles, a table for each group of runs and state."""
    boards = []
    for name, of in (("By decision", decision_board), ("By quantiles", quantile_board)):
        tables = [(f"{title}, {state}" if title else state, of(part, state))
                  for title, part in groups(board).items() for state in board.states]  # fmt: skip
        shown = [(title, plain_table(table)) for title, table in tables if table is not None]
        boards += [(name, shown)] if shown else []
    return boards


def size(board: Board) -> str:
    """Return how much a board holds; horizons without any value are not counted."""
    results = board.results
    steps = sorted({horizon for cell in board.cells for horizon in board.horizons(cell)})
    origins = len(results.table[["trace", "origin"]].drop_duplicates())
    return (
        f"{counted(len(board.entries), 'forecaster')}, {counted(len(board.traces), 'run')} of "
        f"{counted(len(board.recipes), 'recipe')}, {counted(origins, 'origin')}, forecasts of "
        f"{listed([f'{horizon:,}' for horizon in steps])} steps"
    )


def batches() -> str:
    """Return which batches are small and which are large."""
    small, large = STRATA["small"][1], STRATA["large"][0]
    return f"small: at most {small:,.0f} tokens per expert and step; large: at least {large:,.0f}"


@lru_cache(maxsize=256)
def standings(board: Board, cell: Cell) -> Table:
    """Return a row for each forecaster in a cell, the best first."""
    ranks = {row["forecaster"]: row for row in cell.of(board.ranks).to_dict("records")}
    regrets = board.values.get(REGRET, {}).get(cell, {})
    failed = board.failures["forecaster"].value_counts()
    rows = []
    for row in cell.of(board.summary).to_dict("records"):
        entry = board.entry(row["forecaster"])
        failures = f", {counted(int(failed[entry.name]), 'failed task')}" if entry.name in failed else ""
        skill = signed_skill(row["skill"]), interval_text(row["low"], row["high"])
        seeds = interval_text(row["seeds_low"], row["seeds_high"])
        numbers = map(digits, (row["value"], regrets.get(entry.name), row["ms"]))
        rows.append((entry.name, *skill, seeds, rank_text(ranks.get(entry.name)), *numbers, entry.model_type,
                     entry.standing + failures))  # fmt: skip
    first = cell.of(board.summary).iloc[0]
    caption = (
        f"{cell.title.capitalize()}: a row is a forecaster. Means over {counted(int(first['runs']), 'run')} of "
        f"{counted(int(first['recipes']), 'recipe')} and {counted(int(first['origins']), 'origin')}, over layers and "
        "horizons. More skill is better, less of all else."
    )
    return Table(caption, STANDINGS, tuple(rows), 1, 8)


def horizons(board: Board, cell: Cell) -> Table:
    """Return the errors of a cell at the horizons that have values, floors below."""
    steps, order = board.horizons(cell), list(cell.of(board.summary)["forecaster"])
    rows = cell.of(board.by_horizon)
    values = rows.pivot(index="forecaster", columns="horizon", values="value").loc[order, steps]
    lines = [(name, *map(digits, cells)) for name, cells in zip(order, values.to_numpy().tolist(), strict=True)]
    floors, marks = cell.of(board.floors).set_index("horizon"), floor_marks(board.results.facts)
    names = [name for name in FLOOR_NAMES if name in floors and floors[name].notna().any()]
    lines += [(marked_floor(name, marks), *map(digits, floors[name].reindex(steps))) for name in names]
    caption = (
        f"{cell.title.capitalize()}: a row is a forecaster or a floor, a column a horizon h in training steps. "
        f"Errors: {named(PRIMARY)}, mean over runs of means over origins and layers; {direction(PRIMARY)}."
    )
    quiet = frozenset(range(len(order), len(lines)))
    return Table(caption, ("forecaster", *horizon_heads(steps)), tuple(lines), quiet=quiet)


def recipe_maps(board: Board) -> list[tuple[str, list[str], list[HeatRow]]]:
    """Return a map of skill by recipe for each state: its name, recipes, and a row for each forecaster."""
    maps = []
    for state in board.states if len(board.recipes) > 1 else ():
        rows = board.by_recipe[board.by_recipe["state"] == state]
        skills = rows.pivot(index="forecaster", columns="recipe", values="skill")
        order = skills.median(axis=1).sort_values(ascending=False, kind="stable").index
        heat = [HeatRow(name, [(signed_skill(skill), shade(skill)) for skill in skills.loc[name]]) for name in order]
        maps.append((state, [str(recipe) for recipe in skills.columns], heat))
    return maps


def shade(skill: float) -> str:
    """Return the class of a cell: `win` or `loss` with its shade, empty for 0 and for nothing."""
    if not math.isfinite(skill) or not skill:
        return ""
    return f"{'win' if skill > 0 else 'loss'}{min(SHADES, math.ceil(2 * SHADES * abs(skill)))}"


def by_metric(board: Board, metric: str) -> Table:
    """Return a metric of every forecaster in every cell."""
    cells = [cell for cell in board.cells if cell in board.values[metric]]
    columns = [board.values[metric][cell] for cell in cells]
    rows = tuple((entry.name, *(digits(values.get(entry.name)) for values in columns)) for entry in board.entries)
    better = direction(metric) or "no direction is better"
    caption = f"A row is a forecaster, a column the runs and their state, all horizons. {better.capitalize()}."
    return Table(caption, ("forecaster", *(cell.title for cell in cells)), rows)


def without_empty_columns(table: Table) -> Table:
    """Return the table without the columns of numbers that hold no value; its caption names them."""
    columns = range(len(table.heads))
    empty = [i for i in columns if table.numeric(i) and all(row[i] in (NOT_GIVEN, NONE) for row in table.rows)]
    if not empty:
        return table

    def shown(cells: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cell for i, cell in enumerate(cells) if i not in empty)

    caption = f"{table.caption} Without a value: {listed([table.heads[i] for i in empty])}."
    rows = tuple(shown(row) for row in table.rows)
    return Table(caption, shown(table.heads), rows, table.numbers_from, table.numbers_to - len(empty), table.quiet)


def rank_text(ranks: Mapping[Hashable, int] | None) -> str:
    """Return the ranks that a forecaster can have: `1`, `1 to 3`; `n/a` without a test."""
    if ranks is None:
        return NOT_GIVEN
    low, high = ranks["rank_low"], ranks["rank_high"]
    return f"{low}" if low == high else f"{low} to {high}"


def digits(value: float | None) -> str:
    """Format a number of a table, which gets its minus sign from `html_table`."""
    return three_digits(value, zeros=True)
