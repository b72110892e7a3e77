"""What is left to chance in a season, as a function of its public value: recipes and seeds.

    SHA-256(JSON of ["moeload-bench season", 1, "", public value, name, 0, what]), its first 63 bits

The seed of a run has its recipe as the name and `seed` as ``what``; that of a set of recipes, the set and `recipes`.
Recipes that differ in the balancing alone share a name and a seed (`shared_name`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from leaderboard.season.folder import SeasonFolder, require_committed, season_sha256, utc_now
from leaderboard.season.levels import level_words, new_kinds, recipe_levels
from leaderboard.season.records import Draw, DrawnRun, RecipeSet, Season, write_manifest
from leaderboard.season.releases import Release, first_release
from moeload_bench.errors import SeasonError
from moeload_bench.generator.draws import draw_recipes, expert_tokens, load_distribution, recipe_of, shared_name
from moeload_bench.generator.recipe import Recipe, load_recipe
from moeload_bench.traces.meta import STRATA, Stratum, stratum_of

BITS = 63


class PublicValue(NamedTuple):
    """A value that draws, ``where`` anybody can look it up, and for a release's hash what the index listed."""

    value: str
    where: str
    extract: tuple[Release, ...] = ()


Recipes = dict[str, dict[str, Recipe]]
"""By set and name."""


def draw_number(value: str, name: str, what: str) -> int:
    """Return a number of 63 bits."""
    text = json.dumps(["moeload-bench season", 1, "", value, name, 0, what], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - BITS)


def set_recipes(folder: Path, season: Season, group: RecipeSet, value: str) -> list[Recipe]:
    """Return the recipes of a set: known ones, or those that the value draws from its distribution."""
    if group.recipes:
        return [load_recipe(str(folder / "recipes" / f"{name}.toml")) for name in group.recipes]
    prefix = f"{season.name.replace('_', '-')}{group.name}-"
    distribution = load_distribution(folder / group.distribution).model_copy(update={"prefix": prefix})
    seed = draw_number(value, group.name, "recipes")
    return [recipe_of(distribution, drawn) for drawn in draw_recipes(distribution, distribution.size, seed)]


def season_recipes(folder: SeasonFolder, value: str) -> Recipes:
    """Return the recipes of a season by set and name."""
    season = folder.season
    by_set = ((group.name, set_recipes(folder.path, season, group, value)) for group in season.sets)
    return {name: {recipe.name: recipe for recipe in recipes} for name, recipes in by_set}


def recipe_stratum(recipe: Recipe) -> Stratum | None:
    """Return the stratum of a recipe by its tokens per expert and step; None between two."""
    return stratum_of(expert_tokens(recipe))


def recipe_sha256(recipe: Recipe) -> str:
    """Return the hash of a recipe's content, whatever its file looks like."""
    text = json.dumps(recipe.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def drawn_runs(season: Season, recipes: Recipes, value: str) -> dict[str, DrawnRun]:
    """Return what is drawn for the run of every recipe."""
    return {
        name: DrawnRun(recipe_sha256=recipe_sha256(recipe), seed=draw_number(value, shared_name(recipe), "seed"))
        for of_set in recipes.values()
        for name, recipe in of_set.items()
    }


def unfit_recipes(season: Season, recipes: Recipes) -> Iterator[str]:
    """Say which recipes have too few levels that no `train` run has, or batches between two sizes.

    And which families the terms list that are not those of the tested set.
    """
    for group in season.sets:
        for name, recipe in recipes[group.name].items():
            new = new_kinds(recipe_levels(recipe), season.train_levels)
            if len(new) < group.new_levels:
                yield f"recipe {name}: no train run has {level_words(new)}, expected {group.new_levels} kinds of levels"
            if recipe_stratum(recipe) is None:
                yield f"recipe {name}: its batches lie between small and large, expected {' or '.join(STRATA)}"
    if season.unit == "family":
        (tested,) = season.tested
        drawn = dict.fromkeys(recipe.model.family for recipe in recipes[tested.name].values())
        if {*drawn} != {*season.families}:
            yield f"families are {', '.join(drawn)}, the terms list {', '.join(season.families)}"


def draw_season(folder: SeasonFolder, value: PublicValue) -> Draw:
    """Write the public value and what it draws.

    Raises `SeasonError` for a season that is not committed, a value of another form or too early, and a second draw.
    """
    season = folder.season
    if (folder.path / "draw.json").is_file():
        raise SeasonError(f"season {season.name} is drawn already, with {folder.draw.value!r}: nothing is drawn twice")
    require_committed(folder)
    if utc_now() < season.value_after:
        raise SeasonError(f"the public value is known after {season.value_after:%Y-%m-%d %H:%M} UTC, it is before that")
    used = check_value(season, value.value)
    made = Draw(
        season_sha256=season_sha256(folder),
        value=used,
        where=value.where,
        public=True,
        drawn=utc_now(),
        extract=value.extract,
        runs=drawn_runs(season, season_recipes(folder, used), used),
    )
    write_manifest(made, folder.path / "draw.json")
    return made


def typed_value(season: Season, value: str | None, where: str | None) -> PublicValue:
    """Return a value that is typed; raise `SeasonError` without one, and for a season that reads its own."""
    if season.value_project:
        raise SeasonError(
            f"the value of season {season.name} is read from the index, expected no --value and no --where"
        )
    if value is None or where is None:
        raise SeasonError(f"expected --value and --where, as season.toml says: {season.value_rule}")
    return PublicValue(value, where)


def released_value(season: Season, releases: Sequence[Release]) -> PublicValue:
    """Return the value of a season that takes a release's hash; raise `SeasonError` as `first_release`."""
    first, following = first_release(releases, season.known_releases, season.value_after)
    uploaded = f"{first.uploaded:%Y-%m-%dT%H:%M:%SZ}"
    where = f"the package index's page of {season.value_project}: {first.file}, uploaded {uploaded}"
    oldest = min((*season.known_releases, first), key=lambda release: release.order)
    extract = tuple(release for release in releases if oldest.order <= release.order <= following.order)
    return PublicValue(first.sha256, where, extract)


def check_value(season: Season, value: str) -> str:
    """Return a public value; raise `SeasonError` where it is not of the season's form, so that it has one spelling."""
    if not re.fullmatch(season.value_form, value):
        raise SeasonError(f"the public value: got {value[:80]!r}, expected the form {season.value_form}")
    return value
