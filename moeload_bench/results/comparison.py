"""One comparison of two forecasters, whole: the numbers that are only understood together.

- The ratio of errors: geometric, every recipe and every horizon alike (`results.savings`), with an interval for a new
  recipe, and one for a new family of models, where each family counts once.
- The share of the total error: the errors of all runs are added up, each run's mean over origins at each of its
  horizons once, so that what errs most counts most. Its interval is the jackknife over families.
- The ratio at each horizon, and the median over tasks.
- What it is worth: the load of the busiest device, for each shape of cluster, when experts are placed by the forecast.

A suite that names no families has no interval over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moeload_bench.results.savings import OFFSET, offset_ratios, pair_votes, savings
from moeload_bench.results.skill import MIN_RECIPES, grouped, half_widths, means_by, new_recipe_errors, t_quantile

if TYPE_CHECKING:
    import pandas as pd


FAMILY = ("family_saving", "family_low", "family_high")


def comparison(
    errors: pd.DataFrame,
    loads: Mapping[str, pd.DataFrame],
    by: Sequence[str],
    twins: Mapping[str, str],
    families: Mapping[str, str],
) -> pd.DataFrame:
    """Return a row per group with what the first of two columns of task errors saves of the second, in every way.

    ``loads``: by shape of cluster the load of the busiest device over the mean, in the same form as ``errors``;
    ``families``: recipe -> family of models. The columns are said in `Results.compare`.
    """
    parts = [savings(errors, by, twins).set_index(list(by)), family_savings(errors, by, families)]
    parts += [total_savings(errors, by, families), median_savings(errors, by)]
    parts += horizon_savings(errors, by, twins) if "horizon" not in by else []
    parts += [load_savings(shape, load, by, twins) for shape, load in loads.items()]
    first, *others = (part.reset_index() for part in parts)
    for further in others:  # not by index, in which a group without a stratum would not be the same twice
        first = first.merge(further, how="left", on=list(by))
    return first


def vote_savings(errors: pd.DataFrame, by: Sequence[str], units: Mapping[str, str]) -> pd.DataFrame:
    """Return `saving`, `low`, `high` and the number of `votes`: each unit counts once. ``units``: recipe -> unit."""
    import pandas as pd

    votes_by_unit = pair_votes(errors, OFFSET, by, units)
    center = grouped(votes_by_unit["ratio"], by).mean()
    half = half_widths(*new_recipe_errors(votes_by_unit, by))["ratio"]
    ratios = {"saving": center, "low": center + half, "high": center - half}
    saved = {name: 1.0 - np.exp(ratio) for name, ratio in ratios.items()}
    return pd.DataFrame(saved | {"votes": grouped(votes_by_unit["ratio"], by).count()})


def family_savings(errors: pd.DataFrame, by: Sequence[str], families: Mapping[str, str]) -> pd.DataFrame:
    """Return the saving with each family counted once, its interval for a new family, and how many there are."""
    saved = vote_savings(errors, by, families).set_axis([*FAMILY, "families"], axis=1)
    return saved if families else saved.assign(**dict.fromkeys(FAMILY, np.nan), families=0)


def total_savings(errors: pd.DataFrame, by: Sequence[str], families: Mapping[str, str]) -> pd.DataFrame:
    """Return the share of the total error that is saved, with the ends of its jackknife interval over families.

    NaN for the ends from fewer than MIN_RECIPES families.
    """
    import pandas as pd

    means = means_by(errors.dropna(), list(dict.fromkeys([*by, "recipe", "trace", "horizon"])))
    units = [families.get(recipe, recipe) for recipe in means.index.get_level_values("recipe")]
    sums = grouped(means.set_index(pd.Index(units, name="unit"), append=True), [*by, "unit"]).sum()
    rest = grouped(sums, by).transform("sum") - sums
    shares, total = grouped(_share_saved(rest), by), _share_saved(grouped(sums, by).sum())
    count = shares.count()
    error = np.sqrt((count - 1) * shares.var(ddof=0)).where((count >= MIN_RECIPES) & bool(families))
    half = error * t_quantile((count - 1).to_numpy(np.float64))
    return pd.DataFrame({"total": total, "total_low": total - half, "total_high": total + half})


def _share_saved(sums: pd.DataFrame) -> pd.Series:
    """Return the share of the second column that the first one saves; NaN of nothing."""
    first, second = sums.columns
    share: pd.Series = 1.0 - sums[first] / sums[second].where(sums[second] > 0)
    return share


def median_savings(errors: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return what is saved on the median task."""
    import pandas as pd

    ratio = grouped(offset_ratios(errors, OFFSET)["ratio"], by).median()
    return pd.DataFrame({"median_task": 1.0 - np.exp(ratio)})


def horizon_savings(errors: pd.DataFrame, by: Sequence[str], twins: Mapping[str, str]) -> list[pd.DataFrame]:
    """Return the saving at each horizon: a frame with a column `h=1`, `h=10`, ... for each."""
    levels = [*by, "horizon"]
    saved = 1.0 - np.exp(grouped(pair_votes(errors, OFFSET, levels, twins)["ratio"], levels).mean())
    steps = sorted(saved.index.get_level_values("horizon").unique())
    return [saved.xs(step, level="horizon").to_frame(f"h={step}") for step in steps]


def load_savings(shape: str, load: pd.DataFrame, by: Sequence[str], twins: Mapping[str, str]) -> pd.DataFrame:
    """Return what is saved of the busiest device's load in a shape of cluster, with its interval for a new recipe."""
    saved = vote_savings(load, by, twins)[["saving", "low", "high"]]
    return saved.set_axis([f"busiest@{shape}", f"busiest@{shape}_low", f"busiest@{shape}_high"], axis=1)
