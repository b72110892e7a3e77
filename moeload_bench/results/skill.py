"""Skill of forecasters over a table of results, with its two intervals (docs/methods/statistics.md).

Windows, layers and experts of one training run are not independent, and recipes are few, so nothing here resamples
windows. A ratio is that of a forecaster's error to the reference's on the same task; its logarithms are averaged over
the tasks of a run, then over the runs of a recipe, then over recipes that are near twins, and then over all of these.

A frame here has a row per task, run, recipe or group of twins, whose index has the levels of ``by`` first, and a column
per forecaster.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import ResultError

if TYPE_CHECKING:
    import pandas as pd

TASK = ("recipe", "trace", "stratum", "state", "crossing", "origin", "horizon")
"""The columns that name a task."""
CLIP = 20.0
"""Ratios are kept within [1 / CLIP, CLIP]: one task cannot decide a mean."""
EXACT = 1e-12
"""Errors below this, and differences of errors up to it, are rounding."""
MIN_RECIPES = 5
"""With fewer recipes no interval and no test is given."""
LEAST_PARTS = 3
"""Parts of one run without which nothing is tested."""
CONFIDENCE = 0.95


def wide(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a metric of all forecasters on the same tasks: a row per task, a column per forecaster.

    Raise `ResultError` if forecasters do not have the same tasks.
    """
    import pandas as pd

    keys, forecaster = table[list(TASK)], table["forecaster"].to_numpy(object)
    task, value = pd.util.hash_pandas_object(keys, index=False).to_numpy(), table[metric].to_numpy(np.float64)
    rows = {name: np.flatnonzero(forecaster == name) for name in dict.fromkeys(forecaster)}
    first, places = next(iter(rows.items()))
    for name, own in rows.items():
        if not np.array_equal(task[own], task[places]):
            raise ResultError(f"{name} and {first} do not have the same tasks on the same traces")
    index = pd.MultiIndex.from_frame(keys.iloc[places])
    return pd.DataFrame({name: value[own] for name, own in rows.items()}, index=index)


def log_ratio(error: FloatArray, reference: FloatArray, offset: float = 0.0) -> FloatArray:
    """Return log((error + offset) / (reference + offset)), clipped to +-log CLIP; NaN where either does not exist.

    Errors below EXACT count as 0, and two errors of 0 are equal. The arrays broadcast.
    """
    error, reference = (np.asarray(each, dtype=np.float64) for each in (error, reference))
    error, reference = (np.where(np.abs(each) < EXACT, 0.0, each) + offset for each in (error, reference))
    ratio = np.full(np.broadcast_shapes(error.shape, reference.shape), np.nan)
    finite = np.isfinite(error) & np.isfinite(reference)
    np.divide(error, reference, out=ratio, where=finite & (reference > 0))
    ratio[finite & (reference == 0)] = CLIP
    ratio[finite & (reference == 0) & (error == 0)] = 1.0
    return np.asarray(np.log(np.clip(ratio, 1.0 / CLIP, CLIP)))


def ratios_to(errors: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the log ratio of every forecaster's error to the reference's, task by task."""
    import pandas as pd

    ratios = log_ratio(errors.to_numpy(), errors[[reference]].to_numpy())
    return pd.DataFrame(ratios, index=errors.index, columns=errors.columns)


def grouped(frame: pd.DataFrame | pd.Series, levels: Sequence[Hashable]) -> Any:
    """Return the rows grouped by these levels of the index, groups in the order in which they come, NaN as a group."""
    return frame.groupby(level=list(levels), sort=False, dropna=False)


def with_level(by: Sequence[str], *names: str) -> list[str]:
    """Return the levels with these after them, each once."""
    return list(dict.fromkeys([*by, *names]))


def means_by(frame: pd.DataFrame, levels: Sequence[Hashable]) -> pd.DataFrame:
    """Return the means of groups, in the order in which groups come; NaN is left out."""
    means: pd.DataFrame = grouped(frame, levels).mean()
    return means


def run_means(ratios: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the mean over each run's tasks."""
    return means_by(ratios, with_level(by, "recipe", "trace"))


def votes(means: pd.DataFrame, by: Sequence[str], twins: Mapping[str, str]) -> pd.DataFrame:
    """Return a row per group of near twins: the mean over its recipes of the means over their runs.

    ``twins``: recipes that are near twins have the same name there; the others are a group of their own.
    """
    recipes = means_by(means, with_level(by, "recipe"))
    groups = [twins.get(recipe, recipe) for recipe in recipes.index.get_level_values("recipe")]
    return means_by(recipes.set_index(_level(groups, "group"), append=True), [*by, "group"])


def centers(votes: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the mean log ratio over groups of near twins."""
    return means_by(votes, by)


def skill_of(mean_log_ratio: pd.DataFrame) -> pd.DataFrame:
    """Return the skill, 1 - exp(mean log ratio): how much less error than the reference, as a fraction."""
    return 1.0 - mean_log_ratio.apply(np.exp)


def new_recipe_errors(votes: pd.DataFrame, by: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return standard error and degrees of freedom for a recipe not seen: sd(votes) / sqrt(G) and G - 1.

    NaN with fewer than MIN_RECIPES groups of near twins.
    """
    groups = grouped(votes, by)
    count = groups.count()
    error = groups.std(ddof=1) / count.apply(np.sqrt)
    return error.where(count >= MIN_RECIPES), (count - 1).astype(np.float64)


def new_seeds_errors(
    means: pd.DataFrame, by: Sequence[str], twins: Mapping[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return standard error and degrees of freedom for new seeds of these recipes: runs vary, recipes are fixed.

    The variance s2 of runs within recipes is pooled; the freedom is runs - recipes; a recipe of R runs, one of C in one
    of G groups, has the weight 1 / (G C), so that the error is sqrt(s2 * sum of weight^2 / R). NaN with fewer than
    MIN_RECIPES groups, and without a recipe of two runs.
    """
    by_recipe = grouped(means, with_level(by, "recipe"))
    runs = by_recipe.count()
    square = (means - by_recipe.transform("mean")) ** 2
    freedom = grouped((runs - 1).clip(lower=0), by).sum()
    variance = grouped(square, by).sum() / freedom.where(freedom > 0)
    there = (runs > 0).astype(np.float64)
    groups = [twins.get(recipe, recipe) for recipe in runs.index.get_level_values("recipe")]
    there_by_group = grouped(there.set_index(_level(groups, "group"), append=True), [*by, "group"])
    recipes = there_by_group.transform("sum").droplevel("group")
    number = grouped(there_by_group.sum() > 0, by).sum()
    share = (there / recipes) ** 2 / runs
    total = grouped(share.where(there > 0), by).sum()
    error = (variance * total).apply(np.sqrt) / number
    return error.where(number >= MIN_RECIPES), freedom.astype(np.float64)


def half_widths(error: pd.DataFrame, freedom: pd.DataFrame, confidence: float = CONFIDENCE) -> pd.DataFrame:
    """Return half the width of a two-sided t interval: standard errors times the quantile."""
    return error * t_quantile(freedom.where(freedom >= 1).to_numpy(np.float64), confidence)


def t_quantile(freedom: FloatArray | float, confidence: float = CONFIDENCE) -> FloatArray:
    """Return the half width of a two-sided t interval in standard errors."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(freedom, 0.5 + 0.5 * confidence))


def interval_of(value_N: Any) -> tuple[float, float]:
    """Return the 95 % t interval of the mean; NaN from too few parts."""
    known_N = np.asarray(value_N, dtype=np.float64)
    known_N = known_N[np.isfinite(known_N)]
    if len(known_N) < LEAST_PARTS:
        return float("nan"), float("nan")
    half = float(t_quantile(len(known_N) - 1)) * known_N.std(ddof=1) / np.sqrt(len(known_N))
    return float(known_N.mean() - half), float(known_N.mean() + half)


def p_values(votes: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the two-sided p of "no difference on a new recipe", a t test on groups; NaN with too few of them."""
    import pandas as pd
    from scipy.special import stdtr

    error, freedom = new_recipe_errors(votes, by)
    center, exact = centers(votes, by), error == 0.0
    p = 2.0 * stdtr(freedom.where(freedom >= 1).to_numpy(), -(center.abs() / error.mask(exact, 1.0)).to_numpy())
    p = np.where(exact, np.where(center == 0.0, 1.0, 0.0), p)
    return pd.DataFrame(p, index=error.index, columns=error.columns)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down correction (1979), in the order given; NaN is no test and stays."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if not np.isnan(p))
    corrected, worst = [float("nan")] * len(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        worst = max(worst, min(1.0, (len(tested) - rank) * p))
        corrected[i] = worst
    return corrected


def _level(values: Sequence[str], name: str) -> pd.Index:
    import pandas as pd

    return pd.Index(values, name=name)
