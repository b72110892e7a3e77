"""How far `gated` comes from the best classical entry to what is predictable: a part of docs/reports/gated.md.

Made from the committed results of suite v1, its floors and `oracle.window`. Nothing is fitted here. Which classical
entry is the best of a state and a horizon is told in hindsight, which shortens the distance and so favours it.

The share that is closed is a ratio of means over recipes, (classical - gated) / (classical - goal), so that a recipe
where there is next to nothing to close does not decide. Its interval is that of the jackknife over recipes.

Axis letters: R recipes, K suite horizons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leaderboard.committed import model_type_of, submission_of
from leaderboard.pages.parts import Maker
from leaderboard.pages.results import results_of
from leaderboard.studies import oracle_window
from leaderboard.studies.clusters import SUITE
from moeload_bench.arrays import FloatArray
from moeload_bench.results.comparison import Errors, errors_of
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import run_means, t_quantile
from moeload_bench.results.tables import three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS

NAME = "gated"
OURS = ("adaptive", "gated")
"""What was built to close the distance, and so is not where it begins."""
BOUND = "floor_batch"
"""What no forecaster can pass in the mean: where the distance ends."""
MARKS = (oracle_window.NAME, "floor_level", BOUND)
"""What stands beside the errors, to tell of what the rest is made."""
ALL = "all"


@dataclass(frozen=True)
class Values:
    """`window_tv` by recipe [R] in one state and at one horizon, or averaged over all: by classical entry, by mark."""

    classical: Mapping[str, FloatArray]
    gated_R: FloatArray
    marks: Mapping[str, FloatArray]

    @property
    def best_classical(self) -> str:
        """Return the classical entry with the least mean over recipes."""
        return min(self.classical, key=lambda name: float(self.classical[name].mean()))

    @property
    def closed(self) -> tuple[float, float, float]:
        """Return how much of the way from the best classical entry to `BOUND` `gated` closes, with its interval."""
        return share_closed(self.classical[self.best_classical], self.gated_R, self.marks[BOUND])


def values_of(results: Sequence[Result], state: str) -> dict[str, Values]:
    """Return the values by horizon, as text, and over all of them (`ALL`).

    Of a recipe, the mean over its runs of the run's mean over its origins in the state; recipes without any are left
    out.
    """
    errors = oracle_window.with_yardstick(errors_of(results, PRIMARY), results[0].suite.name).select(state=state)
    horizons = results[0].suite.horizons
    value = {name: _by_recipe(errors, name, horizons) for name in errors.by_forecaster}
    value |= {name: _floor_by_recipe(results[0], errors, state, name) for name in MARKS[1:]}
    value = {name: np.column_stack([a_RK, a_RK.mean(axis=1)]) for name, a_RK in value.items()}
    classical = [result.name for result in results if _classical(result)]
    return {
        horizon: Values({name: value[name][:, k] for name in classical}, value[NAME][:, k],
                        {name: value[name][:, k] for name in MARKS})
        for k, horizon in enumerate([*(f"{h:,}" for h in horizons), ALL])
    }  # fmt: skip


def _classical(result: Result) -> bool:
    folder = submission_of(result)
    kind = model_type_of(result, None if folder is None else folder.record)
    return kind == "statistical" and result.name not in OURS


def _by_recipe(errors: Errors, name: str, horizons: Sequence[int]) -> FloatArray:
    """Return [R, K]: means over the runs of a recipe of the runs' means over their origins."""
    by_horizon = (errors.select(horizon=horizon) for horizon in horizons)
    means = [run_means(here.by_forecaster[name], here.tasks).values() for here in by_horizon]
    return np.array([[run_R.mean() for run_R in recipes] for recipes in means]).T


def _floor_by_recipe(result: Result, errors: Errors, state: str, floor: str) -> FloatArray:
    """Return [R, K]: the floor of the state's windows, mean over the runs of a recipe that have origins in it."""
    there = set(errors.tasks.run_T)
    found = [
        [run.floors[state][floor][PRIMARY] for run in result.runs if run.recipe == recipe and run.trace in there]
        for recipe in dict.fromkeys(errors.tasks.recipe_T)
    ]
    return np.array([np.mean(np.array(runs, dtype=np.float64), axis=0) for runs in found])


def share_closed(start_R: FloatArray, reached_R: FloatArray, goal_R: FloatArray) -> tuple[float, float, float]:
    """Return (start - reached) / (start - goal) of the means over recipes, with its 95 % jackknife t interval."""
    won_R, distance_R = start_R - reached_R, start_R - goal_R
    R = len(won_R)
    share = float(won_R.sum() / distance_R.sum())
    without_R = (won_R.sum() - won_R) / (distance_R.sum() - distance_R)
    error = float(np.sqrt((R - 1) / R * ((without_R - without_R.mean()) ** 2).sum()))
    half = t_quantile(R - 1, 0.95) * error
    return share, share - half, share + half


def distance_part() -> str:
    """Say what it comes to; by state and horizon, where the distance begins, where `gated` is, and where it ends."""
    found = {state: values_of(results_of(SUITE), state) for state in LABELS}
    rows = [_row(state, horizon, value) for state, values in found.items() for horizon, value in values.items()]
    heads = ("state", "h", "best classical", f"`{NAME}`", *(f"*{mark}*" for mark in MARKS), f"closed to *{BOUND}*")
    return f"{_lead({state: values[ALL] for state, values in found.items()})}\n\n{markdown_table(heads, rows)}"


def _lead(found: Mapping[str, Values]) -> str:
    each = " and ".join(
        f"{_percent(*value.closed)} in the {state} state (from `{value.best_classical}`)"
        for state, value in found.items()
    )
    return f"Over all horizons `{NAME}` closes {each}."


def _row(state: str, horizon: str, value: Values) -> tuple[str, ...]:
    best = value.best_classical
    first = f"{three_digits(float(value.classical[best].mean()))} (`{best}`)"
    means = [three_digits(float(each_R.mean())) for each_R in (value.gated_R, *value.marks.values())]
    return (state, horizon, first, *means, _percent(*value.closed))


def _percent(share: float, low: float, high: float) -> str:
    return f"{100 * share:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


PARTS: Mapping[str, Maker] = {"distance": distance_part}
