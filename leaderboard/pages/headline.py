"""README.md's brief table and the whole one of docs/reports/results.md: one metric of the newest season, where there is
one, and of the largest public suite.

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
from leaderboard.season_tools import scored
from leaderboard.season_tools.drops import Drop
from leaderboard.season_tools.scored import scored_seasons
from leaderboard.season_tools.sets import by_part
from leaderboard.studies import oracle_window
from leaderboard.templates import render_words
from moeload_bench.errors import ResultError
from moeload_bench.publishing.card_tables import size_summary
from moeload_bench.results.captions import better_words, spans_of
from moeload_bench.results.comparison import Errors, errors_of, reference_of, skill
from moeload_bench.results.grid import NOTHING, ResultGrid, result_grid
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import Claim, run_means
from moeload_bench.results.tables import Table, horizon_heads, signed_skill, skill_span, three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.description import undescribed_run
from moeload_bench.suites.suite import STATES, load_suite
from moeload_bench.traces.store import list_traces, read_trace

CLAIM: Claim = "a new recipe"
FLOOR = "floor_batch"


def headline(results: Sequence[Result], metric: str, forks: Mapping[str, scored.StateFloor] | None = None) -> str:
    """Return a table per state, best forecasters first, and what its numbers are; ``forks``: `floor_fork` by state.

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
    forks, states = forks or {}, _states(grid)
    entries = [everybody.select(state=state) for state in states]
    ranks = [rank_sets(here.by_forecaster, here.tasks) for here in entries]
    parts = [
        _state_table(grid, errors.select(state=state), state, set_, forks.get(state))
        for state, set_ in zip(states, ranks, strict=True)
    ]
    words = _words(grid, errors, forks, len(everybody.by_forecaster))
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


def _state_table(
    grid: ResultGrid, errors: Errors, state: str, ranks: PossibleRanks | None, fork: scored.StateFloor | None
) -> str:
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
    if fork is not None:
        lines.append((f"*{scored.FLOOR}*", *fork.texts(), "", "", ""))
    return markdown_table((state, *horizon_heads(grid.horizons), "skill", "ranks", "ms"), lines)


def run_mean(errors: Errors, name: str) -> float:
    """Return the mean over runs of the run's mean over its tasks, of those with a value; NaN where none has one."""
    mean_R = np.concatenate([*run_means(errors.by_forecaster[name], errors.tasks).values(), []])
    return float(mean_R.mean()) if mean_R.size else float("nan")


def _cell(value: float | None, best: float | None) -> str:
    return f"**{three_digits(value)}**" if value is not None and value == best else three_digits(value)


def _words(grid: ResultGrid, errors: Errors, forks: Mapping[str, scored.StateFloor], entries: int) -> str:
    """Return what the numbers of the tables are."""
    return render_words(
        Path(__file__).with_name("headline_words.md.j2"), better=better_words(grid.metric),
        spans=spans_of(grid, STATES), floor=FLOOR, reference=grid.scores.reference, claim=CLAIM, entries=entries,
        yardstick=oracle_window.NAME if oracle_window.NAME in errors.by_forecaster else None, fork=scored.FLOOR,
        fork_origins=sum(one.origins for one in forks.values()),
    )  # fmt: skip


def public_results(season: scored.ScoredSeason) -> Sequence[Result]:
    """Return what a season is compared with: its suite's results, on whose runs its entries were fitted too.

    Those of the largest suite where its own has none.
    """
    known = season.suite_name in suites_with_results()
    return results_of(season.suite_name if known else largest_suite().name)


def headline_part(metric: str, seasons: Sequence[scored.ScoredSeason] | None = None) -> str:
    """Return the newest season's headline, where one was scored, then that of the largest suite with results,
    *public*, its sizes of batch apart.
    """
    suite = largest_suite()
    parts = [f"Suite `{suite.name}`, *public*. {suite.description}"]
    for size, results in results_by_size(suite.name).items():
        parts += [*([f"**{size}**"] if size else []), headline(results, metric).rstrip()]
    seasons = scored_seasons() if seasons is None else seasons
    first = [part for season in seasons[:1] for part in season_parts(season, public_results(season), metric)]
    return "\n\n".join([*first, *parts])


def season_parts(season: scored.ScoredSeason, public: Sequence[Result], metric: str) -> list[str]:
    """Return a season's headline, and what every entry loses from the public suite to it."""
    if season.draws is not None:
        parts = [brief_cells(season)]
        for title, part in by_part(season).items():
            parts += [f"**{title[0].upper()}{title[1:]}**", headline(part.results, metric).rstrip()]
        return parts
    runs, recipes = len(season.suite.traces), len({trace.id.split("/")[0] for trace in season.suite.traces})
    about = f"Season `{season.name}`: {runs} runs of {recipes} recipes, drawn after the entries had closed."
    parts = [about, headline(season.results, metric, scored.fork_floors(season) if metric == PRIMARY else None)]
    return [*parts, *drop_parts(season, public)]


def drop_parts(season: scored.ScoredSeason, public: Sequence[Result]) -> list[str]:
    """Return what every entry loses from a public suite to a season, as a table and its words; [] without shared
    recipes.
    """
    table = scored.drops_table(season, public)
    return [] if table is None else [markdown_table(table.heads, _flagged(table)), table.caption]


def _flagged(table: Table) -> list[tuple[str, ...]]:
    return [(f"`{name}`", *cells, f"**{flag}**" if flag else "") for name, *cells, flag in table.rows]


SEASON_TITLE = "[Season `{name}`](docs/reports/season-{name}.md), runs that nobody had when the entries closed"
BRIEF_ROWS = 5
BRIEF_HORIZON = 100


def brief_part(metric: str, seasons: Sequence[scored.ScoredSeason] | None = None) -> str:
    """Return five rows of the newest season, with what each loses from its public suite; else of the largest suite, its
    sizes of batch apart.

    A season that shares no recipe with its suite stands before the largest. One of drawn recipes stands alone, with
    the gains of its candidate by set, size of batch and state.
    """
    seasons = scored_seasons() if seasons is None else seasons
    parts, found = [], []
    for season in seasons[:1]:
        if season.draws is not None:
            return brief_cells(season, f"docs/reports/season-{season.name}.md")
        public = public_results(season)
        found, known = scored.drops_of(season, public), public[0].suite.name
        parts.append(brief(season.results, metric, SEASON_TITLE.format(name=season.name), found, known))
    if not found:
        suite = largest_suite()
        for size, results in results_by_size(suite.name).items():
            parts.append(brief(results, metric, f"{size or 'All runs'} of suite `{suite.name}`, *public*"))
    return "\n\n".join(parts)


def brief(results: Sequence[Result], metric: str, title: str, found: Sequence[Drop] = (), known: str = "") -> str:
    """Return the best of each state in turn, the reference, and `uniform` last; ``found``: drops from the suite
    ``known``.

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
    lost = {one.forecaster: scored.drop_cells(one) for one in found}
    lines = []
    for name in [*chosen, *(["uniform"] if grid.of("uniform") else [])]:
        rows = [row for row in grid.of(name) if row.state in states]
        errors = [text for row in rows for text in (three_digits(row.value_K[k]), signed_skill(row.skill or 0.0))]
        beside = lost.get(name, (NOTHING,) * 3) if found else ()
        lines.append((f"`{name}`", *errors, *beside, three_digits(rows[0].result.cpu_ms)))
    beside_heads = ("skill", f"skill, {known} *public*", "drop") if found else ()
    heads = ("forecaster", *(f"{state}{word}" for state in states for word in ("", ", skill")), *beside_heads, "ms")
    words = render_words(
        Path(__file__).with_name("brief_words.md.j2"), title=title, horizon=horizon, reference=grid.scores.reference,
        known=known if found else None, closed=bool(found) and load_suite(known).submissions == "closed",
    )  # fmt: skip
    return f"{markdown_table(heads, lines)}\n\n{words}"


def runs_part() -> str:
    """Return how many runs there are in traces/, and how large they are."""
    bare = (undescribed_run(read_trace(ref.path), ref.path.stat().st_size) for ref in list_traces(TRACES))
    return size_summary(list(bare))


PARTS: Mapping[str, Maker] = {"headline": headline_part, "brief": brief_part, "runs": runs_part}
