"""How likely the tests of a season are to pass, by simulation from the two variances of an older season.

Axis letters: S simulations, F families, R runs of a family.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import stdtrit

from leaderboard.season.claims import LEVEL, recipe_means
from leaderboard.season.records import OrderedTest, Season
from leaderboard.season.scored import ScoredSeason
from leaderboard.suites.plan import families
from moeload_bench.scoring.catalogue import PRIMARY

if TYPE_CHECKING:
    import pandas as pd

SIMULATIONS, SEED = 20_000, 79


class Spread(NamedTuple):
    """A mean log ratio over families, and its standard deviations between families and within them."""

    mean: float
    between: float
    within: float


class Power(NamedTuple):
    """A test's chance to pass at an effect, a log ratio, with all families and with two that lack the state."""

    test: OrderedTest
    spread: Spread
    effect: float
    chance: float
    chance_without_two: float


def spread_of(means: pd.Series[float], family_of: Mapping[str, str]) -> Spread:
    """Return the mean and spread of recipes' mean log ratios: the analysis of variance, for unequal numbers."""
    groups = means.groupby([family_of[str(recipe)] for recipe in means.index])
    sizes, count = groups.size(), len(means)
    within = float(((means - groups.transform("mean")) ** 2).sum()) / (count - len(sizes))
    between = float((sizes * (groups.mean() - means.mean()) ** 2).sum()) / (len(sizes) - 1)
    recipes = (count - float((sizes**2).sum()) / count) / (len(sizes) - 1)
    return Spread(float(groups.mean().mean()), math.sqrt(max(0.0, (between - within) / recipes)), math.sqrt(within))


def pass_chance(effect: float, bound: float, spread: Spread, families: int, runs: int, lacking: int = 0) -> float:
    """Return how often a one-sided t test over families passes; ``lacking`` families count with the bound."""
    random = np.random.default_rng(SEED)
    family_SF = effect + spread.between * random.standard_normal((SIMULATIONS, families))
    mean_SF = family_SF + spread.within * random.standard_normal((SIMULATIONS, families, runs)).mean(axis=2)
    mean_SF[:, :lacking] = bound
    error_S = mean_SF.std(axis=1, ddof=1) / math.sqrt(families)
    return float((mean_SF.mean(axis=1) - bound < stdtrit(families - 1, LEVEL) * error_S).mean())


def powers(season: Season, older: ScoredSeason, runs: int) -> Iterator[Power]:
    """Yield of each test of a season its chance at the older season's effect and at half of it.

    ``runs`` of each family. Of the older season's tested set are read the horizons that the season asks for.
    """
    (tested,) = older.season.tested
    by_family = families(older.recipes[tested.name].values())
    family_of = {name: family for family, names in by_family.items() for name in names}
    errors = older.results.errors(PRIMARY)
    errors = errors[errors.index.get_level_values("horizon") <= season.horizon]
    for test in season.tests:
        means = recipe_means(errors, test.candidate, test.state, season.offset)[test.reference].dropna()
        spread = spread_of(means[means.index.isin(family_of)], family_of)
        bound, number = math.log1p(test.worse_at_most / 100), len(season.families)
        for effect in (spread.mean, spread.mean / 2):
            chances = (pass_chance(effect, bound, spread, number, runs, lacking) for lacking in (0, 2))
            yield Power(test, spread, effect, *chances)


def all_pass_at_least(chances: list[float]) -> float:
    """Return the least chance that all of these tests pass, however they hang together."""
    return max(0.0, 1.0 - sum(1.0 - chance for chance in chances))
