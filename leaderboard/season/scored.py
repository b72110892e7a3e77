"""A scored season as pages are made from it: its table, its sets of recipes, and who took part."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from leaderboard.season.drawing import Recipes, recipe_stratum, season_recipes
from leaderboard.season.entries import read_entry
from leaderboard.season.folder import FACTS, SEASONS, SeasonFolder
from leaderboard.season.records import RecipeSet, Season
from leaderboard.verifying.baselines import MAINTAINERS
from moeload_bench.results.results import Results, load_results
from moeload_bench.results.storage import load_facts
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.meta import Stratum

DRAWN_BY_US = "drawn by the maintainers, who could have chosen what was drawn"


class Part(NamedTuple):
    """A size of batch of a set: its recipes, whether they could be scored or not."""

    of: RecipeSet
    stratum: Stratum
    recipes: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"set {self.of.name}, {self.stratum} batches"


class Facts(NamedTuple):
    """Who took part in a season: ``foreign`` are entries with other authors than the maintainers."""

    name: str
    entries: int
    foreign: tuple[str, ...]
    drawn_by: str
    scored_by: str


@dataclass(frozen=True, eq=False)
class ScoredSeason:
    """A season that was scored: ``table`` has all entries, those without a rank among them.

    ``drawn``: the recipes by set and name, where they are known; they are drawn when they are asked for, else.
    """

    folder: SeasonFolder
    table: Results
    drawn: Recipes | None = None

    @property
    def season(self) -> Season:
        return self.folder.season

    @property
    def name(self) -> str:
        return self.season.name

    @property
    def suite(self) -> Suite:
        """Return the task list."""
        return self.folder.suite

    @cached_property
    def results(self) -> Results:
        """Return the table of the entries that have a rank."""
        return self.table.select([name for name in self.table.names if name not in self.season.shown])

    @cached_property
    def recipes(self) -> Recipes:
        """Return the recipes by set and name."""
        return season_recipes(self.folder, self.folder.draw.value) if self.drawn is None else self.drawn

    def strata(self, group: RecipeSet) -> dict[str, Stratum]:
        """Return the stratum of every recipe of a set."""
        strata = {name: recipe_stratum(recipe) for name, recipe in self.recipes[group.name].items()}
        return {name: stratum for name, stratum in strata.items() if stratum is not None}

    @cached_property
    def parts(self) -> list[Part]:
        """Return the sizes of batches of each set, small ones first. Neither sets nor sizes are ever pooled."""
        parts = []
        for group in self.season.sets:
            strata = self.strata(group)
            for stratum in sorted({*strata.values()}, reverse=True):
                parts.append(Part(group, stratum, tuple(name for name in strata if strata[name] == stratum)))
        return parts

    def on(self, recipes: Collection[str]) -> Results:
        """Return the results of the entries that have a rank on the runs of these recipes."""
        return _on(self, frozenset(recipes))


@cache
def _on(scored: ScoredSeason, recipes: frozenset[str]) -> Results:
    """Return the results on the runs of some recipes, once: pages ask for the same many times."""
    return scored.results.select(traces=[run for run in scored.results.traces if run.split("/")[0] in recipes])


def load_table(folder: SeasonFolder, layers: bool = False) -> Results:
    """Return the table of a scored season, the suite's baselines first; raise `ResultError` for an unreadable file."""
    names = [name for name in folder.base.baselines if name in folder.season.entries]
    names += [name for name in folder.season.entries if name not in names]
    results = load_results([folder.results / f"{name}.parquet" for name in names], layers)
    return replace(results, facts=load_facts(folder.path / FACTS, results.suite.horizons))


def scored_seasons(root: Path = SEASONS) -> list[ScoredSeason]:
    """Return the scored seasons, the newest first."""
    folders = [SeasonFolder(path.parent) for path in sorted(root.glob("*/scores.json"))]
    folders.sort(key=lambda folder: (folder.season.opened, folder.season.name), reverse=True)
    return [ScoredSeason(folder, load_table(folder)) for folder in folders]


def season_facts(folder: SeasonFolder) -> Facts:
    """Return who entered, drew and scored a season: what the page and README say beside its numbers."""
    season = folder.season
    authors = {name: read_entry(folder.entries / name).record.authors for name in season.entries}
    foreign = tuple(name for name, names in authors.items() if {*names} != {MAINTAINERS})
    drawn_by = f"drawn with {folder.draw.where}" if folder.draw.public else DRAWN_BY_US
    return Facts(season.name, len(authors), foreign, drawn_by, "they were scored by the maintainers")


def facts_sentence(facts: Facts) -> str:
    """Return who entered, drew and scored a season, in a sentence."""
    ours = "are the maintainers' own or their adapters"
    who = f"all {facts.entries} entries {ours}"
    if facts.foreign:
        who = f"{len(facts.foreign)} of {facts.entries} entries are by others, the rest {ours}"
    return f"In season {facts.name} {who}; its runs were {facts.drawn_by}; {facts.scored_by}."
