"""README.md's brief table and the whole one of docs/reports/results.md: the newest season, and one metric of the
largest public suite.

Short enough to be read; the rest of the results page has every metric of the public suites.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from leaderboard.committed import TRACES, suites_with_results
from leaderboard.pages.drawn_claims import brief_cells
from leaderboard.pages.parts import Maker
from leaderboard.pages.results import largest_suite, results_by_size, results_of
from leaderboard.ranking import PossibleRanks, rank_cell, rank_sets
from leaderboard.season_tools.scored import ScoredSeason, scored_seasons
from leaderboard.season_tools.sets import by_part
from leaderboard.studies import oracle_window
from leaderboard.templates import render_words
from moeload_bench.errors import ResultError
from moeload_bench.publishing.card_tables import size_summary
from moeload_bench.results.captions import better_words, spans_of
from moeload_bench.results.comparison import Errors, errors_of, reference_of, skill
from moeload_bench.results.grid import ResultGrid, result_grid
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import Claim, run_means
from moeload_bench.results.tables import horizon_heads, signed_skill, skill_span, three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.description import undescribed_run
from moeload_bench.suites.suite import STATES
from moeload_bench.traces.store import list_traces, read_trace

CLAIM: Claim = "a new recipe"
FLOOR = "floor_batch"


def headline(results: Sequence[Result], metric: str) -> str:
    """Return a table per state, best forecasters first, and what its numbers are.

    Raises `ResultError` when no result has the metric or the suite's reference is not among the results.
    """
    everybody = errors_of(results, metric)
    results = _without_doubles(results, metric)
    grid = result_grid(results, metric)
    if grid is None or grid.scores.reference not in {result.name for result in results}:
        raise ResultError(
            f"{results[0].suite.name}: a headline needs results with {metric}, the reference's among them"
        )
    errors = grid.scores.errors
    if metric == PRIMARY:
        errors = oracle_window.with_yardstick(errors, results[0].suite.name)
    states = _states(grid)
    entries = [everybody.select(state=state) for state in states]
    ranks = [rank_sets(here.by_forecaster, here.tasks) for here in entries]
    parts = [
        _state_table(grid, errors.select(state=state), state, set_) for state, set_ in zip(states, ranks, strict=True)
    ]
    words = _words(grid, errors, len(everybody.by_forecaster))
    return "\n\n".join([*_lead(grid), *parts, words]) + "\n"


def _lead(grid: ResultGrid) -> Iterator[str]:
    """Yield what the entry that leads in every state gains; nothing where none does."""
    best = {state: grid.of_state(state)[0] for state in _states(grid)}
    name, *others = {row.forecaster for row in best.values()}
    reference = grid.scores.reference
    if not others and name != reference:
        each = " and ".join(f"{100 * (row.skill or 0):.0f} % in the {state} state" for state, row in best.items())
        yield f"The best forecaster here, `{name}`, errs less than the moving average `{reference}` by {each}."


def _without_doubles(results: Sequence[Result], metric: str) -> list[Result]:
    """Without entries that say what the reference says, task for task: they differ by their quantiles alone."""
    reference = reference_of(results)
    if reference is None or reference not in results:
        return list(results)
    error_T = errors_of(results, metric).by_forecaster
    same = {n for n, e in error_T.items() if np.array_equal(e, error_T[reference.name], equal_nan=True)}
    return [result for result in results if result is reference or result.name not in same]


def _states(grid: ResultGrid) -> list[str]:
    return [state for state in grid.states if state in STATES]


def _state_table(grid: ResultGrid, errors: Errors, state: str, ranks: PossibleRanks | None) -> str:
    rows = grid.of_state(state)
    columns = zip(*(row.value_K for row in rows), strict=True)
    best_K = [min((value for value in column if value is not None), default=None) for column in columns]
    lines: list[tuple[str, ...]] = [
        (f"`{row.forecaster}`", *map(_cell, row.value_K, best_K), skill_span(row.skill or 0.0, row.intervals),
         rank_cell(ranks, row.forecaster), three_digits(row.result.cpu_ms))
        for row in rows
    ]  # fmt: skip
    if oracle_window.NAME in errors.by_forecaster:
        found = skill(errors, oracle_window.NAME, grid.scores.reference or "")
        means = (three_digits(run_mean(errors.select(horizon=h), oracle_window.NAME)) for h in grid.horizons)
        lines.append((f"*{oracle_window.NAME}*", *means, skill_span(*found), "", ""))
    if (state, FLOOR) in grid.floors:
        lines.append((f"*{FLOOR}*", *map(three_digits, grid.floors[state, FLOOR]), "", "", ""))
    return markdown_table((state, *horizon_heads(grid.horizons), "skill", "ranks", "ms"), lines)


def run_mean(errors: Errors, name: str) -> float:
    """Return the mean over runs of the run's mean over its tasks, of those with a value; NaN where none has one."""
    mean_R = np.concatenate([*run_means(errors.by_forecaster[name], errors.tasks).values(), []])
    return float(mean_R.mean()) if mean_R.size else float("nan")


def _cell(value: float | None, best: float | None) -> str:
    return f"**{three_digits(value)}**" if value is not None and value == best else three_digits(value)


def _words(grid: ResultGrid, errors: Errors, entries: int) -> str:
    """Return what the numbers of the tables are."""
    return render_words(
        Path(__file__).with_name("headline_words.md.j2"), better=better_words(grid.metric),
        spans=spans_of(grid, STATES), floor=FLOOR, reference=grid.scores.reference, claim=CLAIM, entries=entries,
        yardstick=oracle_window.NAME if oracle_window.NAME in errors.by_forecaster else None,
    )  # fmt: skip


def public_results(season: ScoredSeason) -> Sequence[Result]:
    """Return what a season is compared with: its suite's results, on whose runs its entries were fitted too.

    Those of the largest suite where its own has none.
    """
    known = season.suite_name in suites_with_results()
    return results_of(season.suite_name if known else largest_suite().name)


def headline_part(metric: str, seasons: Sequence[ScoredSeason] | None = None) -> str:
    """Return the newest season's headline, where one was scored, then that of the largest suite with results,
    *public*, its sizes of batch apart.
    """
    suite = largest_suite()
    parts = [f"Suite `{suite.name}`, *public*. {suite.description}"]
    for size, results in results_by_size(suite.name).items():
        parts += [*([f"**{size}**"] if size else []), headline(results, metric).rstrip()]
    seasons = scored_seasons() if seasons is None else seasons
    first = [part for season in seasons[:1] for part in season_parts(season, metric)]
    return "\n\n".join([*first, *parts])


def season_parts(season: ScoredSeason, metric: str) -> list[str]:
    """Return what a season's candidate gains, and a table of all entries for each size of batch of each set."""
    parts = [brief_cells(season)]
    for title, part in by_part(season).items():
        parts += [f"**{title[0].upper()}{title[1:]}**", headline(part.results, metric).rstrip()]
    return parts


BRIEF_ROWS = 5
BRIEF_HORIZON = 100


def brief_part(metric: str, seasons: Sequence[ScoredSeason] | None = None) -> str:
    """Return what the newest season's candidate gains by set, size of batch and state; without a season five rows of
    the largest suite, its sizes of batch apart.
    """
    for season in (scored_seasons() if seasons is None else seasons)[:1]:
        return brief_cells(season, f"docs/reports/season-{season.name}.md")
    suite = largest_suite()
    return "\n\n".join(
        brief(results, metric, f"{size or 'All runs'} of suite `{suite.name}`, *public*")
        for size, results in results_by_size(suite.name).items()
    )


def brief(results: Sequence[Result], metric: str, title: str) -> str:
    """Return the best of each state in turn, the reference, and `uniform` last.

    Raises `ResultError` without a reference.
    """
    grid = result_grid(results, metric)
    if grid is None or grid.scores.reference is None:
        raise ResultError(f"{title}: the brief table needs {metric} and the reference")
    horizon = BRIEF_HORIZON if BRIEF_HORIZON in grid.horizons else grid.horizons[-1]
    states, k = _states(grid), grid.horizons.index(horizon)
    best = [[row.forecaster for row in grid.of_state(state)] for state in states]
    last = (grid.scores.reference, "uniform")
    wanted = [name for pair in zip(*best, strict=True) for name in pair if name not in last]
    chosen = [*list(dict.fromkeys(wanted))[: BRIEF_ROWS - 2], grid.scores.reference]
    lines = []
    for name in [*chosen, *(["uniform"] if grid.of("uniform") else [])]:
        rows = [row for row in grid.of(name) if row.state in states]
        errors = [text for row in rows for text in (three_digits(row.value_K[k]), signed_skill(row.skill or 0.0))]
        lines.append((f"`{name}`", *errors, three_digits(rows[0].result.cpu_ms)))
    heads = ("forecaster", *(f"{state}{word}" for state in states for word in ("", ", skill")), "ms")
    words = render_words(
        Path(__file__).with_name("brief_words.md.j2"), title=title, horizon=horizon, reference=grid.scores.reference
    )
    return f"{markdown_table(heads, lines)}\n\n{words}"


def runs_part() -> str:
    """Return how many runs there are in traces/, and how large they are."""
    bare = (undescribed_run(read_trace(ref.path), ref.path.stat().st_size) for ref in list_traces(TRACES))
    return size_summary(list(bare))


PARTS: Mapping[str, Maker] = {"headline": headline_part, "brief": brief_part, "runs": runs_part}
