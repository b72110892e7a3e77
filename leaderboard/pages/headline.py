"""README.md's table: one metric of the largest suite, short enough to be read; docs/reports/results.md has the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from leaderboard import oracle_window
from leaderboard.committed import suites_with_results
from leaderboard.pages.parts import Maker
from leaderboard.pages.results import results_of
from moeload_bench.errors import ResultError
from moeload_bench.results.comparison import Errors, errors_of, reference_of, skill
from moeload_bench.results.grid import NOTHING, Grid, result_grid
from moeload_bench.results.record import Result
from moeload_bench.results.render import markdown_table, three_digits
from moeload_bench.results.statistics import Claim, Interval, rank_groups, ranks
from moeload_bench.results.words import span_words
from moeload_bench.suites.suite import STATES, Suite, load_suite

CLAIM: Claim = "a new recipe"
FLOOR = "floor_batch"


def headline(results: Sequence[Result], metric: str) -> str:
    """A table per state, best forecasters first, and what its numbers are.

    Raises `ResultError` when no result has the metric or the suite's reference is not among the results.
    """
    grid, reference = result_grid(results, metric), reference_of(results)
    if grid is None or reference is None or reference not in results:
        raise ResultError(
            f"{results[0].suite.name}: a headline needs results with {metric}, the reference's among them"
        )
    errors = errors_of(results, metric)
    if metric == oracle_window.METRIC:
        errors = oracle_window.with_yardstick(errors, results[0].suite.name)
    parts = [_state_table(grid, errors.select(state=state), state, reference.name) for state in _states(grid)]
    return "\n\n".join([*parts, " ".join(_words(grid, reference.name, errors))]) + "\n"


def _states(grid: Grid) -> list[str]:
    return [state for state in STATES if any(row.state == state for row in grid.rows)]


def _state_table(grid: Grid, errors: Errors, state: str, reference: str) -> str:
    rows = [row for row in grid.rows if row.state == state]
    entries = {name: error_T for name, error_T in errors.by_forecaster.items() if name != oracle_window.NAME}
    rank = ranks(rank_groups(entries, errors.tasks, base_T=errors.by_forecaster[reference]))
    found = {row.forecaster: skill(errors, row.forecaster, reference) for row in rows}
    columns = zip(*(row.value_K for row in rows), strict=True)
    best_K = [min((value for value in column if value is not None), default=None) for column in columns]
    lines: list[tuple[str, ...]] = []
    for row in sorted(rows, key=lambda row: -found[row.forecaster][0]):
        lines.append((
            f"`{row.forecaster}`", *map(_cell, row.value_K, best_K), _skill(*found[row.forecaster]),
            str(rank.get(row.forecaster, NOTHING)), three_digits(1e3 * row.per_forecast_s),
        ))  # fmt: skip
    if oracle_window.NAME in errors.by_forecaster:
        lines.append((
            f"*{oracle_window.NAME}*", *map(three_digits, _run_means(errors, oracle_window.NAME, grid.horizons)),
            _skill(*skill(errors, oracle_window.NAME, reference)), "", "",
        ))  # fmt: skip
    if (state, FLOOR) in grid.floors:
        lines.append((f"*{FLOOR}*", *map(three_digits, grid.floors[state, FLOOR]), "", "", ""))
    return markdown_table((state, *(f"h = {h:,}" for h in grid.horizons), "skill", "rank", "ms"), lines)


def _skill(value: float, intervals: Sequence[Interval]) -> str:
    """Skill, with the interval for a new recipe where there is one."""
    span = next((f" [{one.low:+.2f}, {one.high:+.2f}]" for one in intervals if one.claim == CLAIM), "")
    return f"{value:+.3f}{span}"


def _run_means(errors: Errors, name: str, horizons: Sequence[int]) -> Iterator[float]:
    """[K]: the mean over runs of the run's mean over its origins."""
    for horizon in horizons:
        here = errors.select(horizon=horizon)
        run_T, runs = here.tasks.by_run
        yield float(np.mean([here.by_forecaster[name][run_T == n].mean() for n in range(len(runs))]))


def _cell(value: float | None, best: float | None) -> str:
    return f"**{three_digits(value)}**" if value is not None and value == best else three_digits(value)


def _words(grid: Grid, reference: str, errors: Errors) -> Iterator[str]:
    spans = [span_words([row for row in grid.rows if row.state == state]) for state in _states(grid)]
    yield f"A cell is the mean over runs of means over origins and layers: {'; '.join(spans)}."
    yield f"Bold: the least of a column. *{FLOOR}*: noise of the batches, a bound in the mean (docs/methods/floors.md)."
    if oracle_window.NAME in errors.by_forecaster:
        yield (
            f"*{oracle_window.NAME}*: the best fixed window of each run, state and horizon in hindsight: a yardstick "
            "and no forecaster, so without a rank."
        )
    yield (
        f"Skill: 1 - geometric mean over all tasks of the state of the ratio to `{reference}`, in brackets its 95 % "
        f"interval for {CLAIM}. Rank: in the order of skill; a group ends before one told apart from its first "
        "(docs/methods/statistics.md). ms: wall time per answered origin, observing included."
    )


def headline_suite(names: Sequence[str]) -> Suite:
    """The suite with the most test runs: what README.md shows."""
    return max(map(load_suite, names), key=lambda suite: len(suite.traces))


def headline_part(metric: str) -> str:
    """The largest suite that has results, named, and its headline."""
    suite = headline_suite(suites_with_results())
    return f"Suite `{suite.name}`. {suite.description}\n\n{headline(results_of(suite.name), metric)}"


PARTS: Mapping[str, Maker] = {"headline": headline_part}
