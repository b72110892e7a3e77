"""Summaries of a table of results: a row per group and forecaster, from which every printed table and figure is made.

A value is the mean over runs of the run's mean over its origins, itself a mean over layers. What ``by`` does not name
is averaged over; of horizons, the means over runs are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.results.skill import (
    centers,
    grouped,
    half_widths,
    means_by,
    new_recipe_errors,
    new_seeds_errors,
    run_means,
    skill_of,
    votes,
    with_level,
)
from moeload_bench.scoring.floors import FLOOR_NAMES, excess
from moeload_bench.suites.suite import CROSSING, STATES

if TYPE_CHECKING:
    import pandas as pd

OF_TRACE = ("recipe", "stratum", "trace")
"""Groups that a trace belongs to as a whole."""
LEAST_MS = 1e-3
"""What a forecaster that took no measurable time is counted with: a microsecond."""


def with_crossing(tasks: pd.DataFrame) -> pd.DataFrame:
    """Return the tasks, and once more those whose windows cross a change of state, as a state of their own."""
    import pandas as pd

    crossing = tasks[tasks.index.get_level_values("crossing").to_numpy(bool)]
    levels = crossing.index.to_frame(index=False).assign(state=CROSSING)
    return pd.concat([tasks, crossing.set_axis(pd.MultiIndex.from_frame(levels))])


def grouped_tasks(errors: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the tasks to group by these levels: those that cross are a state, too."""
    return with_crossing(errors) if "state" in by else errors


def value_columns(errors: pd.DataFrame, by: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return by name the mean of a metric, the runs that have it, and the most origins at one horizon that have it."""
    levels = with_level(by, "horizon")
    by_run = means_by(errors, with_level(levels, "trace"))
    runs = grouped(by_run.notna(), with_level(by, "trace")).any()
    origins = grouped(errors, levels).count()
    return {
        "value": means_by(means_by(by_run, levels), by),
        "runs": grouped(runs, by).sum(),
        "origins": grouped(origins, by).max(),
    }


def skill_columns(ratios: pd.DataFrame, by: Sequence[str], twins: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """Return by name skill, the ends of its intervals for a new recipe and for new seeds, and the recipes it rests on.

    Near twins count as one recipe.
    """
    means = run_means(ratios, by)
    groups = votes(means, by, twins)
    center = centers(groups, by)
    recipe = half_widths(*new_recipe_errors(groups, by))
    seeds = half_widths(*new_seeds_errors(means, by, twins))
    return {
        "skill": skill_of(center),
        "low": skill_of(center + recipe),
        "high": skill_of(center - recipe),
        "seeds_low": skill_of(center + seeds),
        "seeds_high": skill_of(center - seeds),
        "recipes": grouped(groups.notna(), by).sum(),
    }


def long(columns: Mapping[str, pd.DataFrame], by: Sequence[str]) -> pd.DataFrame:
    """Return one row per group and forecaster, with a column for each of these frames, which have the same index."""
    import pandas as pd

    first = next(iter(columns.values()))
    index = first.index.to_frame(index=False).set_axis(list(by), axis=1)
    names, groups = list(first.columns), len(first)
    rows = index.loc[np.tile(np.arange(groups), len(names))].reset_index(drop=True)
    values = {name: frame.loc[first.index].to_numpy().ravel(order="F") for name, frame in columns.items()}
    return pd.concat([rows.assign(forecaster=np.repeat(names, groups)), pd.DataFrame(values)], axis=1)


def ordered(rows: pd.DataFrame, by: Sequence[str], lower: bool | None) -> pd.DataFrame:
    """Return groups in their order, states in that of training, and in each the best forecaster first.

    The best has the most skill; where no forecaster has any, the best value, if either direction is better.
    """
    best = (
        -rows["skill"] if rows["skill"].notna().any() else rows["value"] * (0 if lower is None else 1 if lower else -1)
    )
    states = {state: i for i, state in enumerate((*STATES, CROSSING))}
    keys = {name: rows[name].map(states) if name == "state" else rows[name].factorize()[0] for name in by}
    order = rows.assign(**{f"by {name}": key for name, key in keys.items()}, best=best).sort_values(
        [*(f"by {name}" for name in by), "best"], kind="stable", na_position="last"
    )
    return rows.loc[order.index].reset_index(drop=True)


def floor_means(facts: pd.DataFrame, traces: pd.DataFrame, by: Sequence[str], metric: str) -> pd.DataFrame:
    """Return the floors of a metric, a column each: means over the traces that have one, by these groups.

    ``facts`` as `results.columns.fact_frame` makes them, ``traces`` with the groups of each trace. Without rows if a
    group is not one of traces, states and horizons, or no trace has a floor.
    """
    names = {f"{floor}.{metric}": floor for floor in FLOOR_NAMES if f"{floor}.{metric}" in facts}
    if not names or not {"state", "horizon"} <= set(by) <= {*OF_TRACE, "state", "horizon"}:
        return facts.iloc[:0].reindex(columns=[*by, *names.values()])
    floors = facts[["trace", "state", "horizon", *names]].rename(columns=names).merge(traces, on="trace")
    means = floors.groupby(list(by), sort=False, dropna=False)[list(names.values())].mean()
    return means.dropna(how="all").reset_index()


def with_excess(rows: pd.DataFrame, floors: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the rows with `excess`, what of the value is over floor_batch; NaN where no floor is known."""
    if "floor_batch" not in floors or floors.empty:
        return rows.assign(excess=np.nan)
    floor = rows.merge(floors[[*by, "floor_batch"]], on=list(by), how="left")["floor_batch"].to_numpy(np.float64)
    return rows.assign(excess=excess(rows["value"].to_numpy(np.float64), floor))


def cost_columns(costs: pd.DataFrame) -> pd.DataFrame:
    """Return of each forecaster and trace `ms`, the CPU milliseconds per answered origin, observing included, and
    `training`, wall time per second of the recorded training; NaN where it was not measured.
    """
    answered = costs["forecasts"].clip(lower=1)
    cpu_s = (costs["observe_cpu_s"] + costs["forecast_cpu_s"]) / answered
    trained_s = (costs["training_step_s"].fillna(0.0) * costs["observed_rows"]).replace(0.0, np.nan)
    wall_s = costs["observe_wall_s"] + costs["forecast_wall_s"]
    return costs[["forecaster", "trace"]].assign(ms=1e3 * cpu_s, training=wall_s / trained_s)


def mean_costs(costs: pd.DataFrame, traces: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return `ms` and `training` by forecaster and those of the groups that a trace belongs to: means over runs.

    `ms` is NaN if it was not measured in one of the runs; at least LEAST_MS.
    """
    groups = ["forecaster", *(name for name in by if name in OF_TRACE)]
    grouped = cost_columns(costs).merge(traces, on="trace").groupby(groups, sort=False, dropna=False)
    ms: FloatArray = np.maximum(grouped["ms"].agg(lambda times: times.mean(skipna=False)), LEAST_MS)
    return grouped[["training"]].mean().assign(ms=ms).reset_index()
