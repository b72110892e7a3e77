"""What a season claims: its candidate against every other entry, and against the reference in each cell.

A recipe counts once: with the mean log ratio of its tasks. Strata have the weights of the terms, and one variance, that
of recipes within their stratum. All tests are one-sided: whether the candidate errs less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from leaderboard.season.records import RecipeSet
from leaderboard.season.scored import ScoredSeason
from moeload_bench.arrays import FloatArray
from moeload_bench.results.skill import holm, log_ratio, t_quantile
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS
from moeload_bench.traces.meta import Stratum

if TYPE_CHECKING:
    import pandas as pd

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
        return 1.0 - math.exp(self.mean)

    @property
    def low(self) -> float:
        """Return the lower end of the gain, one-sided at 95 %."""
        return 1.0 - math.exp(self.mean + float(stdtrit(self.freedom, 1 - LEVEL)) * self.error)

    @property
    def interval(self) -> tuple[float, float]:
        """Return the ends of the gain's two-sided 95 % interval."""
        half = float(t_quantile(self.freedom)) * self.error
        return 1.0 - math.exp(self.mean + half), 1.0 - math.exp(self.mean - half)

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
    def significant(self) -> bool:
        """Return whether the candidate errs less, with the family's error at 5 %."""
        return self.p_holm is not None and self.p_holm < LEVEL


def _family(estimates: Mapping[str, Estimate | None]) -> list[Test]:
    corrected = iter(holm([one.p for one in estimates.values() if one is not None]))
    return [Test(what, one, None if one is None else next(corrected)) for what, one in estimates.items()]


def recipe_means(errors: pd.DataFrame, candidate: str, state: str) -> pd.DataFrame:
    """Return the mean log ratio of a candidate's error to every forecaster's: a row per recipe with tasks in the state.

    ``errors``: a row per task, a column per forecaster.
    """
    import pandas as pd

    tasks = errors[errors.index.get_level_values("state") == state]
    ratios = pd.DataFrame(log_ratio(tasks[[candidate]].to_numpy(), tasks.to_numpy()), tasks.index, tasks.columns)
    by_run = ratios.groupby(level=["recipe", "trace"], sort=False).mean()
    return by_run.groupby(level="recipe", sort=False).mean()


def estimate(
    means: pd.Series[float], strata: Mapping[str, Stratum], weights: Mapping[Stratum, float]
) -> Estimate | None:
    """Return the stratified mean of recipes; those of another set, and those without a ratio, are left out."""
    known = means[means.index.isin(list(strata))].dropna()
    stratum = known.index.map(strata.get)
    return stratified({one: np.asarray(known[stratum == one], np.float64) for one in weights}, weights)


def against_others(scored: ScoredSeason, one: RecipeSet, state: str) -> list[Test]:
    """Return the candidate against every other entry on a set in a state; Holm over entries."""
    candidate, strata = scored.season.candidate, scored.strata(one)
    means = recipe_means(scored.results.errors(PRIMARY), candidate, state)
    others = [name for name in scored.results.names if name != candidate]
    return _family({name: estimate(means[name], strata, one.weights) for name in others})


def cell_gains(scored: ScoredSeason, one: RecipeSet) -> list[Test]:
    """Return the gain over the reference in every cell of stratum and state of a set; Holm over them."""
    season, errors, cells = scored.season, scored.results.errors(PRIMARY), {}
    for part, state in product((part for part in scored.parts if part.of == one), LABELS):
        means = recipe_means(errors, season.candidate, state)[season.reference]
        strata = dict.fromkeys(part.recipes, part.stratum)
        cells[f"{part.stratum} batches, {state}"] = estimate(means, strata, {part.stratum: 1.0})
    return _family(cells)


def worst_lows(gains: Sequence[Test]) -> list[float]:
    """Return the lower ends of cells, the least first; a lacking cell is worse than any. The lesser list is worse."""
    return sorted(-math.inf if one.estimate is None else one.estimate.low for one in gains)


def claim_lines(scored: ScoredSeason) -> Iterator[str]:
    """Yield what the scores of a season say, in words: set by set and state by state, then the headline."""
    for one, state in product(scored.season.sets, LABELS):
        tests = against_others(scored, one, state)
        words = [
            test.what if test.estimate is None or test.estimate.recipes_needed is None
            else f"{test.what} ({test.estimate.recipes_needed:,} recipes would be needed to separate them)"
            for test in tests if not test.significant
        ]  # fmt: skip
        yield (
            f"set {one.name}, {state}: {scored.season.candidate} errs less than {len(tests) - len(words)} of "
            f"{len(tests)} entries; no significant difference: {', '.join(words) or 'none'}"
        )
    yield headline(scored)


def headline(scored: ScoredSeason) -> str:
    """Return the terms' sentence with the numbers of the set that is worse: sets are never pooled."""
    found = {one.name: cell_gains(scored, one) for one in scored.season.sets}
    name = min(found, key=lambda one: worst_lows(found[one]))
    cells = (
        f"{one.what}: lacking"
        if one.estimate is None
        else f"{one.what}: {100 * one.estimate.gain:.1f} % (at least {100 * one.estimate.low:.1f} %)"
        for one in found[name]
    )
    text, season = scored.season.headline, scored.season
    values = {"candidate": season.candidate, "reference": season.reference, "set": name, "gains": "; ".join(cells)}
    for place, value in values.items():
        text = text.replace(f"{{{place}}}", value)
    return text
