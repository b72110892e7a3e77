"""What results allow to conclude: skill, win rate, two intervals, Holm, rank groups (docs/methods/statistics.md).

Windows, layers and experts of one training run are not independent, and recipes are few, so nothing here resamples
windows. All of it works on the logarithm of the ratio of a forecaster's error to the reference's on the same task.

Axis letters: T tasks, F forecasters, G recipes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import ResultError, not_found

Claim = Literal["these recipes, new seeds", "a new recipe"]

CLIP = 20.0
"""Ratios are kept within [1 / CLIP, CLIP]: one task cannot decide a mean."""
EXACT = 1e-12
"""Errors below this, and differences of errors up to it, are rounding."""
MIN_RECIPES = 5
"""With fewer recipes no interval and no test is given."""
Runs = Mapping[str, FloatArray]
"""By recipe, the mean log ratio of each of its runs [R]."""


@dataclass(frozen=True)
class Interval:
    """A t interval on skill. ``recipes`` (near twins are one) and ``runs`` say on how much it rests."""

    claim: Claim
    skill: float
    low: float
    high: float
    confidence: float
    recipes: int
    runs: int


@dataclass(frozen=True, eq=False)
class Tasks:
    """Which run and which recipe each task belongs to; ``run_T`` is unique over recipes (a trace's id).

    ``twins``: recipes that are near twins have the same name there, and one vote together.
    """

    recipe_T: Sequence[str]
    run_T: Sequence[str]
    twins: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_run(self) -> tuple[NDArray[np.intp], list[str]]:
        """Return the number of each task's run [T], in the order in which runs come, and each run's recipe."""
        recipes = dict(zip(self.run_T, self.recipe_T, strict=True))
        number = {run: r for r, run in enumerate(recipes)}
        return np.array([number[run] for run in self.run_T], dtype=np.intp), list(recipes.values())


class Spread(NamedTuple):
    """The variance of one run's mean log ratio within its recipe, NaN without freedom, and its degrees of freedom."""

    variance: float
    freedom: int


@dataclass(frozen=True)
class PairedTest:
    """A paired t test over recipe means, corrected by Holm within its family; p None with too few recipes."""

    forecaster: str
    against: str
    skill: float
    p: float | None
    p_holm: float | None


def log_ratio(error_T: FloatArray, reference_T: FloatArray) -> FloatArray:
    """Return the log of error / reference, clipped to +-log CLIP; [T].

    Errors below EXACT count as 0, and two errors of 0 are equal (0). NaN where either does not exist.
    """
    error, reference = (np.asarray(each, dtype=np.float64) for each in (error_T, reference_T))
    error, reference = (np.where(np.abs(each) < EXACT, 0.0, each) for each in (error, reference))
    ratio = np.full(np.broadcast_shapes(error.shape, reference.shape), np.nan)
    known = np.isfinite(error) & np.isfinite(reference)
    np.divide(error, reference, out=ratio, where=known & (reference > 0))
    ratio[known & (reference == 0)] = CLIP
    ratio[known & (reference == 0) & (error == 0)] = 1.0
    return np.asarray(np.log(np.clip(ratio, 1.0 / CLIP, CLIP)))


def skill(log_ratio_T: FloatArray, tasks: Tasks) -> float:
    """Return 1 - geometric mean of the error ratios: over tasks, runs, recipes, groups of twins; NaN without any task.

    With as many tasks per run and runs per recipe, and without near twins, this is the mean over tasks.
    """
    groups = _by_group(log_ratio_T, tasks)
    return skill_of(float(_group_means(groups).mean())) if groups else float("nan")


def interval(log_ratio_T: FloatArray, tasks: Tasks, claim: Claim, confidence: float = 0.95) -> Interval | None:
    """Return a t interval on skill for one of the two claims; None (print ``n/a``) with fewer than MIN_RECIPES recipes,
    near twins counted as one.

    ``these recipes, new seeds``: the standard error comes from the pooled variance of runs within recipes; also None
    when no recipe has two runs. ``a new recipe``: from the variance of the recipe means. Raise `NotFoundError` for
    another claim.
    """
    if claim not in get_args(Claim):
        raise not_found("claim", claim, get_args(Claim))
    groups = _by_group(log_ratio_T, tasks)
    if len(groups) < MIN_RECIPES:
        return None
    center, error, freedom = _new_recipe(groups) if claim == "a new recipe" else _new_seeds(groups)
    if freedom < 1:
        return None
    half = t_quantile(freedom, confidence) * error
    return Interval(
        claim=claim,
        skill=skill_of(center),
        low=skill_of(center + half),
        high=skill_of(center - half),
        confidence=confidence,
        recipes=len(groups),
        runs=sum(len(runs) for group in groups for runs in group),
    )


def compare(errors: Mapping[str, FloatArray], against: str, tasks: Tasks) -> list[PairedTest]:
    """Return every other forecaster against one: the reference, or the leader. One family for Holm's correction.

    Raise `ResultError` when ``against`` is not among the forecasters.
    """
    if against not in errors:
        raise ResultError(f"no results of {against!r} to compare with; there is: {', '.join(errors)}")
    others = [name for name in errors if name != against]
    ratios = {name: log_ratio(errors[name], errors[against]) for name in others}
    p_values = {name: p_value(ratios[name], tasks) for name in others}
    tested = [name for name in others if p_values[name] is not None]
    corrected = dict(zip(tested, holm([p for p in p_values.values() if p is not None]), strict=True))
    return [
        PairedTest(name, against, skill(ratios[name], tasks), p_values[name], corrected.get(name)) for name in others
    ]


def p_value(log_ratio_T: FloatArray, tasks: Tasks) -> float | None:
    """Return the two-sided p of "no difference on a new recipe": a t test on recipe means; None with fewer than
    MIN_RECIPES.
    """
    groups = _by_group(log_ratio_T, tasks)
    if len(groups) < MIN_RECIPES:
        return None
    center, error, freedom = _new_recipe(groups)
    if error == 0.0:
        return 1.0 if center == 0.0 else 0.0
    from scipy.special import stdtr

    return float(2.0 * stdtr(freedom, -abs(center) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down correction (1979), in the order given."""
    count = len(p_values)
    corrected, worst = [0.0] * count, 0.0
    for rank, i in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (count - rank) * p_values[i]))
        corrected[i] = worst
    return corrected


def rank_groups(
    errors: Mapping[str, FloatArray], tasks: Tasks, alpha: float = 0.05, *, base_T: FloatArray | None = None
) -> list[list[str]] | None:
    """Return forecasters in groups that cannot be told apart, best first; None with fewer than MIN_RECIPES recipes.

    In the order of skill (against ``base_T``, the reference's errors; without it against the first forecaster given:
    ratios are clipped, so the order may depend on it) a group goes from its leader down to the first one whose
    difference from the leader is significant after Holm's correction; that one leads the next group. So no one ranks
    above a forecaster of more skill. Membership is about the leader: two members may differ from one another.
    """
    if not errors:
        return []
    base_T = next(iter(errors.values())) if base_T is None else base_T
    order = sorted(errors, key=lambda name: -skill(log_ratio(errors[name], base_T), tasks))
    groups = []
    while order:
        results = compare({name: errors[name] for name in order}, order[0], tasks)
        if any(result.p_holm is None for result in results):
            return None
        apart = {result.forecaster for result in results if result.p_holm is not None and result.p_holm < alpha}
        end = next((i for i, name in enumerate(order) if name in apart), len(order))
        groups.append(order[:end])
        order = order[end:]
    return groups


def ranks(groups: Sequence[Sequence[str]] | None) -> dict[str, int]:
    """Return each forecaster's number of group, from 1; empty where there are no groups."""
    return {name: rank for rank, group in enumerate(groups or [], start=1) for name in group}


def best_in_hindsight(errors: Mapping[str, FloatArray], tasks: Tasks) -> str | None:
    """Return the forecaster with the least geometric mean error over the tasks: chosen on the scores, so not a fair
    entry.
    """
    if not errors:
        return None
    base = next(iter(errors.values()))
    return max(errors, key=lambda name: skill(log_ratio(errors[name], base), tasks))


def run_means(log_ratio_T: FloatArray, tasks: Tasks) -> dict[str, FloatArray]:
    """Return the means of each recipe's runs; tasks without a ratio are left out, and so are runs without tasks."""
    number_T, recipe_R = tasks.by_run
    known = np.isfinite(log_ratio_T)
    count_R = np.bincount(number_T[known], minlength=len(recipe_R))
    sum_R = np.bincount(number_T[known], weights=log_ratio_T[known], minlength=len(recipe_R))
    means: dict[str, list[float]] = {}
    for recipe, total, count in zip(recipe_R, sum_R.tolist(), count_R.tolist(), strict=True):
        if count:
            means.setdefault(recipe, []).append(total / count)
    return {recipe: np.array(runs) for recipe, runs in means.items()}


def _by_group(log_ratio_T: FloatArray, tasks: Tasks) -> list[list[FloatArray]]:
    """Return the means of the runs of each recipe, recipes by group of near twins: mostly one recipe in a group."""
    groups: dict[str, list[FloatArray]] = {}
    for recipe, runs in run_means(log_ratio_T, tasks).items():
        groups.setdefault(tasks.twins.get(recipe, recipe), []).append(runs)
    return list(groups.values())


def _group_means(groups: Sequence[Sequence[FloatArray]]) -> FloatArray:
    """Return the mean of each group over its recipes, of each recipe over its runs."""
    return np.array([np.mean([runs.mean() for runs in group]) for group in groups])


def _new_recipe(groups: Sequence[Sequence[FloatArray]]) -> tuple[float, float, int]:
    """Return mean, standard error and degrees of freedom for a recipe not seen."""
    mean_G = _group_means(groups)
    return float(mean_G.mean()), float(mean_G.std(ddof=1) / np.sqrt(len(mean_G))), len(mean_G) - 1


def _new_seeds(groups: Sequence[Sequence[FloatArray]]) -> tuple[float, float, int]:
    """Return mean, standard error and degrees of freedom for new seeds of the same recipes: runs vary, recipes are
    fixed.
    """
    recipes = [(runs, 1.0 / (len(groups) * len(group))) for group in groups for runs in group]
    spread = seed_spread({str(i): runs} for i, (runs, _) in enumerate(recipes))
    votes = sum(weight**2 / len(runs) for runs, weight in recipes)
    return float(_group_means(groups).mean()), float(np.sqrt(spread.variance * votes)), spread.freedom


def skill_of(mean_log_ratio: float) -> float:
    """Return the skill of a mean log ratio: how much less error than the reference, as a fraction."""
    return float(1.0 - np.exp(mean_log_ratio))


def seed_spread(sets: Iterable[Runs]) -> Spread:
    """Return the variance of runs within recipes, pooled over all recipes of all sets of runs."""
    groups = [runs_R for runs in sets for runs_R in runs.values()]
    freedom = sum(len(runs_R) - 1 for runs_R in groups)
    if freedom < 1:
        return Spread(float("nan"), 0)
    return Spread(sum(float(((runs_R - runs_R.mean()) ** 2).sum()) for runs_R in groups) / freedom, freedom)


def t_quantile(freedom: int, confidence: float) -> float:
    """Return the half width of a two-sided t interval in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + 0.5 * confidence))
