"""Skill with its interval and test for new seeds of the same recipes, also where each recipe has one run.

The spread within recipes is pooled over sets of runs (`moeload_bench.results.statistics.seed_spread`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moeload_bench.results.statistics import Runs, Spread, skill_of, t_quantile


class SkillInterval(NamedTuple):
    """A skill with its interval; NaN ends where nothing says how far seeds move it."""

    skill: float
    low: float
    high: float


def skill_interval(runs: Runs, spread: Spread) -> SkillInterval:
    """Skill over all recipes, one vote each, and its 95 % t interval for new seeds of these recipes.

    Raises `ValueError` without a run.
    """
    center, error = _center(runs, spread)
    half = t_quantile(spread.freedom, 0.95) * error if spread.freedom else float("nan")
    return SkillInterval(*(skill_of(value) for value in (center, center + half, center - half)))


def seed_p_value(runs: Runs, spread: Spread) -> float | None:
    """Two-sided p of "no difference for new seeds of these recipes": the t test of `skill_interval`; None where nothing
    says how far seeds move it. Raises `ValueError` without a run.
    """
    center, error = _center(runs, spread)
    if not spread.freedom:
        return None
    if error == 0.0:
        return 1.0 if center == 0.0 else 0.0
    from scipy.special import stdtr

    return float(2.0 * stdtr(spread.freedom, -abs(center) / error))


def _center(runs: Runs, spread: Spread) -> tuple[float, float]:
    """Return the mean over recipes of the means over runs, and its standard error."""
    if not runs:
        raise ValueError("no runs: there is no skill")
    votes = sum(1 / len(runs_R) for runs_R in runs.values())
    center = np.mean([runs_R.mean() for runs_R in runs.values()])
    return float(center), float(np.sqrt(spread.variance * votes) / len(runs))
