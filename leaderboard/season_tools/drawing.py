"""Everything that is left to chance in a season, as a pure function of the secret and the public value.

    SHA-256(JSON of ["moeload-bench season", 1, secret, public value, recipe, run, what]), its first 63 bits

The maintainer knows the secret, and not the public value, when the entries close; an entrant neither. So nobody could
have recorded the runs before. Another number for each recipe and run, so that one does not give away another.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import ValidationError

from leaderboard.season_tools.records import Drawn, ForkPlan, Plan, PlannedRecipe, Varies
from moeload_bench.errors import SeasonError
from moeload_bench.recipes.recipe import Recipe
from moeload_bench.schema import first_problem

BITS = 63


def draw_number(secret: str, value: str, recipe: str, run: int, what: str) -> int:
    """Return a number of 63 bits."""
    text = json.dumps(["moeload-bench season", 1, secret, value, recipe, run, what], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - BITS)


def secret_sha256(secret: str) -> str:
    """Return what is published of the secret before."""
    return hashlib.sha256(bytes.fromhex(secret)).hexdigest()


def draw_run(plan: Plan, secret: str, value: str, recipe: str, run: int) -> Drawn:
    """Return all that is drawn for one run of the plan."""
    planned, forks = plan.recipe(recipe), plan.forks_of(recipe)

    def number(what: str) -> int:
        return draw_number(secret, value, recipe, run, what)

    origins: tuple[int, ...] = ()
    if forks is not None:
        draws = [number(f"origin {i}") for i in range(forks.origins)]
        origins = fork_origins(planned.steps, forks, plan.checkpoint_every, draws)
    return Drawn(
        recipe=recipe,
        run=run,
        seed=number("seed"),
        varied={varies.key: value_in_range(varies, number(f"varies {varies.key}")) for varies in planned.varies},
        fork_origins=origins,
        fork_seeds=tuple(
            tuple(number(f"future {j} of origin {i}") for j in range(forks.futures)) if forks else ()
            for i in range(len(origins))
        ),
    )


def all_drawn(plan: Plan, secret: str, value: str) -> tuple[Drawn, ...]:
    """Return what is drawn for every run of the plan, in its order."""
    return tuple(draw_run(plan, secret, value, recipe, run) for recipe, run in plan.wanted())


def value_in_range(varies: Varies, number: int) -> float:
    """Return a value of the range from a drawn number."""
    if varies.kind == "integer":
        return varies.low + (number * (int(varies.high - varies.low) + 1) >> BITS)
    return float(f"{varies.low * (varies.high / varies.low) ** (number / 2**BITS):.6g}")


def fork_origins(steps: int, forks: ForkPlan, every: int, draws: list[int]) -> tuple[int, ...]:
    """Return steps at which a run forks: multiples of ``every`` (there the recording has checkpoints), one of each of
    the plan's ranges. Raises `SeasonError` where they do not fit.
    """
    return tuple(
        _step_within(first, last, steps - forks.steps, every, number)
        for (first, last), number in zip(forks.within, draws, strict=True)
    )


def _step_within(first: int, last: int, latest: int, every: int, number: int) -> int:
    """Return one of the multiples of ``every`` from ``first`` to ``last``, by a drawn number."""
    found = range(-(-first // every) * every, min(last, latest) + 1, every)
    if not found or found[0] < 1:
        raise SeasonError(f"no fork fits steps {first} to {last}: checkpoints are {every} steps apart, until {latest}")
    return found[number % len(found)]


def recipe_sha256(recipe: Recipe) -> str:
    """Hash of a recipe's content, whatever its file looks like."""
    text = json.dumps(recipe.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def varied_recipe(recipe: Recipe, planned: PlannedRecipe, values: Drawn) -> Recipe:
    """Return the recipe with a run's drawn numbers in their places; raise `SeasonError` for a key that it does not
    have.
    """
    tree: Any = recipe.model_dump(mode="json")
    for varies in planned.varies:
        *path, last = varies.key.split(".")
        place = tree
        try:
            for name in path:
                place = place[int(name)] if isinstance(place, list) else place[name]
            kind = int if varies.kind == "integer" else float
            key = int(last) if isinstance(place, list) else last
            if not isinstance(place[key], int | float):
                raise TypeError
            place[key] = kind(values.varied[varies.key])
        except (KeyError, IndexError, TypeError, ValueError):
            raise SeasonError(f"recipe {recipe.name} has no number {varies.key!r} that could vary") from None
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        said = ", ".join(f"{varies.key} {values.varied[varies.key]:g}" for varies in planned.varies)
        raise SeasonError(f"recipe {recipe.name} with {said}: {first_problem(error, 'recipe')}") from None
