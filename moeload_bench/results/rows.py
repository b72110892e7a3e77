"""What a result table is made of: its rows, and the numbers of a cell.

Axis letters: K suite horizons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moeload_bench.placement.cost import ABOUT
from moeload_bench.placement.plans import headline_shapes
from moeload_bench.results.record import Result, RunResult
from moeload_bench.scoring.scores import METRICS
from moeload_bench.suites.suite import CROSSING

Values = tuple[float | None, ...]
FLOOR_ROWS = ("floor_batch", "floor_level", "floor_sampling")
NOTHING = "-"


@dataclass(frozen=True)
class Row:
    """One forecaster in one state: the metric and its excess over floor_batch at each suite horizon.

    ``origins_K`` how many origins have a value at each horizon, ``origins`` the most of them; ``runs`` with any value.
    """

    forecaster: str
    state: str
    value_K: Values
    excess_K: Values
    skill: str
    runs: int
    origins: int
    origins_K: tuple[int, ...]
    per_forecast_s: float
    of_training: float | None
    counts: dict[str, int]


def run_means(run: RunResult, state: str, metric: str) -> list[float | None]:
    """[K] the run's mean over its origins in a state (or over the windows that cross); empty when there is none."""
    tasks = [task for task in run.tasks if _in_state(task.state, task.crossing, state) and metric in task.metrics]
    if not tasks:
        return []
    return [
        present_mean([task.metrics[metric][k] for task in tasks if state != CROSSING or task.crossing[k]])
        for k in range(len(tasks[0].crossing))
    ]


def floor_values(result: Result, state: str, floor: str, metric: str) -> Values:
    """[K] the mean over runs of a floor of a metric in a state; empty where no run has it."""
    found = [
        run.floors[state][floor][metric] for run in result.runs if metric in run.floors.get(state, {}).get(floor, {})
    ]
    return tuple(present_mean([values[k] for values in found]) for k in range(len(found[0]))) if found else ()


def present_mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are there; None where there is none."""
    kept = [value for value in values if value is not None]
    return float(np.mean(kept)) if kept else None


def _in_state(task_state: str, crossing: tuple[bool, ...], state: str) -> bool:
    return any(crossing) if state == CROSSING else task_state == state


def has_skill(metric: str) -> bool:
    """Skill is a ratio: it needs an error that is positive and smaller when better."""
    return any(spec.name == metric and spec.lower_is_better for spec in METRICS)


def ratio_metric(metric: str) -> str | None:
    """The metric whose ratio to the reference's is the skill in a table; None where there is none.

    Regret may be 0 or less and a drop rate 0, so tables of plans take the imbalance of the same plans.
    """
    name, _, shape = metric.partition("@")
    if name in ABOUT and shape in _shapes():
        return f"imbalance@{shape}"
    return metric if has_skill(metric) else None


def metric_names() -> list[str]:
    """Every metric that a table can be asked for; which shapes of plans there are depends on the number of experts."""
    plans = [f"{name}@{shape}" for name in ABOUT for shape in _shapes()]
    return [*(spec.name for spec in METRICS), *plans, "drop_rate@experts"]


def _shapes() -> list[str]:
    """Names of the cluster shapes, all of which exist for 64 experts."""
    return [shape.name for shape in headline_shapes(64)]


def number(value: float | None) -> str:
    """Three significant digits, "-" for nothing."""
    return NOTHING if value is None else f"{value:.3g}"
