"""How far new seeds of the same recipes move a skill, also where each recipe has one run: the spread of others helps.

All of it works on run means of log ratios to the reference, by recipe (`statistics.run_means`). Recipes are fixed and
seeds vary, so the variance is that of runs within recipes, pooled over recipes and over sets of runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray

Runs = Mapping[str, FloatArray]
"""By recipe, the mean log ratio of each of its runs [R]."""


class Spread(NamedTuple):
    """The variance of one run's mean log ratio within its recipe, NaN without freedom, and its degrees of freedom."""

    variance: float
    freedom: int


class SkillInterval(NamedTuple):
    """A skill with its interval; NaN ends where nothing says how far seeds move it."""

    skill: float
    low: float
    high: float


def seed_spread(sets: Iterable[Runs]) -> Spread:
    """Pooled over all recipes of all sets of runs."""
    groups = [runs_R for runs in sets for runs_R in runs.values()]
    freedom = sum(len(runs_R) - 1 for runs_R in groups)
    if freedom < 1:
        return Spread(float("nan"), 0)
    return Spread(sum(float(((runs_R - runs_R.mean()) ** 2).sum()) for runs_R in groups) / freedom, freedom)


def skill_interval(runs: Runs, spread: Spread, confidence: float = 0.95) -> SkillInterval:
    """Skill over all recipes, one vote each, and its t interval for new seeds of these recipes.

    Raises `ValueError` without a run.
    """
    center, error = _center(runs, spread)
    half = t_quantile(spread.freedom, confidence) * error if spread.freedom else float("nan")
    return SkillInterval(*(float(1 - np.exp(value)) for value in (center, center + half, center - half)))


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
    """The mean over recipes of the means over runs, and its standard error."""
    if not runs:
        raise ValueError("no runs: there is no skill")
    votes = sum(1 / len(runs_R) for runs_R in runs.values())
    center = np.mean([runs_R.mean() for runs_R in runs.values()])
    return float(center), float(np.sqrt(spread.variance * votes) / len(runs))


def t_quantile(freedom: int, confidence: float) -> float:
    """The half width of a two-sided t interval in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + 0.5 * confidence))
