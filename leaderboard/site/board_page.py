"""What the page of a board shows: who forecasts best, by how much, on what, how sure; then the tables behind it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from leaderboard.pages.findings import Saving, saving
from leaderboard.site.board import REGRET, Board, Cell
from leaderboard.site.forests import forest
from leaderboard.site.words import NOT_GIVEN, direction, interval_text, named, percent, signed_skill
from moeload_bench.errors import counted
from moeload_bench.results.html import NONE
from moeload_bench.results.tables import Table, horizon_heads, marked_floor, three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.floors import FLOOR_NAMES
from moeload_bench.traces.meta import STRATA
from moeload_bench.words import listed

WHEN = {
    "transient": "While loads still move (transient)",
    "mixed": "While some layers have settled (mixed)",
    "stable": "Once loads are stable",
}
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
        "sentences": sentences(board),
        "size": size(board),
        "batches": batches(),
        "reference": board.results.suite.reference,
        "panels": forest({cell.title: cell.of(board.summary) for cell in board.state_cells}, "forecaster"),
        "standings": [(cell.title, without_empty_columns(standings(board, cell))) for cell in board.cells],
        "horizons": [(cell.title, horizons(board, cell)) for cell in board.cells],
        "recipes": recipe_maps(board),
        "metrics": [(named(metric), by_metric(board, metric)) for metric in board.metrics],
    }


def sentences(board: Board) -> list[str]:
    """Return for each state who leads, by how much against the best simple rule, on what, and how sure that is."""
    return [_sentence(board, state) for state in board.states]


def _sentence(board: Board, state: str) -> str:
    order = board.by_state.loc[board.by_state["state"] == state, "forecaster"].tolist()
    simple = [name for name in order if board.entry(name).model_type == "statistical"]
    leader, rule = order[0], (simple or order)[0]
    found = saving(board.results, leader, rule, state=state)
    leads = f"{WHEN[state]}, {leader} leads"
    if leader == rule or found is None:
        return f"{leads} on recipes {board.runs}; it learns nothing from other runs."
    on = f"on {counted(found.recipes, 'recipe')} {board.runs}"
    if not found.consistent:
        return f"{leads} {on}, but its mean and its median against {rule} have different signs: this is not a lead."
    margin = f"{percent(found.saving)} less error than {rule}, the best that learns nothing from other runs"
    return f"{leads} {on}: {margin}. {certainty(found)}"


def certainty(found: Saving) -> str:
    """Return how sure a saving is: its interval, and what is left without the two most influential runs."""
    if math.isnan(found.low):
        return "There are too few recipes for an interval."
    interval = f"95 % interval for a new recipe: {percent(found.low)} to {percent(found.high)}"
    chance = ", so this may be chance" if found.by_chance else ""
    return f"{interval}{chance}; without the two most influential runs: {percent(found.without_two)}."


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
    lines = [(name, *map(digits, found)) for name, found in zip(order, values.to_numpy().tolist(), strict=True)]
    floors, marks = cell.of(board.floors).set_index("horizon"), board.results.floor_marks()
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
    rows = tuple((one.name, *(digits(values.get(one.name)) for values in columns)) for one in board.entries)
    better = direction(metric) or "no direction is better"
    caption = f"A row is a forecaster, a column the runs and their state, all horizons. {better.capitalize()}."
    return Table(caption, ("forecaster", *(cell.title for cell in cells)), rows)


def without_empty_columns(table: Table) -> Table:
    """Return the table without the columns of numbers that hold no value; its caption names them."""
    columns = range(len(table.heads))
    empty = [at for at in columns if table.numeric(at) and all(row[at] in (NOT_GIVEN, NONE) for row in table.rows)]
    if not empty:
        return table

    def shown(cells: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cell for at, cell in enumerate(cells) if at not in empty)

    caption = f"{table.caption} Without a value: {listed([table.heads[at] for at in empty])}."
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
