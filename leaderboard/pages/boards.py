"""Two parts of docs/reports/results.md: the board of forecasts with quantiles, and skill of every pair.

Both are of the newest season, where there is one, else of the largest public suite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from leaderboard.pages.headline import CLAIM, run_mean
from leaderboard.pages.parts import Maker
from leaderboard.pages.results import largest_suite, results_by_size
from leaderboard.ranking import rank_cell, rank_sets
from leaderboard.season_tools.scored import scored_seasons
from leaderboard.season_tools.sets import by_part
from moeload_bench.results.comparison import Errors, errors_of, reference_of, skill
from moeload_bench.results.grid import NOTHING, metrics_in
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.strata import with_size
from moeload_bench.results.tables import horizon_heads, skill_span, three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import STATES

CONFORMAL = "sw_avg_conformal"
"""The moving average with conformal intervals: what quantiles are measured by."""
MOST = 8


class Board(NamedTuple):
    """What a board is of, in words, its results, and the levels of the quantiles asked for."""

    where: str
    results: Sequence[Result]
    levels: tuple[float, ...]


def newest() -> list[Board]:
    """Return the newest season, or the largest suite; sets and sizes of batch stand apart."""
    for season in scored_seasons()[:1]:
        return [
            Board(f"season `{season.name}`{title and ', '}{title}", part.results, part.suite.quantiles)
            for title, part in by_part(season).items()
        ]
    suite = largest_suite()
    return [
        Board(with_size(f"suite `{suite.name}`, *public*", size), results, suite.quantiles)
        for size, results in results_by_size(suite.name).items()
    ]


def quantile_part(given: Board) -> str:
    """Return a table per state of the forecasters that give quantiles, by skill in `wql` against the conformal
    average.
    """
    where, everybody, levels = given
    results = [result for result in everybody if "wql" in metrics_in([result])]
    if CONFORMAL not in {result.name for result in results}:
        return f"No result of {where} has quantiles beside those of `{CONFORMAL}`."
    errors, cover = errors_of(results, "wql"), errors_of(results, "coverage")
    horizons = results[0].suite.horizons
    tables = [
        _quantile_table(errors.select(state=state), cover.select(state=state), state, horizons)
        for state in _states(errors)
    ]
    words = (
        f"Of {where}. A row is a forecaster that gives quantiles; a cell is the weighted quantile loss `wql`, the mean "
        "over runs of means over origins and layers; less is better. Skill: 1 - geometric mean over tasks of the ratio "
        f"to `{CONFORMAL}`, the moving average with conformal intervals, in brackets its 95 % interval for {CLAIM}. "
        f"Ranks: the least and the greatest among {len(results)} that the runs allow for {CLAIM}. Coverage: the part "
        f"of the experts whose load lies between the outer quantiles; {levels[-1] - levels[0]:g} is right."
    )
    return "\n\n".join([*tables, words])


def _quantile_table(errors: Errors, cover: Errors, state: str, horizons: Sequence[int]) -> str:
    ranks = rank_sets(errors.by_forecaster, errors.tasks)
    found = {name: skill(errors, name, CONFORMAL) for name in errors.by_forecaster}
    rows = [
        (
            f"`{name}`",
            *(three_digits(run_mean(errors.select(horizon=h), name)) for h in horizons),
            skill_span(*found[name]),
            rank_cell(ranks, name),
            three_digits(run_mean(cover, name)),
        )
        for name in sorted(found, key=lambda name: -found[name][0])
    ]
    return markdown_table((f"{state}, `wql`", *horizon_heads(horizons), "skill", "ranks", "coverage"), rows)


def pairs_part(given: Board) -> str:
    """Return a matrix per state: the skill of a row's forecaster against a column's, with its interval."""
    where, results, _ = given
    reference = reference_of(results)
    if reference is None:
        return f"The reference of {where} is not among its results: no pairs are shown."
    errors = errors_of(results, PRIMARY)
    tables = [_pairs_table(errors.select(state=state), state, reference.name) for state in _states(errors)]
    words = (
        f"Of {where}, the {MOST} of most skill in {PRIMARY} and the reference. A cell is the skill of the row's "
        "forecaster against the column's: 1 - geometric mean over all tasks of the state of the ratio of their errors, "
        f"in brackets its 95 % interval for {CLAIM}. Above 0: the row's errs less. Bold: the interval does not hold 0; "
        "no correction is made for the number of pairs, which the ranks above are corrected for."
    )
    return "\n\n".join([*tables, words])


def _pairs_table(errors: Errors, state: str, reference: str) -> str:
    known = {name: skill(errors, name, reference)[0] for name in errors.by_forecaster}
    best = sorted((name for name in known if name != reference), key=lambda name: -known[name])[:MOST]
    names = sorted([*best, reference], key=lambda name: -known[name])
    rows = [(f"`{one}`", *(_pair(errors, one, other) for other in names)) for one in names]
    return markdown_table((state, *(f"`{name}`" for name in names)), rows)


def _pair(errors: Errors, one: str, other: str) -> str:
    if one == other:
        return NOTHING
    value, intervals = skill(errors, one, other)
    span = next((found for found in intervals if found.claim == CLAIM), None)
    text = f"{value:+.2f}" + ("" if span is None else f" [{span.low:+.2f}, {span.high:+.2f}]")
    return f"**{text}**" if span is not None and not span.low <= 0 <= span.high else text


def _states(errors: Errors) -> Iterator[str]:
    return (state for state in STATES if state in errors.state_T)


PARTS: Mapping[str, Maker] = {
    "quantiles": lambda: "\n\n".join(map(quantile_part, newest())),
    "pairs": lambda: "\n\n".join(map(pairs_part, newest())),
}
