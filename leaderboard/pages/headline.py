"""README.md's brief table and the whole one of docs/reports/results.md: one metric of the newest season, where there is
one, and of the largest public suite.

Short enough to be read; the rest of the results page has every metric of the public suites.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from leaderboard.committed import suites_with_results
from leaderboard.pages.parts import Maker
from leaderboard.pages.results import results_of
from leaderboard.season_tools.scored import FLOOR as FLOOR_FORK
from leaderboard.season_tools.scored import (
    ScoredSeason,
    StateFloor,
    drop_words,
    drops_of,
    fork_floors,
    scored_seasons,
)
from leaderboard.studies import oracle_window
from moeload_bench.errors import ResultError
from moeload_bench.plots.results import cpu_ms
from moeload_bench.results.comparison import Errors, errors_of, reference_of, skill
from moeload_bench.results.drops import Drop
from moeload_bench.results.grid import NOTHING, Grid, result_grid, signed
from moeload_bench.results.record import Result
from moeload_bench.results.render import markdown_table, three_digits
from moeload_bench.results.statistics import Claim, Interval, rank_groups, ranks
from moeload_bench.results.words import span_words
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import STATES, Suite, load_suite

CLAIM: Claim = "a new recipe"
FLOOR = "floor_batch"


def headline(results: Sequence[Result], metric: str, forks: Mapping[str, StateFloor] | None = None) -> str:
    """A table per state, best forecasters first, and what its numbers are; ``forks``: `floor_fork` by state.

    Raises `ResultError` when no result has the metric or the suite's reference is not among the results.
    """
    results = _without_doubles(results, metric)
    grid, reference = result_grid(results, metric), reference_of(results)
    if grid is None or reference is None or reference not in results:
        raise ResultError(
            f"{results[0].suite.name}: a headline needs results with {metric}, the reference's among them"
        )
    errors = errors_of(results, metric)
    if metric == PRIMARY:
        errors = oracle_window.with_yardstick(errors, results[0].suite.name)
    forks = forks or {}
    parts = [
        _state_table(grid, errors.select(state=state), state, reference.name, forks.get(state))
        for state in _states(grid)
    ]
    lead = _lead(errors, _states(grid), reference.name)
    return "\n\n".join([*lead, *parts, " ".join(_words(grid, reference.name, errors, forks))]) + "\n"


def _lead(errors: Errors, states: Sequence[str], reference: str) -> Iterator[str]:
    """What the entry that leads in every state gains; nothing where none does."""
    gains: dict[str, list[float]] = {}
    for state in states:
        here = errors.select(state=state)
        found = {name: skill(here, name, reference)[0] for name in here.by_forecaster if name != oracle_window.NAME}
        best = max(found, key=lambda name: found[name])
        gains.setdefault(best, []).append(found[best])
    if len(gains) == 1 and reference not in gains:
        ((name, values),) = gains.items()
        each = " and ".join(f"{100 * v:.0f} % in the {state} state" for v, state in zip(values, states, strict=True))
        yield f"The best forecaster here, `{name}`, errs less than the moving average `{reference}` by {each}."


def _without_doubles(results: Sequence[Result], metric: str) -> list[Result]:
    """Without entries that say what the reference says, task for task: they differ by their quantiles alone."""
    reference = reference_of(results)
    if reference is None or reference not in results:
        return list(results)
    error_T = errors_of(results, metric).by_forecaster
    same = {n for n, e in error_T.items() if np.array_equal(e, error_T[reference.name], equal_nan=True)}
    return [result for result in results if result is reference or result.name not in same]


def _states(grid: Grid) -> list[str]:
    return [state for state in STATES if any(row.state == state for row in grid.rows)]


def _state_table(grid: Grid, errors: Errors, state: str, reference: str, fork: StateFloor | None) -> str:
    rows = [row for row in grid.rows if row.state == state]
    entries = {name: error_T for name, error_T in errors.by_forecaster.items() if name != oracle_window.NAME}
    rank = ranks(rank_groups(entries, errors.tasks, base_T=errors.by_forecaster[reference]))
    found = {row.forecaster: skill(errors, row.forecaster, reference) for row in rows}
    spent = {result.name: cpu_ms(result) for result in grid.results}
    columns = zip(*(row.value_K for row in rows), strict=True)
    best_K = [min((value for value in column if value is not None), default=None) for column in columns]
    lines: list[tuple[str, ...]] = []
    for row in sorted(rows, key=lambda row: -found[row.forecaster][0]):
        lines.append((
            f"`{row.forecaster}`", *map(_cell, row.value_K, best_K), _skill(*found[row.forecaster]),
            str(rank.get(row.forecaster, NOTHING)), three_digits(spent[row.forecaster]),
        ))  # fmt: skip
    if oracle_window.NAME in errors.by_forecaster:
        lines.append((
            f"*{oracle_window.NAME}*", *map(three_digits, _run_means(errors, oracle_window.NAME, grid.horizons)),
            _skill(*skill(errors, oracle_window.NAME, reference)), "", "",
        ))  # fmt: skip
    if (state, FLOOR) in grid.floors:
        lines.append((f"*{FLOOR}*", *map(three_digits, grid.floors[state, FLOOR]), "", "", ""))
    if fork is not None:
        lines.append((f"*{FLOOR_FORK}*", *map(_with_error, fork.cells()), "", "", ""))
    return markdown_table((state, *(f"h = {h:,}" for h in grid.horizons), "skill", "rank", "ms"), lines)


def _skill(value: float, intervals: Sequence[Interval]) -> str:
    """Skill, with the interval for a new recipe where there is one."""
    span = next((f" [{signed(one.low, 2)}, {signed(one.high, 2)}]" for one in intervals if one.claim == CLAIM), "")
    return f"{value:+.3f}{span}"


def _run_means(errors: Errors, name: str, horizons: Sequence[int]) -> Iterator[float]:
    """[K]: the mean over runs of the run's mean over its origins."""
    for horizon in horizons:
        here = errors.select(horizon=horizon)
        run_T, runs = here.tasks.by_run
        yield float(np.mean([here.by_forecaster[name][run_T == n].mean() for n in range(len(runs))]))


def _cell(value: float | None, best: float | None) -> str:
    return f"**{three_digits(value)}**" if value is not None and value == best else three_digits(value)


def _with_error(cell: tuple[float, float] | None) -> str:
    return NOTHING if cell is None else f"{three_digits(cell[0])} ± {three_digits(cell[1])}"


def _words(grid: Grid, reference: str, errors: Errors, forks: Mapping[str, StateFloor]) -> Iterator[str]:
    spans = [span_words([row for row in grid.rows if row.state == state]) for state in _states(grid)]
    yield f"A cell is the mean over runs of means over origins and layers: {'; '.join(spans)}."
    yield f"Bold: the least of a column. *{FLOOR}*: noise of the batches, a bound in the mean (docs/methods/floors.md)."
    if oracle_window.NAME in errors.by_forecaster:
        yield (
            f"*{oracle_window.NAME}*: the best fixed window of each run, state and horizon in hindsight: a yardstick "
            "and no forecaster, so without a rank."
        )
    if forks:
        origins = sum(one.origins for one in forks.values())
        yield (
            f"*{FLOOR_FORK}*: left to whoever knows the whole state of training and not the text to come, ± its "
            f"standard error, from the other futures of {origins} origins."
        )
    yield (
        f"Skill: 1 - geometric mean over all tasks of the state of the ratio to `{reference}`, in brackets its 95 % "
        f"interval for {CLAIM}. Rank: in the order of skill; a group ends before one told apart from its first "
        "(docs/methods/statistics.md). ms: CPU time per answered origin, observing included."
    )


def headline_suite(names: Sequence[str]) -> Suite:
    """The suite with the most test runs: what the tables show."""
    return max(map(load_suite, names), key=lambda suite: len(suite.traces))


def public_results(season: ScoredSeason) -> Sequence[Result]:
    """What a season is compared with: its suite's results, on whose runs its entries were fitted too.

    Those of the largest suite where its own has none.
    """
    names = suites_with_results()
    return results_of(season.suite_name if season.suite_name in names else headline_suite(names).name)


def headline_part(metric: str, seasons: Sequence[ScoredSeason] | None = None) -> str:
    """The newest season's headline, where one was scored, then that of the largest suite with results, *public*."""
    suite = headline_suite(suites_with_results())
    parts = [f"Suite `{suite.name}`, *public*. {suite.description}", headline(results_of(suite.name), metric)]
    seasons = scored_seasons() if seasons is None else seasons
    first = [part for season in seasons[:1] for part in season_parts(season, public_results(season), metric)]
    return "\n\n".join([*first, *parts])


def season_parts(season: ScoredSeason, public: Sequence[Result], metric: str) -> list[str]:
    """A season's headline, and what every entry loses from the public suite to it."""
    runs, recipes = len(season.suite.traces), len({trace.id.split("/")[0] for trace in season.suite.traces})
    about = f"Season `{season.name}`: {runs} runs of {recipes} recipes, drawn after the entries had closed."
    parts = [about, headline(season.results, metric, fork_floors(season) if metric == PRIMARY else None)]
    return [*parts, *drop_parts(season, public)]


def drop_parts(season: ScoredSeason, public: Sequence[Result]) -> list[str]:
    """What every entry loses from a public suite to a season, as a table and its words; [] without shared recipes."""
    found = drops_of(season, public)
    if not found:
        return []
    heads = ("forecaster", "skill, season", f"skill, {public[0].suite.name}", "drop beyond the unfitted", "Holm p",
             "fork test p", "")  # fmt: skip
    lines = [
        (f"`{one.forecaster}`", *_drop_cells(one),
         NOTHING if one.p_holm is None else f"{one.p_holm:.2g}",
         f"{season.tests[one.forecaster].p_value:.2g}" if one.forecaster in season.tests else NOTHING,
         "**flagged**" if one.flagged else "")
        for one in found
    ]  # fmt: skip
    return [markdown_table(heads, lines), drop_words(season, public[0].suite.name)]


def _drop_cells(one: Drop) -> tuple[str, str, str]:
    """Skill on the season, skill on the public suite, and the drop beyond the unfitted."""
    return f"{one.season:+.3f}", f"{one.public:+.3f}", f"{one.beyond:+.3f}"


SEASON_TITLE = "[Season `{name}`](docs/reports/season-{name}.md), runs that nobody had when the entries closed"
BRIEF_ROWS = 5
BRIEF_HORIZON = 100


def brief_part(metric: str, seasons: Sequence[ScoredSeason] | None = None) -> str:
    """Five rows of the newest season, with what each loses from its public suite; else of the largest suite.

    A season that shares no recipe with its suite stands before the largest.
    """
    seasons = scored_seasons() if seasons is None else seasons
    parts, found = [], []
    for season in seasons[:1]:
        public = public_results(season)
        found, known = drops_of(season, public), public[0].suite.name
        parts.append(brief(season.results, metric, SEASON_TITLE.format(name=season.name), found, known))
    if not found:
        suite = headline_suite(suites_with_results())
        parts.append(brief(results_of(suite.name), metric, f"Suite `{suite.name}`, *public*"))
    return "\n\n".join(parts)


def brief(results: Sequence[Result], metric: str, title: str, found: Sequence[Drop] = (), known: str = "") -> str:
    """The best of each state in turn, the reference, and `uniform` last; ``found``: drops from the suite ``known``.

    Raises `ResultError` without a reference.
    """
    grid, reference = result_grid(results, metric), reference_of(results)
    if grid is None or reference is None:
        raise ResultError(f"{title}: the brief table needs {metric} and the reference")
    horizon = BRIEF_HORIZON if BRIEF_HORIZON in grid.horizons else grid.horizons[-1]
    states, k = _states(grid), grid.horizons.index(horizon)
    rows = {(row.state, row.forecaster): row for row in grid.rows}
    best = [[row.forecaster for row in grid.rows if row.state == state] for state in states]
    last = (reference.name, "uniform")
    wanted = [name for pair in zip(*best, strict=True) for name in pair if name not in last]
    chosen = [*list(dict.fromkeys(wanted))[: BRIEF_ROWS - 2], reference.name]
    spent = {result.name: cpu_ms(result) for result in results}
    lost = {one.forecaster: _drop_cells(one) for one in found}
    lines = []
    for name in [*chosen, *(["uniform"] if "uniform" in spent else [])]:
        cells = [rows[state, name] for state in states]
        errors = [text for row in cells for text in (three_digits(row.value_K[k]), f"{row.skill_value or 0.0:+.3f}")]
        beside = lost.get(name, (NOTHING,) * 3) if found else ()
        lines.append((f"`{name}`", *errors, *beside, three_digits(spent[name])))
    beside_heads = ("skill", f"skill, {known} *public*", "drop") if found else ()
    heads = ("forecaster", *(f"{state}{word}" for state in states for word in ("", ", skill")), *beside_heads, "ms")
    words = (
        f"{title}: the part of the tokens that the forecast of the next {horizon} steps would plan "
        "for the wrong expert, while the loads still move and once they have settled; skill over all horizons: "
        f"1 - error / error of `{reference.name}`, the mean of the last 100 steps. `uniform` is no forecast at all. "
    )
    if found:
        closed = ", closed since," if load_suite(known).submissions == "closed" else ","
        words += (
            f"Skill over both states here and on the public suite `{known}`{closed} on the recipes that both have; "
            "drop: what is lost between them beyond the median of the unfitted baselines, as a mean log ratio. "
        )
    words += (
        "ms: CPU time of a forecast, observing included. "
        "All rows, with intervals: [results](docs/reports/results.md#all-forecasters)."
    )
    return f"{markdown_table(heads, lines)}\n\n{words}"


PARTS: Mapping[str, Maker] = {"headline": headline_part, "brief": brief_part}
