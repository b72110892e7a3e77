"""Parts of a season's page: what demonstrations are worth."""

from __future__ import annotations

from collections.abc import Sequence

from leaderboard.season_tools.scored import ScoredSeason
from moeload_bench.results.grid import NOTHING, Standings
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.tables import signed_skill
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import STATES


def demonstration_parts(
    season: ScoredSeason, public: Sequence[Result], reference: str, states: Sequence[str]
) -> list[str]:
    """Return skill of the unranked here and on public runs; [] without any."""
    if not season.unranked:
        return []
    lines = []
    for result in season.unranked:
        here, shown = _skills(result, season.results, reference), season.shown.get(result.name)
        there = {} if shown is None else _skills(shown, public, reference)
        cells = [side.get(state, NOTHING) for state in states for side in (there, here)]
        lines.append((f"`{result.name}`", *cells))
    name = public[0].suite.name if public else "public"
    heads = [head for state in states for head in (f"{state}, {name}", f"{state}, season")]
    return [markdown_table(("skill", *heads), lines)]


def _skills(result: Result, beside: Sequence[Result], reference: str) -> dict[str, str]:
    """Return it by state, on the runs of the results beside it; raise `ResultError` for another suite."""
    scores = Standings([result], PRIMARY, next(one for one in beside if one.name == reference))
    return {state: signed_skill(scores.rows(state)[0].skill) for state in STATES}
