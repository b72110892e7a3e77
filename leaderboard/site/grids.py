"""Tables of texts that a page shows as they are."""

from __future__ import annotations

from collections.abc import Sequence

from leaderboard.site.words import named, three_digits
from moeload_bench.results.captions import better_words, origins_of
from moeload_bench.results.grid import ALL, ResultGrid, result_grid
from moeload_bench.results.html import NONE
from moeload_bench.results.record import Result
from moeload_bench.results.tables import Table, error_cells, horizon_heads, marked_floor
from moeload_bench.scoring.floors import FLOOR_NAMES


def by_recipe(
    grids: Sequence[tuple[str, ResultGrid | None]], forecaster: str, horizons: Sequence[int], metric: str
) -> Table:
    """Return one row per recipe and state; ``grids`` by recipe, `all` among them."""
    found = [(recipe, row) for recipe, grid in grids if grid for row in grid.of(forecaster)]
    names = {ALL: "all recipes"}
    rows = [(names.get(recipe, recipe), row.state, *error_cells(row, True), str(row.runs), str(row.origins))
            for recipe, row in found]  # fmt: skip
    heads = ("recipe", "state", *horizon_heads(horizons), "runs", "origins")
    excess = "; in parentheses the excess over floor_batch, sqrt(max(0, error² - floor²))"
    caption = (
        f"A row is a recipe in one state, a column a horizon h in training steps{better_words(metric)}. "
        f"{named(metric)}: mean over runs of means over origins and layers"
    )
    has_floor = any(row.excess_K for _, row in found)
    return Table(caption + (excess if has_floor else "") + ".", heads, tuple(rows), 2)


def one_run(results: Sequence[Result], names: Sequence[str], metric: str) -> list[Table]:
    """Return these forecasters on one run, one table per state, floors below; results hold that run only."""
    grid = result_grid(results, metric)
    tables = []
    for state in grid.states if grid else ():
        assert grid is not None
        here = [row for row in grid.of_state(state) if row.forecaster in names]
        floors = [(marked_floor(floor, grid.marks), grid.floors[state, floor])
                  for floor in FLOOR_NAMES if (state, floor) in grid.floors]  # fmt: skip
        lines = [*((row.forecaster, row.value_K) for row in here), *floors]
        caption = (
            f"{named(metric)}, {state}: mean over {origins_of(here)} and over layers. A row is a forecaster or a "
            f"floor, a column a horizon h in training steps{better_words(metric)}."
        )
        rows = tuple((name, *map(three_digits, value_K)) for name, value_K in lines)
        quiet = frozenset(range(len(here), len(rows)))
        tables.append(Table(caption, ("forecaster", *horizon_heads(grid.horizons)), rows, quiet=quiet))
    return tables


def every_metric(grids: Sequence[tuple[str, ResultGrid | None]], forecaster: str, horizons: Sequence[int]) -> Table:
    """Return one row per metric and state, over all recipes; ``grids`` by metric."""
    rows = [
        (named(metric), better_words(metric)[2:6] or NONE, row.state, *map(three_digits, row.value_K))
        for metric, grid in grids
        if grid
        for row in grid.of(forecaster)
    ]
    caption = (
        "A row is a metric in one state, a column a horizon h in training steps: mean over runs of means over origins "
        "and layers, of all recipes. Less or more is better, as its row says."
    )
    return Table(caption, ("metric", "better", "state", *horizon_heads(horizons)), tuple(rows), 3)


def fact_text(value: object) -> str:
    """Text of a fact; a dash for nothing."""
    return NONE if value is None or value == "" else str(value)
