"""The results of a season as one table: the one place where pages read a season."""

from __future__ import annotations

import functools

from leaderboard.season_tools.scored import ScoredSeason
from moeload_bench.recipes.recipe import Recipe, load_recipe
from moeload_bench.results.entry import Entry
from moeload_bench.results.results import Results


@functools.cache
def season_results(season: ScoredSeason) -> Results:
    """Return the results of the entries that have a rank."""
    strata = {trace: stratum for stratum, traces in season.suite.strata().items() for trace in traces}
    entries = [
        Entry(**result.model_dump(include={*Entry.model_fields}), **result.forecaster.model_dump())
        for result in season.results
    ]
    return Results.of(entries, {result.name: result.runs for result in season.results}, strata)


def season_recipe(season: ScoredSeason, name: str) -> Recipe:
    """Return a recipe of a season."""
    return load_recipe(str(season.folder.recipes / f"{name}.toml"))
