"""What a season claims is tested as it says, by numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from leaderboard.season_tools.claims import against_others, cell_gains, headline, stratified, worst_lows
from leaderboard.season_tools.records import DrawPlan
from moeload_bench.results.comparison import Errors
from moeload_bench.results.statistics import Tasks
from moeload_bench.traces.meta import Stratum

WEIGHTS: dict[Stratum, float] = {"small": 0.75, "large": 0.25}
STRATUM_OF: dict[str, Stratum] = {f"s{i}": "small" for i in range(3)} | {f"l{i}": "large" for i in range(2)}


def errors(ratio: dict[str, dict[str, float]], states: tuple[str, ...] = ("stable",)) -> Errors:
    """One task for each recipe and state: the candidate errs 1, another entry by the ratio."""
    recipes = [(recipe, state) for state in states for recipe in next(iter(ratio.values()))]
    runs = [f"{recipe}/s/seed0" for recipe, _ in recipes]
    return Errors(
        Tasks([recipe for recipe, _ in recipes], runs),
        np.ones(len(recipes), dtype=np.int64),
        tuple(state for _, state in recipes),
        np.zeros(len(recipes), dtype=np.bool_),
        {"mine": np.ones(len(recipes))}
        | {name: np.array([by_recipe[recipe] for recipe, _ in recipes]) for name, by_recipe in ratio.items()},
    )


def test_the_stratified_mean_has_the_variance_within_strata() -> None:
    """Small: -1, -2, -3 (mean -2, squares 2). Large: -4, -6 (mean -5, squares 2). Pooled: 4 / 3 with 3 degrees."""
    found = stratified({"small": np.array([-1.0, -2, -3]), "large": np.array([-4.0, -6])}, WEIGHTS)
    assert found is not None
    assert found.mean == pytest.approx(0.75 * -2 + 0.25 * -5)
    assert (found.freedom, found.recipes) == (3, 5)
    assert found.error == pytest.approx(math.sqrt(4 / 3 * (0.75**2 / 3 + 0.25**2 / 2)))
    assert found.p == pytest.approx(stats.t.cdf(-2.75 / found.error, 3))
    assert found.gain == pytest.approx(1 - math.exp(-2.75))
    assert found.low == pytest.approx(1 - math.exp(-2.75 + 2.353363 * found.error), abs=1e-6)
    ends = stats.t.interval(0.95, 3, -2.75, found.error)
    assert found.interval == pytest.approx((1 - math.exp(ends[1]), 1 - math.exp(ends[0])))


@given(shift=st.floats(-2, 2), move=st.floats(-2, 2))
def test_a_difference_between_strata_is_no_spread(shift: float, move: float) -> None:
    """Moving a whole stratum moves the mean by its weight, and leaves the standard error."""
    small, large = np.array([0.1, 0.4, 0.2]), np.array([0.3, 0.7])
    one, other = (stratified({"small": small + move, "large": large + by}, WEIGHTS) for by in (0.0, shift))
    assert one is not None
    assert other is not None
    assert other.error == pytest.approx(one.error)
    assert other.mean - one.mean == pytest.approx(0.25 * shift, abs=1e-12)


def test_a_lacking_stratum_is_lacking() -> None:
    """It is not replaced by the other; and one recipe of each stratum has no spread."""
    assert stratified({"small": np.array([1.0, 2])}, WEIGHTS) is None
    assert stratified({"small": np.array([1.0]), "large": np.array([2.0])}, WEIGHTS) is None


def test_one_half_of_a_t_test_is_taken() -> None:
    """One stratum alone is the one-sided one-sample t test; without spread the sign decides."""
    values = np.array([-0.3, 0.1, -0.2, -0.4])
    found = stratified({"small": values}, {"small": 1.0})
    assert found is not None
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0, alternative="less").pvalue)
    exact = [stratified({"small": np.array([x, x])}, {"small": 1.0}) for x in (-0.5, 0.0, 0.5)]
    assert [one and one.p for one in exact] == [0.0, 1.0, 1.0]


def test_holm_is_over_entries() -> None:
    """Of two entries the smaller p is doubled and the larger one is as it is; a worse candidate is never apart."""
    close = {"s0": 1.10, "s1": 1.2, "s2": 1.3, "l0": 1.2, "l1": 1.25}
    worse = {name: 1 / ratio for name, ratio in close.items()}
    by_name = {one.what: one for one in against_others(errors({"a": close, "b": worse}), "mine", STRATUM_OF, WEIGHTS)}
    assert by_name["a"].estimate is not None
    assert by_name["a"].p_holm == pytest.approx(2 * by_name["a"].estimate.p)
    assert by_name["a"].apart
    assert by_name["b"].estimate is not None
    assert by_name["b"].p_holm == pytest.approx(by_name["b"].estimate.p)
    assert by_name["b"].p_holm > 0.95
    assert by_name["b"].estimate.recipes_needed is None


def test_recipes_of_another_set_do_not_count() -> None:
    """Sets are apart: a recipe outside the given ones changes nothing."""
    close = {"s0": 1.10, "s1": 1.2, "s2": 1.3, "l0": 1.2, "l1": 1.25}
    (alone,) = against_others(errors({"a": close}), "mine", STRATUM_OF, WEIGHTS)
    (beside,) = against_others(errors({"a": close | {"x0": 20.0}}), "mine", STRATUM_OF, WEIGHTS)
    assert alone == beside


def test_gains_have_four_cells_and_one_family() -> None:
    """Stratum by state, each with its own spread; one without two recipes is lacking and worse than any other."""
    found = cell_gains(
        errors({"avg": {"s0": 1.1, "s1": 1.2, "s2": 1.3, "l0": 1.2, "l1": 1.3}}, ("transient", "stable")),
        "mine", "avg", STRATUM_OF,
    )  # fmt: skip
    assert [one.what for one in found] == [
        "small batches, transient", "small batches, stable", "large batches, transient", "large batches, stable",
    ]  # fmt: skip
    small = found[0].estimate
    assert small is not None
    assert small.mean == pytest.approx(-np.log([1.1, 1.2, 1.3]).mean())
    assert found[0].p_holm == pytest.approx(4 * small.p)
    assert worst_lows(found) == sorted(one.estimate.low for one in found if one.estimate)
    lacking = cell_gains(errors({"avg": {"s0": 1.1, "s1": 1.2, "s2": 1.3}}), "mine", "avg", STRATUM_OF)
    assert [one.estimate is None for one in lacking] == [True, False, True, True]
    assert worst_lows(lacking)[:3] == [-math.inf] * 3
    assert worst_lows(lacking) < worst_lows(found)


def test_the_number_of_recipes_that_a_spread_asks_for() -> None:
    """Mean -0.1 and standard error 0.1 with 4 recipes: (1.645 + 0.842)^2 times as many, 25."""
    found = stratified({"small": np.array([-0.1 - d for d in (-0.3, -0.1, 0.1, 0.3)])}, {"small": 1.0})
    assert found is not None
    assert found.recipes_needed == math.ceil(4 * (2.4865 * found.error / 0.1) ** 2)


def test_the_headline_is_that_of_the_worse_set() -> None:
    """With the plan's words: a set whose gains are smaller, or one that lacks a cell, decides it."""
    quotas = {"small": {"none": 3}, "large": {"none": 2}}
    sets = [
        {"name": name, "distribution": "x.toml", "recipes": 5, "weights": WEIGHTS, "sha256": "0" * 64,
         "prefix": f"{name}-", "quotas": quotas}
        for name in "ab"
    ]  # fmt: skip
    draws = DrawPlan.model_validate(
        {
            "candidate": "mine", "tuned_average": "avg", "tests": "one-sided t tests of means", "sets": sets,
            "headline": "{candidate} against {tuned_average}, set {set}: {gains}", "train_levels": {}, "horizon": 1,
            "release_after": "2027-03-01T12:00:00Z", "packages": ["a", "b", "c"],
        }
    )  # fmt: skip
    ratios = {"s00": 1.1, "s01": 1.2, "s02": 1.3, "l00": 1.2, "l01": 1.3}
    good, less = ({f"{name}-{k}": 1 + by * (v - 1) for k, v in ratios.items()} for name, by in (("a", 2), ("b", 1)))
    both = ("transient", "stable")
    said = headline(draws, errors({"avg": good | less}, both))
    assert said.startswith("mine against avg, set b: small batches, transient: 16.5 % (at least 3.8 %); small")
    del good["a-l00"]
    said = headline(draws, errors({"avg": good | less}, both))
    assert said.startswith("mine against avg, set a: ")
    assert said.endswith("large batches, transient: lacking; large batches, stable: lacking")
