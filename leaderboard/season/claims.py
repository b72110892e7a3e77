"""What a season claims: its tests, its candidate against every other entry, and against the reference in each cell.

A recipe counts once: with the mean log ratio of its tasks. Strata have the weights of the terms, and one variance, that
of recipes within their stratum; without weights all recipes are one stratum. All tests are one-sided: whether the
candidate errs less. Where tests have a fixed order, the other comparisons have simultaneous intervals and no test.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from leaderboard.season.records import OrderedTest, RecipeSet
from leaderboard.season.scored import ScoredSeason
from leaderboard.suites.plan import families
from moeload_bench.arrays import FloatArray
from moeload_bench.results.skill import MIN_RECIPES, holm, log_ratio, t_quantile
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS
from moeload_bench.traces.meta import Stratum

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05
POWER = 0.8
WHEN = {"transient": "before loads settle", "stable": "once they have settled"}
Result = Literal["passed", "failed", "not tested"]
K = TypeVar("K")


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
        return self.interval_at(1 - LEVEL)

    def interval_at(self, confidence: float) -> tuple[float, float]:
        """Return the ends of the gain's two-sided interval."""
        half = float(t_quantile(self.freedom, confidence)) * self.error
        return 1.0 - math.exp(self.mean + half), 1.0 - math.exp(self.mean - half)

    @property
    def p(self) -> float:
        """Return the one-sided p of "the candidate errs as much or more"."""
        return self.p_worse(0.0)

    def p_worse(self, percent: float) -> float:
        """Return the one-sided p of "the candidate errs so many percent more, or more than that"."""
        beyond = self.mean - math.log1p(percent / 100)
        if self.error == 0:
            return 0.0 if beyond < 0 else 1.0
        return float(stdtr(self.freedom, beyond / self.error))

    @property
    def recipes_needed(self) -> int | None:
        """Return how many recipes would show a gain of this size with this spread, at a power of 80 %.

        By the normal distribution and without correction for other tests; None where there is no gain to show.
        """
        if self.mean >= 0:
            return None
        widths = float(ndtri(1 - LEVEL) + ndtri(POWER)) * self.error / -self.mean
        return max(2, math.ceil(self.recipes * widths**2))


def stratified(values: Mapping[K, FloatArray], weights: Mapping[K, float]) -> Estimate | None:
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
    """The candidate against an entry, or in a cell: None where it is lacking. ``p_holm`` is corrected in its family.

    ``interval``: the ends of the gain's 95 % interval, of the whole family at once where the season orders its tests;
    None from fewer than five recipes.
    """

    what: str
    estimate: Estimate | None
    p_holm: float | None
    interval: tuple[float, float] | None

    @property
    def significant(self) -> bool:
        """Return whether the candidate errs less, with the family's error at 5 %."""
        return self.p_holm is not None and self.p_holm < LEVEL


def _family(estimates: Mapping[str, Estimate | None], simultaneous: bool) -> list[Test]:
    """Return the tests of a family; ``simultaneous`` intervals are Bonferroni's."""
    known = [one for one in estimates.values() if one is not None]
    corrected = iter(holm([one.p for one in known]))
    confidence = 1 - LEVEL / (len(known) if simultaneous and known else 1)
    return [
        Test(what, None, None, None) if one is None
        else Test(what, one, next(corrected), one.interval_at(confidence) if one.recipes >= MIN_RECIPES else None)
        for what, one in estimates.items()
    ]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The result of one of the tests that the terms list in order; the estimate is None where runs are lacking."""

    test: OrderedTest
    estimate: Estimate | None
    result: Result

    @property
    def p(self) -> float:
        """Return the one-sided p; 1 without an estimate."""
        return 1.0 if self.estimate is None else self.estimate.p_worse(self.test.worse_at_most)


def results_in_order(p_values: Sequence[float]) -> list[Result]:
    """Return the result of each test: the first that fails stops the rest."""
    passed = [p < LEVEL for p in p_values]
    first = passed.index(False) if False in passed else len(passed)
    return ["passed" if at < first else "failed" if at == first else "not tested" for at in range(len(passed))]


def ordered_outcomes(scored: ScoredSeason, without: Collection[str] = ()) -> list[Outcome]:
    """Return what came out of the terms' tests, in their order, on the one set that is tested.

    ``without``: recipes that are left out.
    """
    if not scored.season.ordered:
        return []
    (one,) = scored.season.tested
    found = [(test, against(scored, one, test.candidate, test.reference, test.state, without))
             for test in scored.season.ordered]  # fmt: skip
    results = results_in_order([Outcome(test, value, "not tested").p for test, value in found])
    return [Outcome(test, value, result) for (test, value), result in zip(found, results, strict=True)]


def without_families(scored: ScoredSeason) -> Iterator[tuple[str, list[Outcome]]]:
    """Yield each family of models of the tested set with what comes out of the tests in order when it is left out."""
    (one,) = scored.season.tested
    for family, recipes in families(scored.recipes[one.name].values()).items():
        yield family, ordered_outcomes(scored, without=recipes)


def deciding_recipes(scored: ScoredSeason, test: OrderedTest) -> list[str]:
    """Return the recipes without any one of which a test that passes by itself would not pass."""
    (one,) = scored.season.tested
    names = scored.recipes[one.name]
    found = {name: against(scored, one, test.candidate, test.reference, test.state, without=[name]) for name in names}
    return [name for name, left in found.items() if Outcome(test, left, "not tested").p >= LEVEL]


def recipe_means(errors: pd.DataFrame, candidate: str, state: str, offset: float = 0.0) -> pd.DataFrame:
    """Return the mean log ratio of a candidate's error to every forecaster's: a row per recipe with tasks in the state.

    ``errors``: a row per task, a column per forecaster; ``offset`` is added to them.
    """
    import pandas as pd

    tasks = errors[errors.index.get_level_values("state") == state]
    ratio = log_ratio(tasks[[candidate]].to_numpy(), tasks.to_numpy(), offset)
    ratios = pd.DataFrame(ratio, tasks.index, tasks.columns)
    by_run = ratios.groupby(level=["recipe", "trace"], sort=False).mean()
    return by_run.groupby(level="recipe", sort=False).mean()


def estimate(
    means: pd.Series[float], strata: Mapping[str, Stratum], weights: Mapping[Stratum, float]
) -> Estimate | None:
    """Return the stratified mean of recipes; those of another set, and those without a ratio, are left out.

    Without weights every recipe counts alike.
    """
    known = means[means.index.isin(list(strata))].dropna()
    if not weights:
        return stratified({None: np.asarray(known, np.float64)}, {None: 1.0})
    stratum = known.index.map(strata.get)
    return stratified({one: np.asarray(known[stratum == one], np.float64) for one in weights}, weights)


def against(
    scored: ScoredSeason, one: RecipeSet, candidate: str, reference: str, state: str, without: Collection[str] = ()
) -> Estimate | None:
    """Return a candidate against a reference on a set in a state, ``without`` some recipes."""
    errors = scored.results.errors(PRIMARY)[[candidate, reference]]
    means = recipe_means(errors, candidate, state, scored.season.offset)
    return estimate(means[reference].drop(list(without), errors="ignore"), scored.strata(one), one.weights)


def against_others(scored: ScoredSeason, one: RecipeSet, state: str) -> list[Test]:
    """Return the candidate against every other entry on a set in a state; Holm over entries."""
    candidate, strata = scored.season.candidate, scored.strata(one)
    means = recipe_means(scored.results.errors(PRIMARY), candidate, state, scored.season.offset)
    others = [name for name in scored.results.names if name != candidate]
    estimates = {name: estimate(means[name], strata, one.weights) for name in others}
    return _family(estimates, simultaneous=bool(scored.season.ordered))


def cell_gains(scored: ScoredSeason, one: RecipeSet) -> list[Test]:
    """Return the gain over the reference in every cell of stratum and state of a set; Holm over them."""
    season, errors, cells = scored.season, scored.results.errors(PRIMARY), {}
    for part, state in product((part for part in scored.parts if part.of == one), LABELS):
        means = recipe_means(errors, season.candidate, state, season.offset)[season.reference]
        strata = dict.fromkeys(part.recipes, part.stratum)
        cells[f"{part.stratum} batches, {state}"] = estimate(means, strata, {part.stratum: 1.0})
    return _family(cells, simultaneous=bool(season.ordered))


def worst_lows(gains: Sequence[Test]) -> list[float]:
    """Return the lower ends of cells, the least first; a lacking cell is worse than any. The lesser list is worse."""
    return sorted(-math.inf if one.estimate is None else one.estimate.low for one in gains)


def claim_lines(scored: ScoredSeason) -> Iterator[str]:
    """Yield what the scores of a season say, in words: test by test, or set by set and state by state; the headline."""
    yield from map(outcome_line, ordered_outcomes(scored))
    for one, state in product(() if scored.season.ordered else scored.season.sets, LABELS):
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


def outcome_line(one: Outcome) -> str:
    """Return a test of the terms' order and what came out of it, in words."""
    more = f"at most {one.test.worse_at_most:g} % more" if one.test.worse_at_most else "less"
    found = "lacking" if one.estimate is None else gain_words(one.estimate)
    return f"{one.test.candidate} errs {more} than {one.test.reference}, {one.test.state}: {one.result}; gain {found}"


def gain_words(one: Estimate) -> str:
    """Return a gain in percent with its lower end, one-sided at 95 %."""
    return f"{100 * one.gain:.1f} % (at least {100 * one.low:.1f} %)"


def saved_words(one: Estimate | None) -> str:
    """Return a gain in words, with its interval for a new recipe."""
    if one is None:
        return "lacking"
    low, high = (100 * end for end in one.interval)
    what = f"saved {100 * one.gain:.1f} % of the error" if one.gain > 0 else f"made {-100 * one.gain:.1f} % more error"
    chance = "" if low > 0 or high < 0 else ", which may be chance"
    return f"{what} (95 % interval for a new recipe {low:.1f} to {high:.1f} %{chance})"


def headline(scored: ScoredSeason) -> str:
    """Return the terms' sentence with the numbers of the tested set, or of the worse one: sets are never pooled."""
    season = scored.season
    if season.ordered:
        (tested,) = season.tested
        name, found = tested.name, {state: against(scored, tested, season.candidate, season.reference, state)
                                    for state in LABELS}  # fmt: skip
        gains = [f"{WHEN[state]}, it {saved_words(one)}" for state, one in found.items()]
    else:
        cells = {one.name: cell_gains(scored, one) for one in season.sets}
        name = min(cells, key=lambda one: worst_lows(cells[one]))
        gains = [f"{one.what}: {gain_words(one.estimate) if one.estimate else 'lacking'}" for one in cells[name]]
    text = season.headline
    values = {"candidate": season.candidate, "reference": season.reference, "set": name, "gains": "; ".join(gains)}
    for place, value in values.items():
        text = text.replace(f"{{{place}}}", value)
    return text
