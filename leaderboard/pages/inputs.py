"""What pages are made from: results on runs that are never pooled with others, read once."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from leaderboard.breadth import breadth_words, season_metas
from leaderboard.committed import (
    SUBMISSIONS,
    committed_results,
    model_type_of,
    recipe_of_run,
    suites_with_results,
)
from leaderboard.season.entries import read_entry
from leaderboard.season.scored import ScoredSeason, facts_sentence, scored_seasons, season_facts
from moeload_bench.generator.recipe import Recipe
from moeload_bench.publishing.folder import RECORD, read_folder
from moeload_bench.publishing.submission import Submission
from moeload_bench.results.results import Results
from moeload_bench.results.strata import size_groups, with_size
from moeload_bench.suites.suite import Suite, load_suite

LOSS_FREE = "loss_free_bias"


@dataclass(frozen=True, eq=False)
class RunSet:
    """Results on runs that are never pooled with others: a set of a season, or a public suite.

    ``breadth`` says how far the runs reach. ``fitted`` are the recipes of which learned entries saw a run in training;
    ``unlike``: each recipe has levels, such as a family or an optimizer, that no run in training has. ``loss_free``:
    balanced without a loss.
    """

    title: str
    results: Results
    fitted: frozenset[str] = frozenset()
    unlike: bool = False
    loss_free: frozenset[str] = frozenset()
    breadth: str = ""

    @cached_property
    def recipes(self) -> set[str]:
        return set(self.results.table["recipe"])

    @cached_property
    def sizes(self) -> Mapping[str, Results]:
        """Return the results on each size of batch, by a title."""
        return {with_size(self.title, size): part for size, part in size_groups(self.results).items()}

    def on(self, recipes: Collection[str]) -> Results:
        """Return the results on the runs of these recipes."""
        if self.recipes <= set(recipes):
            return self.results
        table = self.results.table
        return self.results.select(traces=set(table.loc[table["recipe"].isin(recipes), "trace"]))


@functools.cache
def suite_results(suite: str) -> Results:
    """Return the committed results of a suite, read once."""
    return committed_results(suite)


@functools.cache
def largest_suite() -> Suite:
    """Return the suite with the most scored runs, of those with committed results."""
    return max(map(load_suite, suites_with_results()), key=lambda suite: len(suite.traces))


@functools.cache
def newest_season() -> ScoredSeason | None:
    """Return the newest scored season."""
    return next(iter(scored_seasons()), None)


def season_name() -> str:
    """Return the name of the newest season."""
    season = newest_season()
    return season.name if season else ""


def season_sentence() -> str:
    """Return who entered, drew and scored the newest season."""
    season = newest_season()
    return facts_sentence(season_facts(season.folder)) if season else ""


def candidate() -> str:
    """Return the entry that the newest season named before its runs were drawn."""
    season = newest_season()
    return season.season.candidate if season else ""


def tuned_average() -> str:
    """Return the average that the newest season compares its candidate with."""
    season = newest_season()
    return season.season.reference if season else ""


@functools.cache
def season_sets() -> list[RunSet]:
    """Return the tested sets of the newest season, those unlike training last."""
    season = newest_season()
    if season is None:
        return []
    sets = []
    for group in sorted(season.season.tested, key=lambda group: group.new_levels):
        recipes = season.recipes[group.name]
        results = season.on(season.strata(group))
        metas, texts = season_metas(season, recipes), season.season.train_levels.get("text", ())
        sets.append(RunSet(f"set {group.name}", results, unlike=group.new_levels > 0, loss_free=_loss_free(recipes),
                            breadth=breadth_words(metas, texts)))  # fmt: skip
    return sets


@functools.cache
def suite_set(name: str) -> RunSet:
    """Return the runs of a public suite, of whose recipes some have runs that entries were fitted on."""
    suite, results = load_suite(name), suite_results(name)
    recipes = {str(recipe): recipe_of_run(str(recipe)) for recipe in results.table["recipe"].unique()}
    fitted = frozenset(trace.id.split("/")[0] for trace in suite.fit) & recipes.keys()
    return RunSet(f"suite `{name}`", results, fitted, loss_free=_loss_free(recipes))


def run_sets() -> Iterator[RunSet]:
    """Yield the sets of the newest season, then the largest public suite."""
    yield from season_sets()
    yield suite_set(largest_suite().name)


def _loss_free(recipes: Mapping[str, Recipe]) -> frozenset[str]:
    return frozenset(name for name, recipe in recipes.items() if recipe.balancing.method == LOSS_FREE)


LEARNS_NOTHING = "learns nothing"
TRACKS = {
    LEARNS_NOTHING: ("statistical", "yardstick"),
    "fitted on our open runs": ("learned",),
    "pretrained elsewhere": ("pretrained",),
}
"""Entries that are compared with each other, by the type of their model."""


@functools.cache
def _submission(name: str) -> Submission | None:
    """Return an entry's record, from the newest season where that copied it: there it says what its weights say."""
    season = newest_season()
    if season is not None and name in season.season.entries:
        return read_entry(season.folder.entries / name).record
    path = SUBMISSIONS / name
    return read_folder(path).record if (path / RECORD).is_file() else None


def track_of(results: Results, name: str) -> str:
    """Return the track of an entry."""
    kind = model_type_of(results.entries[name], _submission(name))
    return next(track for track, kinds in TRACKS.items() if kind in kinds)
