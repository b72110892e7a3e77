"""What one forecaster saves of another one's error: paired by recipe, with what a few runs could have made of it.

With e and e' the errors of `a` and `b` on a task, the task's value is log((e + OFFSET) / (e' + OFFSET)), the ratio kept
within [1 / 20, 20]: the offset keeps ratios of tiny errors from deciding. A run's value is the mean over its tasks, a
recipe's that over its runs, a vote that over recipes that are near twins. The saving is 1 - exp(mean of votes): 0.1 is
10 % less error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.results.skill import (
    grouped,
    half_widths,
    log_ratio,
    new_recipe_errors,
    new_seeds_errors,
    p_values,
    run_means,
    votes,
)

if TYPE_CHECKING:
    import pandas as pd

OFFSET = 0.001
"""Added to both errors: 0.1 % of the tokens misplaced, for `window_tv`."""
OFFSETS = (0.0, 0.005)
"""Of the two columns that say how much the saving depends on OFFSET."""
CLIP = 0.25
"""Votes are kept within +-CLIP in `clipped_mean`, so that no recipe counts for more than 22 % less error."""
SAVINGS = (
    *("saving", "low", "high", "seeds_low", "seeds_high", "p", "recipes", "runs"),
    *("median", "clipped_mean", "without_two", *(f"saving@{offset:g}" for offset in OFFSETS)),
)


def savings(errors: pd.DataFrame, by: Sequence[str], twins: Mapping[str, str]) -> pd.DataFrame:
    """Return a row per group with what the first of two columns of task errors saves of the second: see SAVINGS.

    [low, high] is the 95 % t interval for a new recipe, of G votes: mean +- t(G - 1) sd / sqrt(G). [seeds_low,
    seeds_high] is that for new seeds of these recipes (`skill.new_seeds_errors`). p: two-sided, of no difference on a
    new recipe. median and clipped_mean: of the votes. without_two: without the two runs that move the mean most.
    saving@0 and saving@0.005: with these offsets. NaN where there are too few recipes.
    """
    import pandas as pd

    means = run_means(offset_ratios(errors, OFFSET), by)
    groups = votes(means, by, twins)
    votes_by = grouped(groups["ratio"], by)
    center = votes_by.mean()
    recipe = half_widths(*new_recipe_errors(groups, by))["ratio"]
    seeds = half_widths(*new_seeds_errors(means, by, twins))["ratio"]
    runs = grouped(means["ratio"], by)
    ratios = {
        "saving": center,
        **{"low": center + recipe, "high": center - recipe},
        **{"seeds_low": center + seeds, "seeds_high": center - seeds},
        "median": votes_by.median(),
        "clipped_mean": grouped(groups["ratio"].clip(-CLIP, CLIP), by).mean(),
        "without_two": runs.agg(lambda group: without_most_influential(group, twins, 2)),
        **{f"saving@{offset:g}": _center(errors, offset, by, twins) for offset in OFFSETS},
    }
    counts = {"p": p_values(groups, by)["ratio"], "recipes": votes_by.count(), "runs": runs.count()}
    columns = {name: 1.0 - np.exp(ratio) for name, ratio in ratios.items()} | counts
    rows = pd.DataFrame({name: column.reindex(center.index) for name, column in columns.items()})
    return rows[list(SAVINGS)].reset_index()


def without_most_influential(runs: Any, twins: Mapping[str, str], count: int) -> float:
    """Return the mean of votes without the ``count`` runs whose removal, one by one, moves it most; NaN if none is
    left. ``runs``: values by run, with level `recipe`.
    """
    runs = runs.dropna()
    recipe_R = runs.index.get_level_values("recipe")
    value_R = runs.to_numpy(np.float64)
    recipe_R, group_R = (np.unique(names, return_inverse=True)[1] for names in
                         (recipe_R, [twins.get(name, name) for name in recipe_R]))  # fmt: skip
    if len(value_R) <= count:
        return float("nan")
    center, every = mean_vote(value_R, recipe_R, group_R), np.arange(len(value_R))
    moved = [abs(mean_vote(value_R[every != r], recipe_R[every != r], group_R[every != r]) - center) for r in every]
    rest = np.sort(np.argsort(moved, kind="stable")[:-count])
    return mean_vote(value_R[rest], recipe_R[rest], group_R[rest])


def mean_vote(value_R: FloatArray, recipe_R: IntArray, group_R: IntArray) -> float:
    """Return the mean over groups of the means over their recipes of the means over their runs [R]."""
    _, first, run_of, runs = np.unique(recipe_R, return_index=True, return_inverse=True, return_counts=True)
    recipe_C = np.bincount(run_of, value_R) / runs
    _, recipe_of, recipes = np.unique(group_R[first], return_inverse=True, return_counts=True)
    return float((np.bincount(recipe_of, recipe_C) / recipes).mean())


def offset_ratios(errors: pd.DataFrame, offset: float) -> pd.DataFrame:
    """Return a column `ratio`: log of the first error over the second, each with the offset."""
    import pandas as pd

    first, second = errors.to_numpy(np.float64).T
    return pd.DataFrame({"ratio": log_ratio(first, second, offset)}, index=errors.index)


def pair_votes(errors: pd.DataFrame, offset: float, by: Sequence[str], units: Mapping[str, str]) -> pd.DataFrame:
    """Return the votes in a column `ratio`: a row per group and unit. ``units``: recipe -> what it counts once with."""
    return votes(run_means(offset_ratios(errors, offset), by), by, units)


def _center(errors: pd.DataFrame, offset: float, by: Sequence[str], twins: Mapping[str, str]) -> pd.Series:
    center: pd.Series = grouped(pair_votes(errors, offset, by, twins)["ratio"], by).mean()
    return center
