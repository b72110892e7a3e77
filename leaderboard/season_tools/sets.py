"""A season of drawn recipes by set and stratum: neither is ever pooled with another one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from leaderboard.season_tools.records import DrawnSet
from leaderboard.season_tools.scored import ScoredSeason
from moeload_bench.results.comparison import with_runs_of
from moeload_bench.traces.meta import Stratum


def by_set(season: ScoredSeason) -> dict[str, ScoredSeason]:
    """Return the season on the runs of each set that has some, by its name; one of known recipes as it is, under ""."""
    draws = season.draws
    if draws is None:
        return {"": season}
    parts = {one.name: only_recipes(season, one.stratum_of, f"{season.suite.name}-{one.name}") for one in draws.sets}
    return {name: part for name, part in parts.items() if part.suite.traces}


def by_part(season: ScoredSeason) -> dict[str, ScoredSeason]:
    """Return the season on the runs of each stratum of each set that has some, by a title; see `by_set`."""
    draws = season.draws
    if draws is None:
        return {"": season}
    parts = {}
    for one in draws.sets:
        for stratum, recipes in recipes_by_stratum(one).items():
            part = only_recipes(season, recipes, f"{season.suite.name}-{one.name}-{stratum}")
            parts[f"set {one.name}, {stratum} batches"] = part
    return {title: part for title, part in parts.items() if part.suite.traces}


def recipes_by_stratum(drawn: DrawnSet) -> dict[Stratum, list[str]]:
    """Return the names of a set's recipes by stratum, small batches first, whether they could be scored or not."""
    found = drawn.stratum_of
    return {each: [name for name in found if found[name] == each] for each in sorted(drawn.weights, reverse=True)}


def only_recipes(season: ScoredSeason, recipes: Collection[str], name: str) -> ScoredSeason:
    """Return a scored season on the runs of these recipes; ``name``: of its suite, as tables and files are called."""
    traces = tuple(trace for trace in season.suite.traces if trace.id.split("/")[0] in recipes)
    ids = {trace.id for trace in traces}
    found = season.floors
    if found is not None:
        kept = tuple(one for one in found.floors if one.trace in ids)
        found = found.model_copy(update={"floors": kept}) if kept else None
    return replace(
        season,
        suite=season.suite.model_copy(update={"name": name, "traces": traces}),
        results=tuple(with_runs_of(season.results, ids)),
        unranked=tuple(with_runs_of(season.unranked, ids)),
        floors=found,
    )
