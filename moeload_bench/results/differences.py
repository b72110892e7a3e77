"""How much less of a metric a forecaster has than a reference, in the metric's own unit.

It is for what may be 0, so that ratios say nothing: regret and dropped tokens. A run's value is the mean over its
tasks, a recipe's that over its runs, a vote that over the recipes of a unit, such as a family of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from moeload_bench.results.results import Results
from moeload_bench.results.skill import centers, half_widths, new_recipe_errors, run_means, votes

if TYPE_CHECKING:
    import pandas as pd


def differences(results: Results, metric: str, state: str, reference: str, units: Mapping[str, str]) -> pd.DataFrame:
    """Return a row per forecaster that has the metric, the least first: `value`, `less`, `low`, `high`.

    ``less`` is how much less it has than ``reference``, [low, high] its 95 % interval for a new unit; ``units``:
    recipe -> what it counts once with. NaN from fewer than five units.
    """
    import pandas as pd

    errors = results.errors(metric)[results.names]
    tasks = errors[errors.index.get_level_values("state") == state]
    tasks = tasks.dropna(axis=1, how="all").dropna()
    if reference not in tasks or tasks.empty:
        return pd.DataFrame(columns=["value", "less", "low", "high"])
    by = ("state",)
    value = centers(votes(run_means(tasks, by), by, {}), by).loc[state]
    less = tasks.rsub(tasks[reference], axis=0)
    groups = votes(run_means(less, by), by, units)
    center, half = centers(groups, by).loc[state], half_widths(*new_recipe_errors(groups, by)).loc[state]
    rows = pd.DataFrame({"value": value, "less": center, "low": center - half, "high": center + half})
    return rows.sort_values("value", kind="stable")
