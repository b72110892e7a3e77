"""What a season of drawn recipes claims, and its tests: the candidate against every other entry and the tuned average.

A recipe counts once: with the mean log ratio of its tasks. Strata have the weights of the plan, and one variance, that
of recipes within their stratum. All tests are one-sided: whether the candidate errs less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from leaderboard.season_tools.records import DrawPlan
from moeload_bench.arrays import FloatArray
from moeload_bench.errors import SeasonError
from moeload_bench.results.comparison import Errors
from moeload_bench.results.statistics import holm, log_ratio, run_means, skill_of, t_quantile
from moeload_bench.states.rule import LABELS
from moeload_bench.traces.meta import Stratum

LEVEL = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean log ratio, its standard error and degrees of freedom; below 0 the candidate errs less."""

    mean: float
    error: float
    freedom: int
    recipes: int

    @property
    def gain(self) -> float:
        """Return how much less the candidate errs, as a fraction."""
        return skill_of(self.mean)

    @property
    def low(self) -> float:
        """Return the lower end of the gain, one-sided at 95 %."""
        return skill_of(self.mean + float(stdtrit(self.freedom, 1 - LEVEL)) * self.error)

    @property
    def interval(self) -> tuple[float, float]:
        """Return the ends of the gain's two-sided 95 % interval."""
        half = t_quantile(self.freedom, 1 - LEVEL) * self.error
        return skill_of(self.mean + half), skill_of(self.mean - half)

    @property
    def p(self) -> float:
        """Return the one-sided p of "the candidate errs as much or more"."""
        if self.error == 0:
            return 0.0 if self.mean < 0 else 1.0
        return float(stdtr(self.freedom, self.mean / self.error))

    @property
    def recipes_needed(self) -> int | None:
        """Return how many recipes would show a gain of this size with this spread, at a power of 80 %.

        By the normal distribution and without correction for other tests; None where there is no gain to show.
        """
        if self.mean >= 0:
            return None
        widths = float(ndtri(1 - LEVEL) + ndtri(POWER)) * self.error / -self.mean
        return max(2, math.ceil(self.recipes * widths**2))


def stratified(values: Mapping[Stratum, FloatArray], weights: Mapping[Stratum, float]) -> Estimate | None:
    """Return the weighted mean over strata, with the variance pooled within strata: sum w^2 s^2 / n.

    None where a stratum has no recipe, or none has two.
    """
    if any(len(values.get(stratum, ())) == 0 for stratum in weights):
        return None
    found = {stratum: np.asarray(values[stratum], dtype=np.float64) for stratum in weights}
    freedom = sum(len(one) - 1 for one in found.values())
    if freedom < 1:
        return None
    variance = sum(float(((one - one.mean()) ** 2).sum()) for one in found.values()) / freedom
    mean = sum(weights[stratum] * float(one.mean()) for stratum, one in found.items())
    error = math.sqrt(sum(weights[stratum] ** 2 * variance / len(one) for stratum, one in found.items()))
    return Estimate(mean, error, freedom, sum(map(len, found.values())))


@dataclass(frozen=True)
class Test:
    """The candidate against an entry, or in a cell: None where it is lacking. ``p_holm`` is corrected in its family."""

    what: str
    estimate: Estimate | None
    p_holm: float | None

    @property
    def apart(self) -> bool:
        """Return whether the candidate errs less, with the family's error at 5 %."""
        return self.p_holm is not None and self.p_holm < LEVEL


def _family(estimates: Mapping[str, Estimate | None]) -> list[Test]:
    corrected = iter(holm([one.p for one in estimates.values() if one is not None]))
    return [Test(what, one, None if one is None else next(corrected)) for what, one in estimates.items()]


def recipe_means(
    errors: Errors, candidate: str, other: str, stratum_of: Mapping[str, Stratum]
) -> dict[Stratum, FloatArray]:
    """Return the recipes' mean log ratios by stratum; recipes of another set, and those without a ratio, left out."""
    ratio_T = log_ratio(errors.by_forecaster[candidate], errors.by_forecaster[other])
    found: dict[Stratum, list[float]] = {}
    for recipe, runs in run_means(ratio_T, errors.tasks).items():
        if recipe in stratum_of:
            found.setdefault(stratum_of[recipe], []).append(float(runs.mean()))
    return {stratum: np.array(values) for stratum, values in found.items()}


def against_others(
    errors: Errors, candidate: str, stratum_of: Mapping[str, Stratum], weights: Mapping[Stratum, float]
) -> list[Test]:
    """Return the candidate against every other entry on these tasks, those of one state; Holm over entries."""
    others = [name for name in errors.by_forecaster if name != candidate]
    return _family({name: stratified(recipe_means(errors, candidate, name, stratum_of), weights) for name in others})


def cell_gains(errors: Errors, candidate: str, average: str, stratum_of: Mapping[str, Stratum]) -> list[Test]:
    """Return the gain over the tuned average in every stratum and state, each by its own spread; Holm over them."""
    cells = {}
    for stratum, state in product(sorted(set(stratum_of.values()), reverse=True), LABELS):
        of_cell = {recipe: one for recipe, one in stratum_of.items() if one == stratum}
        values = recipe_means(errors.select(state=state), candidate, average, of_cell)
        cells[f"{stratum} batches, {state}"] = stratified(values, {stratum: 1.0})
    return _family(cells)


def worst_lows(gains: Sequence[Test]) -> list[float]:
    """Return the lower ends of cells, the least first; a lacking cell is worse than any. The lesser list is worse."""
    return sorted(-math.inf if one.estimate is None else one.estimate.low for one in gains)


def claim_lines(draws: DrawPlan, errors: Errors) -> Iterator[str]:
    """Yield what the scores of a season say, in words: set by set and state by state, then the headline.

    Raises `SeasonError` where the plan's candidate or tuned average has no result.
    """
    for name in (draws.candidate, draws.tuned_average):
        if name not in errors.by_forecaster:
            raise SeasonError(f"the plan compares {name[:80]!r}; there is: {', '.join(errors.by_forecaster)}")
    for one, state in product(draws.sets, LABELS):
        tests = against_others(errors.select(state=state), draws.candidate, one.stratum_of, one.weights)
        words = [
            test.what if test.estimate is None or test.estimate.recipes_needed is None
            else f"{test.what} (about {test.estimate.recipes_needed} recipes of this spread would tell)"
            for test in tests if not test.apart
        ]  # fmt: skip
        yield (
            f"set {one.name}, {state}: {draws.candidate} errs less than {len(tests) - len(words)} of {len(tests)} "
            f"entries; not told apart: {', '.join(words) or 'none'}"
        )
    yield headline(draws, errors)


def headline(draws: DrawPlan, errors: Errors) -> str:
    """Return the plan's sentence with the numbers of the set that is worse: sets are never pooled."""
    found = {one.name: cell_gains(errors, draws.candidate, draws.tuned_average, one.stratum_of) for one in draws.sets}
    name = min(found, key=lambda one: worst_lows(found[one]))
    cells = (
        f"{one.what}: lacking"
        if one.estimate is None
        else f"{one.what}: {100 * one.estimate.gain:.1f} % (at least {100 * one.estimate.low:.1f} %)"
        for one in found[name]
    )
    return draws.headline.format(
        candidate=draws.candidate, tuned_average=draws.tuned_average, set=name, gains="; ".join(cells)
    )
