"""Intervals for new seeds, with the spread of a recipe's own runs or of others."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.seeds import skill_interval
from moeload_bench.results.statistics import Tasks, interval, run_means, seed_spread


def test_its_own_spread_gives_the_interval_of_the_statistics_page() -> None:
    """One definition: the claim "these recipes, new seeds" of `statistics.interval`."""
    random = np.random.default_rng(1)
    recipe_T = [f"r{i}" for i in range(6) for _ in range(3)]
    tasks = Tasks(recipe_T, [f"{recipe}/{n}" for n, recipe in enumerate(recipe_T)])
    ratio_T = random.normal(-0.3, 0.1, len(recipe_T))
    wanted = interval(ratio_T, tasks, "these recipes, new seeds")
    runs = run_means(ratio_T, tasks)
    found = skill_interval(runs, seed_spread([runs]))
    assert wanted is not None
    assert (found.skill, found.low, found.high) == pytest.approx((wanted.skill, wanted.low, wanted.high))


def test_single_runs_are_covered_with_the_spread_of_others() -> None:
    """A season of one run of each recipe, beside public runs: 95 of 100 intervals hold the true skill."""
    random = np.random.default_rng(2)
    true = {f"r{i}": -0.1 * i for i in range(8)}
    center, held = 1 - np.exp(np.mean(list(true.values()))), 0
    for _ in range(500):
        public = {recipe: random.normal(mean, 0.2, 2) for recipe, mean in true.items()}
        season = {recipe: random.normal(mean, 0.2, 1) for recipe, mean in true.items()}
        found = skill_interval(season, seed_spread([season, public]))
        held += found.low <= center <= found.high
    assert 0.92 <= held / 500 <= 0.98


def test_without_two_runs_of_any_recipe_there_is_no_interval() -> None:
    """The skill is known, its ends are not a number; without runs there is no skill."""
    found = skill_interval({"a": np.array([-0.1])}, seed_spread([{"a": np.array([-0.1])}]))
    assert found.skill == pytest.approx(1 - np.exp(-0.1))
    assert np.isnan([found.low, found.high]).all()
    with pytest.raises(ValueError, match="no runs"):
        skill_interval({}, seed_spread([]))
