"""leaderboard/results/SUITE.csv: the rows that all tables are made of, by suite, the newest season's among them; of a
suite with both sizes of batch SUITE-small.csv and SUITE-large.csv.

A row per forecaster, recipe, state, horizon and metric, where `all` stands for all recipes or horizons. Recipes apart
are given for the primary metric, skill over all horizons.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from leaderboard.committed import RESULTS, suites_with_results
from leaderboard.pages.parts import Maker
from leaderboard.pages.results import metric_names, results_by_size
from leaderboard.ranking import rank_text
from leaderboard.season_tools.scored import scored_seasons
from leaderboard.season_tools.sets import by_part
from moeload_bench.results.comparison import with_runs_of
from moeload_bench.results.grid import ALL, COLUMNS, Row, Standings, result_grid
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.run_result import rounded
from moeload_bench.results.strata import name_of_size
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS

FIELDS = ("forecaster", "recipe", "state", "horizon", "metric", "value", "excess", "skill", "low", "high", "ranks",
          "runs", "origins")  # fmt: skip
assert set(FIELDS) <= COLUMNS.keys()


def summary_files() -> dict[Path, str]:
    """Return every file with its text."""
    made = {
        name_of_size(name, size): results
        for name in suites_with_results()
        for size, results in results_by_size(name).items()
    }
    made |= {part.suite.name: part.results for season in scored_seasons()[:1] for part in by_part(season).values()}
    return {RESULTS / f"{name}.csv": summary(results) for name, results in made.items()}


def summary(results: Sequence[Result]) -> str:
    """Return the rows of results on one suite, numbers to nine significant digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows(line for metric in metric_names(results) for line in _of_metric(results, metric))
    for recipe in sorted({run.recipe for run in results[0].runs}):
        chosen = with_runs_of(results, {run.trace for run in results[0].runs if run.recipe == recipe})
        scores = Standings(chosen, PRIMARY, None)
        for row in (row for state in LABELS for row in scores.rows(state)):
            writer.writerows(_by_horizon(row, scores, recipe))
    return out.getvalue()


def _of_metric(results: Sequence[Result], metric: str) -> Iterator[Sequence[object]]:
    grid = result_grid(results, metric)
    for state in grid.states if grid else ():
        assert grid is not None
        ranks = grid.scores.ranks(state) if metric == PRIMARY else {}
        for row in grid.of_state(state):
            yield from _by_horizon(row, grid.scores, ALL)
            found = row.new_recipe
            ends = (None, None) if found is None else (found.low, found.high)
            numbers = (_number(value) for value in (row.value, None, row.skill, *ends))
            counts = (rank_text(ranks[row.forecaster]) if ranks else "", row.runs, row.origins)
            yield (row.forecaster, ALL, state, ALL, metric, *numbers, *counts)


def _by_horizon(row: Row, scores: Standings, recipe: str) -> Iterator[Sequence[object]]:
    """Value and excess at each horizon that has a value."""
    excess_K = row.excess_K or (None,) * len(row.value_K)
    for horizon, value, excess, origins in zip(scores.horizons, row.value_K, excess_K, row.origins_K, strict=True):
        if value is not None:
            about = (row.forecaster, recipe, row.state, horizon, scores.metric)
            yield (*about, _number(value), _number(excess), "", "", "", "", row.runs, origins)


def columns() -> str:
    """Return what each column of the files is."""
    return markdown_table(("column", "what"), [(f"`{name}`", COLUMNS[name][1]) for name in FIELDS])


def _number(value: float | None) -> object:
    return "" if value is None else rounded(value)


PARTS: Mapping[str, Maker] = {"columns": columns}
