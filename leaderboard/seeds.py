"""Skill with its interval for new seeds of the same recipes, also where each recipe has one run.

The spread within recipes is pooled over sets of runs (`moeload_bench.results.statistics.seed_spread`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moeload_bench.results.comparison import Errors
from moeload_bench.results.statistics import Runs, Spread, log_ratio, run_means, skill_of, t_quantile


def run_ratios(errors: Errors, name: str, reference: str) -> Runs:
    """Return by recipe the runs' mean log ratios of an entry to another."""
    return run_means(log_ratio(errors.by_forecaster[name], errors.by_forecaster[reference]), errors.tasks)


class SkillInterval(NamedTuple):
    """A skill with its interval; NaN ends where nothing says how far seeds move it."""

    skill: float
    low: float
    high: float


def skill_interval(runs: Runs, spread: Spread) -> SkillInterval:
    """Skill over all recipes, one vote each, and its 95 % t interval for new seeds of these recipes.

    Raises `ValueError` without a run.
    """
    if not runs:
        raise ValueError("no runs: there is no skill")
    votes = sum(1 / len(runs_R) for runs_R in runs.values())
    center = float(np.mean([runs_R.mean() for runs_R in runs.values()]))
    error = float(np.sqrt(spread.variance * votes) / len(runs))
    half = t_quantile(spread.freedom, 0.95) * error if spread.freedom else float("nan")
    return SkillInterval(*(skill_of(value) for value in (center, center + half, center - half)))
