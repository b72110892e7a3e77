"""Tables of texts that a page shows as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.site.views import ALL
from leaderboard.site.words import NONE, named, three_digits
from moeload_bench.results.grid import FLOOR_ROWS, Grid, Row, result_grid
from moeload_bench.results.record import Result
from moeload_bench.results.render import marked_floor
from moeload_bench.results.words import origins_of
from moeload_bench.suites.suite import CROSSING, STATES


@dataclass(frozen=True)
class Table:
    """Columns ``numbers_from`` up to ``numbers_to`` are numbers, later ones text; the last ``quiet`` rows floors."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers_from: int = 1
    numbers_to: int = 99
    quiet: int = 0


def horizon_heads(horizons: Sequence[int]) -> tuple[str, ...]:
    """`h = 1`, `h = 10`, ..."""
    return tuple(f"h = {horizon:,}" for horizon in horizons)


def value_cells(row: Row) -> tuple[str, ...]:
    """`value (excess)` at each horizon; only the value where there is no floor."""
    over_K = row.excess_K or (None,) * len(row.value_K)
    return tuple(
        three_digits(value) if value is None or over is None else f"{three_digits(value)} ({three_digits(over)})"
        for value, over in zip(row.value_K, over_K, strict=True)
    )


def rows_of(grid: Grid | None, forecaster: str) -> list[Row]:
    """A forecaster's rows of a grid, in the order of states."""
    found = {row.state: row for row in grid.rows if row.forecaster == forecaster} if grid else {}
    return [found[state] for state in (*STATES, CROSSING) if state in found]


def by_recipe(grids: Sequence[tuple[str, Grid | None]], forecaster: str, horizons: Sequence[int], metric: str) -> Table:
    """One row per recipe and state; ``grids`` by recipe, `all` among them."""
    rows = [
        ("all recipes" if recipe == ALL else recipe, row.state, *value_cells(row), str(row.runs), str(row.origins))
        for recipe, grid in grids
        for row in rows_of(grid, forecaster)
    ]
    heads = ("recipe", "state", *horizon_heads(horizons), "runs", "origins")
    excess = "; in parentheses the excess over floor_batch, sqrt(max(0, error² - floor²))"
    has_floor = any(row.excess_K for _, grid in grids for row in rows_of(grid, forecaster))
    caption = f"{named(metric)}: mean over runs of means over origins and layers, at each horizon h in training steps"
    return Table(caption + (excess if has_floor else "") + ".", heads, tuple(rows), 2)


def one_run(results: Sequence[Result], names: Sequence[str], metric: str) -> list[Table]:
    """These forecasters on one run, one table per state, floors below; results hold that run only."""
    grid = result_grid(results, metric)
    if grid is None:
        return []
    tables = []
    for state in (*STATES, CROSSING):
        here = [row for row in grid.rows if row.state == state and row.forecaster in names]
        if not here:
            continue
        floors = [
            (marked_floor(floor, grid.marks), *map(three_digits, grid.floors[state, floor]))
            for floor in FLOOR_ROWS
            if (state, floor) in grid.floors
        ]
        rows = [(row.forecaster, *map(three_digits, row.value_K)) for row in here]
        caption = f"{named(metric)}, {state}: mean over {origins_of(here)} and over layers."
        heads = ("forecaster", *horizon_heads(grid.horizons))
        tables.append(Table(caption, heads, tuple(rows + floors), quiet=len(floors)))
    return tables


def every_metric(grids: Sequence[tuple[str, Grid | None]], forecaster: str, horizons: Sequence[int]) -> Table:
    """One row per metric and state, over all recipes; ``grids`` by metric."""
    rows = [
        (named(metric), row.state, *map(three_digits, row.value_K))
        for metric, grid in grids
        for row in rows_of(grid, forecaster)
    ]
    caption = "Every metric: mean over runs of means over origins and layers; all recipes."
    return Table(caption, ("metric", "state", *horizon_heads(horizons)), tuple(rows), 2)


def fact_text(value: object) -> str:
    """Text of a fact; a dash for nothing."""
    return NONE if value is None or value == "" else str(value)
