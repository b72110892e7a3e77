"""What a season claims: its tests, its candidate against every other entry, and against the reference in each cell.

A recipe counts once, with the mean log ratio of its tasks; or a family of models, with the mean of its recipes, if that
is the unit of the terms. Tests are one-sided, whether the candidate errs less, and have a fixed order; the other
comparisons have simultaneous intervals and no test.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from leaderboard.season.records import OrderedTest, RecipeSet, Unit
from leaderboard.season.scored import ScoredSeason
from leaderboard.suites.plan import families
from moeload_bench.results.skill import MIN_RECIPES, log_ratio, t_quantile
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05
WHEN = {"transient": "before loads settle", "stable": "once they have settled"}
Result = Literal["passed", "failed", "not tested"]


@dataclass(frozen=True)
class Estimate:
    """A mean log ratio, its standard error and degrees of freedom; below 0 the candidate errs less."""

    mean: float
    error: float
    freedom: int
    units: int

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

    def p_worse(self, percent: float) -> float:
        """Return the one-sided p of "the candidate errs so many percent more, or more than that"."""
        beyond = self.mean - math.log1p(percent / 100)
        if self.error == 0:
            return 0.0 if beyond < 0 else 1.0
        return float(stdtr(self.freedom, beyond / self.error))


@dataclass(frozen=True)
class Test:
    """The candidate against an entry, or in a cell: None where it is lacking.

    ``interval``: the ends of the gain's 95 % interval, of the whole family at once; None from fewer than five recipes.
    """

    what: str
    estimate: Estimate | None
    interval: tuple[float, float] | None


def _family(estimates: Mapping[str, Estimate | None]) -> list[Test]:
    """Return the comparisons of a family with Bonferroni's intervals."""
    confidence = 1 - LEVEL / max(1, sum(effect is not None for effect in estimates.values()))
    return [
        Test(what, gain, gain.interval_at(confidence) if gain is not None and gain.units >= MIN_RECIPES else None)
        for what, gain in estimates.items()
    ]


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
    return ["passed" if place < first else "failed" if place == first else "not tested" for place in range(len(passed))]


def ordered_outcomes(scored: ScoredSeason, without: Collection[str] = ()) -> list[Outcome]:
    """Return what came out of the terms' tests, in their order, on the one set that is tested.

    ``without``: recipes that are left out.
    """
    effects = [(test, estimate_of(scored, test, without)) for test in scored.season.tests]
    results = results_in_order([Outcome(test, value, "not tested").p for test, value in effects])
    return [Outcome(test, value, result) for (test, value), result in zip(effects, results, strict=True)]


def without_families(scored: ScoredSeason) -> Iterator[tuple[str, list[Outcome]]]:
    """Yield each family of models of the tested set with what comes out of the tests in order when it is left out."""
    (tested,) = scored.season.tested
    for family, recipes in families(scored.recipes[tested.name].values()).items():
        yield family, ordered_outcomes(scored, without=recipes)


def deciding_recipes(scored: ScoredSeason, test: OrderedTest) -> list[str]:
    """Return the recipes without any one of which a test that passes by itself would not pass."""
    (tested,) = scored.season.tested
    names = scored.recipes[tested.name]
    effects = {name: estimate_of(scored, test, without=[name]) for name in names}
    return [name for name, left in effects.items() if Outcome(test, left, "not tested").p >= LEVEL]


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


def estimate(values: pd.Series[float]) -> Estimate | None:
    """Return the mean of values, every one alike; None of fewer than two."""
    value_N = values.to_numpy(np.float64)
    if (number := len(value_N)) < 2:
        return None
    return Estimate(float(value_N.mean()), float(value_N.std(ddof=1)) / math.sqrt(number), number - 1, number)


def unit_means(scored: ScoredSeason, group: RecipeSet, means: pd.Series[float], recipes: Collection[str]) -> pd.Series:
    """Return the means of some recipes of a set that have one, or of their families if these are the terms' unit."""
    kept = means[means.index.isin(list(recipes))].dropna()
    if scored.season.unit == "recipe":
        return kept
    return kept.groupby({name: recipe.model.family for name, recipe in scored.recipes[group.name].items()}).mean()


def estimate_of(scored: ScoredSeason, test: OrderedTest, without: Collection[str] = ()) -> Estimate | None:
    """Return what a test is made from, on the one set that is tested, ``without`` some recipes.

    A listed family without the state counts with the test's bound, where nothing is gained.
    """
    (tested,) = scored.season.tested
    recipes = [name for name in scored.strata(tested) if name not in without]
    values = _against(scored, tested, test.candidate, test.reference, test.state, recipes)
    if scored.season.unit == "family":
        left = families(scored.recipes[tested.name][name] for name in recipes)
        values = values.reindex(list(left), fill_value=math.log1p(test.worse_at_most / 100))
    return estimate(values)


def against(scored: ScoredSeason, group: RecipeSet, candidate: str, reference: str, state: str) -> Estimate | None:
    """Return a candidate against a reference on a set in a state."""
    return estimate(_against(scored, group, candidate, reference, state, scored.strata(group)))


def _against(
    scored: ScoredSeason, group: RecipeSet, candidate: str, reference: str, state: str, recipes: Collection[str]
) -> pd.Series[float]:
    errors = scored.results.errors(PRIMARY)[[candidate, reference]]
    means = recipe_means(errors, candidate, state, scored.season.offset)[reference]
    return unit_means(scored, group, means, recipes)


def against_others(scored: ScoredSeason, group: RecipeSet, state: str) -> list[Test]:
    """Return the candidate against every other entry on a set in a state."""
    candidate, strata = scored.season.candidate, scored.strata(group)
    means = recipe_means(scored.results.errors(PRIMARY), candidate, state, scored.season.offset)
    others = [name for name in scored.results.names if name != candidate]
    return _family({name: estimate(unit_means(scored, group, means[name], strata)) for name in others})


def cell_gains(scored: ScoredSeason, group: RecipeSet) -> list[Test]:
    """Return the gain over the reference in every cell of stratum and state of a set."""
    season, errors, cells = scored.season, scored.results.errors(PRIMARY), {}
    for part, state in product((part for part in scored.parts if part.of == group), LABELS):
        means = recipe_means(errors, season.candidate, state, season.offset)[season.reference]
        cells[f"{part.stratum} batches, {state}"] = estimate(unit_means(scored, group, means, part.recipes))
    return _family(cells)


def claim_lines(scored: ScoredSeason) -> Iterator[str]:
    """Yield what the scores of a season say, in words: test by test, and the headline."""
    yield from map(outcome_line, ordered_outcomes(scored))
    yield headline(scored)


def question(test: OrderedTest) -> str:
    """Return what a test asks, in words."""
    more = f"at most {test.worse_at_most:g} % more" if test.worse_at_most else "less"
    return f"{test.candidate} errs {more} than {test.reference}, {test.state}"


def outcome_line(outcome: Outcome) -> str:
    """Return a test of the terms' order and what came out of it, in words."""
    gain = "lacking" if outcome.estimate is None else gain_words(outcome.estimate)
    return f"{question(outcome.test)}: {outcome.result}; gain {gain}"


def gain_words(effect: Estimate) -> str:
    """Return a gain in percent with its lower end, one-sided at 95 %."""
    return f"{100 * effect.gain:.1f} % (at least {100 * effect.low:.1f} %)"


def saved_words(effect: Estimate | None, unit: Unit) -> str:
    """Return a gain in words, with its interval for a new recipe or family."""
    if effect is None:
        return "lacking"
    low, high = (100 * end for end in effect.interval)
    percent = 100 * effect.gain
    what = f"saved {percent:.1f} % of the error" if percent > 0 else f"made {-percent:.1f} % more error"
    chance = "" if low > 0 or high < 0 else ", which may be chance"
    return f"{what} (95 % interval for a new {unit} {low:.1f} to {high:.1f} %{chance})"


def headline(scored: ScoredSeason) -> str:
    """Return the terms' sentence with the numbers of the tested set."""
    season = scored.season
    (tested,) = season.tested
    effects = {state: against(scored, tested, season.candidate, season.reference, state) for state in LABELS}
    gains = "; ".join(f"{WHEN[state]}, it {saved_words(effect, season.unit)}" for state, effect in effects.items())
    values = {"candidate": season.candidate, "reference": season.reference, "set": tested.name, "gains": gains}
    text = season.headline
    for place, value in values.items():
        text = text.replace(f"{{{place}}}", value)
    return text
