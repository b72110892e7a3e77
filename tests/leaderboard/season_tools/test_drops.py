"""What an entry loses on runs that nobody had, beyond what everybody loses there."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.season_tools.drops import drops
from moeload_bench.errors import ResultError
from moeload_bench.results.comparison import Errors
from moeload_bench.results.statistics import Tasks

RECIPES, TASKS = tuple("abcdef"), 20
UNFITTED = ("reference", "mean", "last")


def side(
    random: np.random.Generator, factors: dict[str, float], runs: int, hard: float = 0.0, spread: float = 0.1
) -> Errors:
    """Errors of forecasters at these factors of the reference's; each run has its own luck with each of them."""
    recipe_T = [recipe for recipe in RECIPES for _ in range(runs * TASKS)]
    run_T = [f"{recipe}{run}" for recipe in RECIPES for run in range(runs) for _ in range(TASKS)]
    T = len(run_T)
    base_T = np.exp(random.normal(0, 0.3, T))
    errors = {"reference": base_T}
    for name, factor in factors.items():
        luck = np.repeat(random.normal(0, spread, len(RECIPES) * runs), TASKS)
        errors[name] = base_T * factor * np.exp(luck + random.normal(0, 0.05, T) + hard)
    horizon_T, none = np.ones(T, dtype=np.int64), np.zeros(T, dtype=np.bool_)
    return Errors(Tasks(recipe_T, run_T), horizon_T, ("stable",) * T, none, errors)


FACTORS = {"mean": 1.1, "last": 1.3, "honest": 0.9, "memory": 0.4}


def test_a_memory_of_public_runs_is_flagged_and_honest_entries_are_not() -> None:
    """However much harder the new runs are for all."""
    random = np.random.default_rng(0)
    public = side(random, FACTORS, 2)
    season = side(random, {**FACTORS, "memory": 0.9}, 1, hard=0.2)
    found = {one.forecaster: one for one in drops(season, public, "reference", UNFITTED)}
    assert [name for name, one in found.items() if one.flagged] == ["memory"]
    assert next(iter(found)) == "memory"
    assert found["memory"].public > 0.5 > found["memory"].season
    assert found["mean"].p is None


def test_seeds_alone_flag_no_more_than_the_level_says() -> None:
    """Of 200 seasons of two honest entries at 5 %, at most 10 % have a flag."""
    random = np.random.default_rng(1)
    honest = {"mean": 1.1, "last": 1.3, "one": 0.9, "other": 0.8}
    flags = [
        any(one.flagged for one in drops(side(random, honest, 1), side(random, honest, 2), "reference", UNFITTED))
        for _ in range(200)
    ]
    assert np.mean(flags) <= 0.1


def test_without_a_second_run_anywhere_nothing_is_tested() -> None:
    """Seeds explain whatever they do: there is a drop and no p."""
    random = np.random.default_rng(2)
    found = drops(side(random, FACTORS, 1), side(random, FACTORS, 1), "reference", UNFITTED)
    assert {one.p_holm for one in found} == {None}


def test_a_side_without_the_reference_is_refused() -> None:
    """By name."""
    one = side(np.random.default_rng(3), FACTORS, 1)
    with pytest.raises(ResultError, match="'other' on the season"):
        drops(one, one, "other", UNFITTED)
