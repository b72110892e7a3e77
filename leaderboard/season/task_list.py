"""The task list of a scored season as a file of the package: whoever comes later runs it as any other suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from leaderboard.season.scored import ScoredSeason
from leaderboard.suites.freeze import SUITES, to_toml
from leaderboard.suites.plan import families


def task_list_file(season: str) -> Path:
    """Return where the package has the task list of a season."""
    return SUITES / f"{season}.toml"


def task_list_text(scored: ScoredSeason) -> str:
    """Return the season's `suite.json` as the file of a suite, with the same hash: the sets say what is averaged.

    Its runs are published in the dataset of the suite that the season is based on, at the same tag.
    """
    fields = {"tables": dict(_tables(scored)), "families": _families(scored), "hub": scored.folder.base.hub}
    return to_toml(scored.suite.model_copy(update=fields))


def _scored_recipes(scored: ScoredSeason) -> set[str]:
    return {trace.id.split("/")[0] for trace in scored.suite.traces}


def _families(scored: ScoredSeason) -> dict[str, tuple[str, ...]]:
    drawn = (recipe for recipes in scored.recipes.values() for recipe in recipes.values())
    return families(recipe for recipe in drawn if recipe.name in _scored_recipes(scored))


def _tables(scored: ScoredSeason) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield a title and its recipes for each set, for each run of a set whose runs are reported one by one."""
    has_tasks = _scored_recipes(scored)
    for group in scored.season.sets:
        recipes = tuple(name for name in sorted(scored.recipes[group.name]) if name in has_tasks)
        if group.report == "runs":
            yield from ((f"set {group.name}, {name}", (name,)) for name in recipes)
        elif recipes:
            yield f"set {group.name}", recipes
