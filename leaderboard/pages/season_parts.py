"""Parts of a season's page: how near its candidate comes to the floor of forks, and what demonstrations are worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leaderboard.season_tools.folder import read_record
from leaderboard.season_tools.forks import mean_floor
from leaderboard.season_tools.records import EntryForks
from leaderboard.season_tools.scored import FLOOR, ScoredSeason
from moeload_bench.arrays import FloatArray
from moeload_bench.results.grid import NOTHING, Standings
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.tables import signed_skill, three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS
from moeload_bench.suites.suite import STATES


def distance_parts(season: ScoredSeason, reference: str, candidate: str) -> list[str]:
    """Say how much of the way from the reference to `floor_fork` the candidate closes where runs fork; [] without any.

    A forecaster's error at an origin is the mean over all futures of that past, of which one was recorded.
    """
    if season.floors is None:
        return []
    lines, seen = [], 0
    for state in LABELS:
        floors = [one for one in season.floors.floors if one.state == state]
        if not floors:
            continue
        seen += len(floors)
        floor_K, error_K = mean_floor([(one.trace, np.array(one.floor_K), np.array(one.error_K)) for one in floors])
        at = {(one.trace, one.origin) for one in floors}
        own_K, reference_K = (_fork_error(season, name, at) for name in (candidate, reference))
        if own_K is None or reference_K is None:
            continue
        for k, horizon in enumerate(season.floors.horizons):
            own, other, floor = own_K[k], reference_K[k], floor_K[k]
            closed = f"{100 * (other - own) / (other - floor):.0f} %" if other > floor else NOTHING
            lines.append((
                f"{state}, `{candidate}`", f"{horizon:,}", three_digits(other), three_digits(own),
                f"{three_digits(floor)} ± {three_digits(error_K[k])}", closed,
            ))  # fmt: skip
    words = (
        f"{PRIMARY} where runs fork, at the {seen} of {len(season.floors.floors)} origins in these states: means over "
        f"{season.floors.futures} futures of the same past, of `{reference}` and of the candidate. "
        f"*{FLOOR}*: what is left to whoever knows the whole state of training and not the text to come, ± its "
        f"standard error. Closed: the part of the distance between the two that the candidate closes."
    )
    without = [state for state in LABELS if state not in {one.state for one in season.floors.floors}]
    if without:
        words += f" No origin of forks was drawn in the {' or '.join(without)} state."
    heads = ("state, leader", "h", reference, "candidate", FLOOR, "closed")
    return [markdown_table(heads, lines), words, _power(season)]


def _fork_error(season: ScoredSeason, name: str, at: set[tuple[str, int]]) -> FloatArray | None:
    """Return [K]: the mean over origins of the mean over futures; None where the entry failed at all of them."""
    tasks = read_record(EntryForks, season.folder.forks / f"{name}.json").tasks
    found = [np.mean(task.loss_JK, axis=0) for task in tasks if (task.trace, task.origin) in at and not task.failure]
    return np.mean(found, axis=0) if found else None


def _power(season: ScoredSeason) -> str:
    assert season.floors is not None
    found = [f"{100 * each['all']:.0f} % with weight {weight}" for weight, each in season.floors.power.items()]
    level = season.floors.level
    return (
        f"The fork test, at {level:g}, finds one that knows the futures of all forked runs exactly in "
        f"{', in '.join(found)} (weight: how far its forecast moves from the moving average towards what it knows)."
    )


def demonstration_parts(
    season: ScoredSeason, public: Sequence[Result], reference: str, states: Sequence[str]
) -> list[str]:
    """Return skill of the unranked here and on public runs, and the p of their fork test; [] without any."""
    if not season.unranked:
        return []
    lines = []
    for result in season.unranked:
        here, shown = _skills(result, season.results, reference), season.shown.get(result.name)
        there = {} if shown is None else _skills(shown, public, reference)
        test = season.tests.get(result.name)
        cells = [side.get(state, NOTHING) for state in states for side in (there, here)]
        lines.append((f"`{result.name}`", *cells, f"{test.p_value:.2g}" if test else NOTHING))
    name = public[0].suite.name if public else "public"
    heads = [head for state in states for head in (f"{state}, {name}", f"{state}, season")]
    return [markdown_table(("skill", *heads, "fork test p"), lines)]


def _skills(result: Result, beside: Sequence[Result], reference: str) -> dict[str, str]:
    """Return it by state, on the runs of the results beside it; raise `ResultError` for another suite."""
    scores = Standings([result], PRIMARY, next(one for one in beside if one.name == reference))
    return {state: signed_skill(scores.rows(state)[0].skill) for state in STATES}
