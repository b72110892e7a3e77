"""Recipes that are drawn after closing, by `moeload-bench recipes draw`'s rule, from the secret and the public value.

The seed of a set is `draw_number(secret, value, set, 0, "recipes")`; the run of a drawn recipe has its seed as in any
season. So anybody derives the recipes from the plan, the distribution's file and the public value.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from leaderboard.season_tools.drawing import draw_number, recipe_sha256
from leaderboard.season_tools.folder import SeasonFolder, read_text, record_sha256
from leaderboard.season_tools.levels import level_words, new_kinds, poorest_draw, recipe_levels, train_levels
from leaderboard.season_tools.records import DrawFile, DrawnSet, DrawPlan, Imported, Plan, PlannedRecipe, SetFile
from moeload_bench.errors import MoeloadError, SeasonError
from moeload_bench.files import write_whole
from moeload_bench.recipes.distribution import Distribution
from moeload_bench.recipes.draws import draw_recipes, load_distribution, recipe_of, recipe_toml
from moeload_bench.recipes.recipe import Recipe
from moeload_bench.schema import first_problem, read_toml
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import data_sha256, read_trace, stored_meta


def plan_draws(file: Path, season: str, base: Suite) -> tuple[DrawPlan, list[Path]]:
    """Return what a file asks to draw, as the plan publishes it, and the traces of its imported logs.

    Raises `SeasonError` for a set whose weights or number do not fit its distribution, or whose recipes could have too
    few levels that no `train` run has.
    """
    asked = read_toml(DrawFile, file, "draws", SeasonError)
    if base.horizon < asked.horizon or asked.horizon not in base.horizons:
        raise SeasonError(f"{file}: horizon: got {asked.horizon}, expected one of suite {base.name}: {base.horizons}")
    train = train_levels(stored_meta(base.file_of(entry.id)) for entry in base.fit)
    sets = tuple(_planned_set(one, file.parent, season, train) for one in asked.sets)
    logs = [file.parent / name for name in asked.imported]
    terms = asked.model_dump(exclude={"sets", "imported"})
    return DrawPlan(**terms, sets=sets, imported=tuple(map(_imported, logs)), train_levels=train), logs


def _planned_set(one: SetFile, folder: Path, season: str, train: dict[str, tuple[str, ...]]) -> DrawnSet:
    path = folder / one.distribution
    distribution = load_distribution(path)
    try:
        made = DrawnSet(
            **one.model_dump(),
            sha256=record_sha256(path),
            prefix=f"{season.replace('_', '-')}{one.name}-",
            quotas=distribution.quotas,
        )
    except ValidationError as error:
        raise SeasonError(f"{path}: {first_problem(error, 'set')}") from None
    for line in few_levels(made, distribution, train):
        raise SeasonError(line)
    return made


def few_levels(one: DrawnSet, distribution: Distribution, train: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Say where a set's distribution could give a recipe with too few levels that no `train` run has."""
    new = poorest_draw(distribution, train)
    if len(new) < one.new_levels:
        yield (
            f"set {one.name}: {one.distribution} can draw a recipe with {len(new)} kinds of levels that no train run "
            f"has ({level_words(new)}), expected {one.new_levels}"
        )


def _imported(path: Path) -> Imported:
    trace = read_trace(path)
    if trace.meta.stride != 1:
        raise SeasonError(f"{path}: rows are {trace.meta.stride} steps apart, expected each step: horizons begin at 1")
    return Imported(trace=trace.id, data_sha256=data_sha256(trace))


def keep_files(folder: SeasonFolder, draws: DrawPlan, source: Path, logs: Sequence[Path]) -> None:
    """Copy the distributions and the imported logs into the season's folder."""
    for one in draws.sets:
        shutil.copyfile(source / one.distribution, folder.path / one.distribution)
    for log, path in zip(draws.imported, logs, strict=True):
        target = folder.traces / f"{log.trace}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def planned_distribution(folder: SeasonFolder, one: DrawnSet) -> Distribution:
    """Return the distribution of a set; raise `SeasonError` when it is not the one that was committed to."""
    path = folder.path / one.distribution
    if not path.is_file():
        raise SeasonError(f"set {one.name}: {path} is not there: its distribution is left out")
    found = record_sha256(path)
    if found != one.sha256:
        raise SeasonError(
            f"set {one.name}: {one.distribution} has changed: its SHA-256 is {found[:12]}, the plan's {one.sha256[:12]}"
        )
    return _distribution(path, found)


@lru_cache(maxsize=8)
def _distribution(path: Path, _sha256: str) -> Distribution:
    """Read once for each content: every choice of a distribution is checked when it is read."""
    return load_distribution(path)


def set_seed(secret: str, value: str, name: str) -> int:
    """Return the seed of a set of recipes."""
    return draw_number(secret, value, name, 0, "recipes")


def drawn_recipes(folder: SeasonFolder, value: str) -> dict[str, list[Recipe]]:
    """Return the recipes of a public value by set; raise `SeasonError` for another distribution than the plan's."""
    plan, secret, found = folder.plan(), folder.secret(), {}
    for one in plan.draws.sets if plan.draws else ():
        distribution = planned_distribution(folder, one).model_copy(update={"prefix": one.prefix})
        drawn = draw_recipes(distribution, one.recipes, set_seed(secret, value, one.name))
        found[one.name] = [recipe_of(distribution, each) for each in drawn]
    return found


def drawn_plan(folder: SeasonFolder) -> Plan:
    """Return the plan with the recipes that were drawn; raise `SeasonError` before the draw.

    The plan of a season whose recipes stood before closing is returned as it is.
    """
    plan, draw = folder.plan(), folder.draw()
    if plan.draws is None:
        return plan
    if draw is None:
        raise SeasonError(f"season {plan.name}: nothing is drawn yet: `python -m leaderboard season draw` comes first")
    recipes = (recipe for found in drawn_recipes(folder, draw.value).values() for recipe in found)
    planned = (
        PlannedRecipe(name=each.name, version=each.version, sha256=recipe_sha256(each), steps=each.steps)
        for each in recipes
    )
    return plan.model_copy(update={"recipes": tuple(planned)})


def write_recipes(folder: SeasonFolder, value: str) -> None:
    """Write every drawn recipe to `recipes/NAME.toml`."""
    for found in drawn_recipes(folder, value).values():
        for recipe in found:
            write_whole(folder.recipes / f"{recipe.name}.toml", recipe_toml(recipe).encode())


def draw_problems(folder: SeasonFolder, value: str, base: Suite, note: Callable[[str], None]) -> Iterator[str]:
    """Say where drawn recipes are not those of the plan and the public value, or are not as new as the plan says."""
    draws = folder.plan().draws
    if draws is None:
        return
    try:
        found = train_levels(stored_meta(base.file_of(entry.id)) for entry in base.fit)
    except MoeloadError as error:
        note(f"levels of the train runs not compared: {error}")
    else:
        if found != draws.train_levels:
            yield "plan.json: the levels of the train runs are not those of their traces"
    for one in draws.sets:
        yield from few_levels(one, planned_distribution(folder, one), draws.train_levels)
    written = {path.stem for path in folder.recipes.glob("*.toml")}
    sets = drawn_recipes(folder, value)
    for one in draws.sets:
        for recipe in sets[one.name]:
            path = folder.recipes / f"{recipe.name}.toml"
            if recipe.name not in written:
                yield f"recipe {recipe.name}: left out: {path} is not there"
            elif read_text(path) != recipe_toml(recipe):
                yield f"recipe {recipe.name}: {path} is not what the draw gives"
            new = new_kinds(recipe_levels(recipe), draws.train_levels)
            if one.new_levels:
                note(f"recipe {recipe.name}: no train run has {level_words(new)}")
    for name in sorted(written - draws.stratum_of.keys()):
        yield f"recipe {name}: not drawn"
    for log in draws.imported:
        path = folder.traces / f"{log.trace}.parquet"
        if not path.is_file() or data_sha256(read_trace(path)) != log.data_sha256:
            yield f"imported log {log.trace}: left out, or changed since the plan"
