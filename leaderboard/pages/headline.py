"""The tables of docs/reports/results.md, and the season's gains on README.md: the primary metric alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from leaderboard.committed import TRACES
from leaderboard.pages.drawn_claims import brief_cells
from leaderboard.pages.parts import Maker
from leaderboard.pages.results import results_by_size
from leaderboard.ranking import rank_cell, rank_sets
from leaderboard.season_tools.scored import scored_seasons
from leaderboard.templates import render_words
from moeload_bench.errors import ResultError
from moeload_bench.publishing.card_tables import size_summary
from moeload_bench.results.captions import better_words, spans_of
from moeload_bench.results.comparison import Errors, errors_of, reference_of
from moeload_bench.results.grid import ResultGrid, result_grid
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import Claim
from moeload_bench.results.tables import horizon_heads, skill_span, three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.description import undescribed_run
from moeload_bench.suites.suite import STATES, load_suite
from moeload_bench.traces.store import list_traces, read_trace

CLAIM: Claim = "a new recipe"
FLOOR = "floor_batch"


def headline(results: Sequence[Result]) -> str:
    """Return a table per state, best forecasters first, and what its numbers are.

    Raises `ResultError` when the suite's reference is not among the results.
    """
    everybody = errors_of(results, PRIMARY)
    results = _without_doubles(results)
    grid = result_grid(results, PRIMARY)
    if grid is None or grid.scores.reference not in {result.name for result in results}:
        raise ResultError(f"{results[0].suite.name}: a headline needs the reference among its results")
    tables = [_state_table(grid, everybody.select(state=state), state) for state in _states(grid)]
    return "\n\n".join([*_lead(grid), *tables, _words(grid, len(everybody.by_forecaster))])


def _lead(grid: ResultGrid) -> Iterator[str]:
    """Yield what the entry that leads in every state gains; nothing where none does."""
    best = {state: grid.of_state(state)[0] for state in _states(grid)}
    name, *others = {row.forecaster for row in best.values()}
    reference = grid.scores.reference
    if not others and name != reference:
        each = " and ".join(f"{100 * (row.skill or 0):.0f} % in the {state} state" for state, row in best.items())
        yield f"The best forecaster here, `{name}`, errs less than the moving average `{reference}` by {each}."


def _without_doubles(results: Sequence[Result]) -> list[Result]:
    """Without entries that say what the reference says, task for task: they differ by their quantiles alone."""
    reference = reference_of(results)
    if reference is None or reference not in results:
        return list(results)
    error_T = errors_of(results, PRIMARY).by_forecaster
    same = {n for n, e in error_T.items() if np.array_equal(e, error_T[reference.name], equal_nan=True)}
    return [result for result in results if result is reference or result.name not in same]


def _states(grid: ResultGrid) -> list[str]:
    return [state for state in grid.states if state in STATES]


def _state_table(grid: ResultGrid, entries: Errors, state: str) -> str:
    rows, ranks = grid.of_state(state), rank_sets(entries.by_forecaster, entries.tasks)
    columns = zip(*(row.value_K for row in rows), strict=True)
    best_K = [min((value for value in column if value is not None), default=None) for column in columns]
    lines: list[tuple[str, ...]] = [
        (f"`{row.forecaster}`", *map(_cell, row.value_K, best_K), skill_span(row.skill or 0.0, row.intervals),
         rank_cell(ranks, row.forecaster), three_digits(row.result.cpu_ms))
        for row in rows
    ]  # fmt: skip
    if (state, FLOOR) in grid.floors:
        lines.append((f"*{FLOOR}*", *map(three_digits, grid.floors[state, FLOOR]), "", "", ""))
    return markdown_table((state, *horizon_heads(grid.horizons), "skill", "ranks", "ms"), lines)


def _cell(value: float | None, best: float | None) -> str:
    return f"**{three_digits(value)}**" if value is not None and value == best else three_digits(value)


def _words(grid: ResultGrid, entries: int) -> str:
    """Return what the numbers of the tables are."""
    return render_words(
        Path(__file__).with_name("headline_words.md.j2"), better=better_words(grid.metric),
        spans=spans_of(grid, STATES), floor=FLOOR, reference=grid.scores.reference, claim=CLAIM, entries=entries,
    )  # fmt: skip


def headline_part(suite: str) -> str:
    """Return the headline of a public suite, its sizes of batch apart."""
    parts = [load_suite(suite).description]
    for size, results in results_by_size(suite).items():
        parts += [*([f"**{size}**"] if size else []), headline(results)]
    return "\n\n".join(parts)


def season_part(folder: str = "") -> str:
    """Return what the newest season says of its candidate; ``folder``: where its page lies, from here."""
    return "\n\n".join(brief_cells(one, f"{folder}season-{one.name}.md") for one in scored_seasons()[:1])


def runs_part() -> str:
    """Return how many runs there are in traces/, and how large they are."""
    bare = (undescribed_run(read_trace(ref.path), ref.path.stat().st_size) for ref in list_traces(TRACES))
    return size_summary(list(bare))


PARTS: Mapping[str, Maker] = {"headline": headline_part, "season": season_part, "runs": runs_part}
