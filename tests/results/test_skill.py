"""Skill and its intervals: formulas against a second implementation, intervals against simulation.

Axis letters: G recipes, R runs per recipe, W windows (tasks) per run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from moeload_bench.errors import NotFoundError, ResultError
from moeload_bench.results.averages import skill_columns
from moeload_bench.results.ranks import possible_ranks, separated_pairs
from moeload_bench.results.significance import p_values_against
from moeload_bench.results.skill import (
    CLIP,
    MIN_RECIPES,
    holm,
    log_ratio,
    new_recipe_errors,
    p_values,
    run_means,
    votes,
    wide,
)
from moeload_bench.suites.suite import load_suite, near_twins_of
from tests.support.tables import made_results

BY = ("state",)


def ratios_frame(ratio_FT: np.ndarray, G: int, R: int, W: int) -> pd.DataFrame:
    """Return log ratios as a frame: a column per forecaster, G recipes of R runs of W tasks."""
    index = pd.MultiIndex.from_tuples(
        [("stable", f"recipe{g}", f"recipe{g}/test/seed{r}", w) for g in range(G) for r in range(R) for w in range(W)],
        names=["state", "recipe", "trace", "origin"],
    )
    return pd.DataFrame(np.atleast_2d(ratio_FT).T, index=index)


def simulate(rng, G, R, W, recipe_G=None, run_sd=0.1, window_sd=0.4, rho=0.8):
    """Return log ratios [G * R * W]: an effect per recipe, one per run, and windows correlated along the run."""
    recipe = rng.normal(0.0, 0.2, G) if recipe_G is None else recipe_G
    window = rng.standard_normal((G, R, W)) * np.sqrt(1 - rho**2)
    window[..., 0] = rng.standard_normal((G, R))
    for w in range(1, W):
        window[..., w] += rho * window[..., w - 1]
    run = rng.normal(0.0, run_sd, (G, R))
    return (recipe[:, None, None] + run[..., None] + window_sd * window).ravel()


def columns(ratios: pd.DataFrame, twins: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """Return every column of skill, by forecaster."""
    return {name: frame.to_numpy()[0] for name, frame in skill_columns(ratios, BY, twins or {}).items()}


def test_only_the_suite_itself_has_groups_of_near_twins():
    """A suite of another content or of other origins (`--sliding`) has none."""
    assert near_twins_of("v3", load_suite("v3").sha256())
    assert near_twins_of("v3", "0" * 64) == near_twins_of("v3:every-100", "0" * 64) == {}


def test_near_twins_have_one_vote_together():
    """Two recipes that are one training at first weigh as one: in the mean, in both intervals and in the number."""
    ratio = simulate(np.random.default_rng(5), 6, 3, 4)
    mean_GR = ratio.reshape(6, 3, 4).mean(axis=2)
    twins = {"recipe0": "recipe0", "recipe5": "recipe0"}
    frame = ratios_frame(ratio, 6, 3, 4)
    found = {name: values[0] for name, values in columns(frame, twins).items()}
    group_G = np.array([mean_GR[[0, 5]].mean(), *mean_GR[1:5].mean(axis=1)])
    assert found["skill"] == pytest.approx(1 - np.exp(group_G.mean()))
    half = stats.t.ppf(0.975, 4) * stats.sem(group_G)
    assert found["recipes"] == 5
    assert (found["low"], found["high"]) == pytest.approx(tuple(1 - np.exp(group_G.mean() + s * half) for s in (1, -1)))
    p = p_values(votes(run_means(frame, BY), BY, twins), BY).iloc[0, 0]
    assert p == pytest.approx(stats.ttest_1samp(group_G, 0.0).pvalue)
    weight_G = np.array([0.5, 1, 1, 1, 1, 0.5]) / 5
    error = np.sqrt(mean_GR.var(axis=1, ddof=1).mean() * (weight_G**2 / 3).sum())
    assert np.log(1 - found["seeds_low"]) - np.log(1 - found["skill"]) == pytest.approx(stats.t.ppf(0.975, 12) * error)
    four = columns(frame, {**twins, "recipe1": "recipe0"})
    assert np.isnan([four["low"][0], four["seeds_low"][0]]).all()


def test_a_copy_of_a_recipe_makes_nothing_surer():
    """Recording a recipe a second time under another name narrows no interval once the two are near twins."""
    ratio = simulate(np.random.default_rng(7), 6, 2, 5)
    alone = columns(ratios_frame(ratio, 6, 2, 5))
    copied = ratios_frame(np.concatenate([ratio, ratio[:10]]), 7, 2, 5)
    grouped = columns(copied, {"recipe0": "a", "recipe6": "a"})
    assert (grouped["low"][0], grouped["high"][0]) == pytest.approx((alone["low"][0], alone["high"][0]))
    assert columns(copied)["recipes"][0] == 7


@pytest.mark.parametrize("recipes", [5, 8])
@pytest.mark.parametrize(
    ("low", "high", "fixed_recipes"),
    [("seeds_low", "seeds_high", True), ("low", "high", False)],
    ids=["seeds", "recipe"],
)
def test_intervals_cover_what_they_claim(low, high, fixed_recipes, recipes):
    """95 % intervals hold the truth in 92-97 % of simulated benchmarks: correlated windows, two runs per recipe."""
    rng = np.random.default_rng(0)
    recipe_G = rng.normal(0.0, 0.2, recipes) if fixed_recipes else None
    target = 1.0 - np.exp(recipe_G.mean() if fixed_recipes else 0.0)
    ratio_FT = np.array([simulate(rng, recipes, 2, 20, recipe_G) for _ in range(1500)])
    found = columns(ratios_frame(ratio_FT, recipes, 2, 20))
    assert 0.92 <= ((found[low] <= target) & (target <= found[high])).mean() <= 0.97


def test_resampling_windows_under_covers():
    """A bootstrap over windows holds the truth in fewer than 80 % of the same benchmarks: why it is not offered."""
    rng = np.random.default_rng(1)
    hits, sims = 0, 300
    for _ in range(sims):
        ratio = simulate(rng, 8, 2, 20)
        means = ratio[rng.integers(0, ratio.size, (400, ratio.size))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        hits += low <= 0.0 <= high
    assert hits / sims < 0.8


def test_the_two_claims_differ():
    """Recipes that differ much make "a new recipe" wide and leave "these recipes, new seeds" as it is."""
    ratio = simulate(np.random.default_rng(2), 6, 2, 20, recipe_G=np.linspace(-1, 1, 6))
    found = {name: values[0] for name, values in columns(ratios_frame(ratio, 6, 2, 20)).items()}
    assert found["high"] - found["low"] > 3 * (found["seeds_high"] - found["seeds_low"])
    assert found["seeds_low"] < found["skill"] < found["seeds_high"]


def test_fewer_than_five_recipes_give_no_interval():
    """With four recipes there is no interval, and no p value: tables print n/a. Skill stays."""
    assert MIN_RECIPES == 5
    frame = ratios_frame(simulate(np.random.default_rng(4), 4, 2, 20), 4, 2, 20)
    found = columns(frame)
    assert np.isnan([found[end][0] for end in ("low", "high", "seeds_low", "seeds_high")]).all()
    assert np.isnan(p_values(votes(run_means(frame, BY), BY, {}), BY).iloc[0, 0])
    assert np.isfinite(found["skill"][0])


def test_one_run_per_recipe_says_nothing_about_seeds():
    """Without a second run in any recipe the claim about new seeds has no interval; the other one has."""
    found = columns(ratios_frame(simulate(np.random.default_rng(5), 6, 1, 20), 6, 1, 20))
    assert np.isnan(found["seeds_low"][0])
    assert np.isfinite(found["low"][0])


def test_skill_is_one_minus_the_geometric_mean_ratio():
    """Half the reference's error on every task is a skill of 0.5; the reference itself has 0."""
    reference = np.random.default_rng(6).uniform(0.01, 0.1, 40)
    ratio = np.random.default_rng(7).uniform(0.5, 2.0, 40)
    found = columns(
        ratios_frame(log_ratio(np.stack([reference / 2, reference, ratio * reference]), reference), 2, 2, 10)
    )
    assert found["skill"] == pytest.approx([0.5, 0.0, 1 - stats.gmean(ratio)])


def test_ratios_are_clipped_and_zeros_defined():
    """Ratios stay within [1/20, 20]; 0 over 0 is a tie, something over 0 is 20, a missing score is left out."""
    got = np.exp(log_ratio(np.array([1.0, 1e-9, 0.0, 0.3, np.nan, 5.0]), np.array([1e-9, 1.0, 0.0, 0.0, 1.0, 5.0])))
    np.testing.assert_allclose(got, [CLIP, 1 / CLIP, 1.0, CLIP, np.nan, 1.0])
    found = columns(ratios_frame(np.array([[np.log(0.5), np.nan], [np.nan, np.nan]]), 1, 1, 2))
    assert found["skill"] == pytest.approx([0.5, np.nan], nan_ok=True)


def test_rounding_decides_nothing():
    """Errors below 1e-12 are 0: two exact forecasts tie whatever their last bits."""
    rounding, exact = np.full(4, 3e-16), np.zeros(4)
    for a, b in ((rounding, exact), (exact, rounding), (rounding, 2 * rounding)):
        assert (log_ratio(a, b) == 0.0).all()


def test_runs_with_fewer_tasks_weigh_alike():
    """A run counts once whatever its number of tasks, and so does a recipe."""
    index = pd.MultiIndex.from_tuples([("stable", "a", run, i) for i, run in enumerate(("r0", "r0", "r0", "r1"))],
                                      names=["state", "recipe", "trace", "origin"])  # fmt: skip
    frame = pd.DataFrame(np.log([0.5, 0.5, 0.5, 1.0]), index=index)
    assert columns(frame)["skill"][0] == pytest.approx(1 - np.sqrt(0.5))


def test_forecasters_without_a_value_in_a_run_rest_on_the_others():
    """Each column has its own runs: one that lacks a recipe has an interval over five."""
    ratio = simulate(np.random.default_rng(8), 6, 2, 5)
    lacking = ratio.copy()
    lacking[:10] = np.nan
    found = columns(ratios_frame(np.stack([ratio, lacking]), 6, 2, 5))
    alone = columns(ratios_frame(ratio[10:], 5, 2, 5))
    assert found["recipes"].tolist() == [6, 5]
    for name in ("skill", "low", "high", "seeds_low", "seeds_high"):
        assert found[name][1] == pytest.approx(alone[name][0])


# statsmodels collects garbage in each call: 0.1 s and more
@pytest.mark.parametrize("count", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 12))])
def test_holm_matches_statsmodels(count):
    """Holm's correction, in the order given, ties and ones included (statsmodels); what is no test stays so."""
    rng = np.random.default_rng(count)
    for p in (rng.random(count), rng.random(count) ** 6, np.round(rng.random(count), 1), np.ones(count)):
        expected = multipletests(p, method="holm")[1]
        np.testing.assert_allclose(holm(p.tolist()), expected, atol=1e-12)
        np.testing.assert_allclose(holm([np.nan, *p.tolist()])[1:], expected, atol=1e-12)


def test_identical_forecasters_have_p_one():
    """A difference of exactly 0 has p = 1, a constant one p = 0: no division by a zero variance."""
    frame = ratios_frame(np.stack([np.zeros(60), np.full(60, 0.7)]), 6, 2, 5)
    assert p_values(votes(run_means(frame, BY), BY, {}), BY).iloc[0].tolist() == pytest.approx([1.0, 0.0])
    assert new_recipe_errors(votes(run_means(frame, BY), BY, {}), BY)[0].iloc[0].tolist() == pytest.approx([0, 0])


def test_tasks_that_differ_are_refused():
    """A table in which forecasters were not asked the same is named."""
    table = made_results({"sw_avg": [[1, 1]] * 3, "other": [[1, 1]] * 3}).table
    changed = table.copy()
    changed.loc[changed["forecaster"] == "other", "origin"] += 1
    with pytest.raises(ResultError, match="other and sw_avg do not have the same tasks"):
        wide(changed, "window_tv")
    assert wide(table, "window_tv").shape == (6, 2)


# ---------------------------------------------------------------- ranks


TRACES = [f"r{i}/test/seed0" for i in range(12)]


def errors_of(level: dict[str, float], seed: int, recipes: int = 12) -> dict[str, list[list[float]]]:
    """Return errors around a level for each forecaster, one task per recipe."""
    rng = np.random.default_rng(seed)
    return {name: [[mean * np.exp(x)] for x in rng.normal(0, 0.1, recipes)] for name, mean in level.items()}


def test_possible_ranks_are_what_the_separated_pairs_leave():
    """A chain leaves one rank each; without any pair each can have every rank; what cannot be tested has none."""
    names = ["a", "b", "c"]
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    assert separated_pairs(pairs, [1.0] * 3, [1e-6] * 3) == set(pairs)
    assert separated_pairs(pairs, [-1.0] * 3, [1e-6] * 3) == {(b, a) for a, b in pairs}
    assert separated_pairs(pairs, [1.0] * 3, [np.nan, 0.1, 0.1]) is None
    assert possible_ranks(names, pairs) == {"a": (1, 1), "b": (2, 2), "c": (3, 3)}
    assert possible_ranks(names, []) == dict.fromkeys(names, (1, 3))
    assert possible_ranks(names, [("a", "c")]) == {"a": (1, 2), "b": (1, 3), "c": (2, 3)}


def test_rank_sets_hold_all_true_ranks_at_once():
    """At 95 % or more, with two forecasters alike and two apart; with few recipes there are none."""
    true = {"a": (1, 1), "b": (2, 3), "c": (2, 3), "d": (4, 4)}
    held, sims = 0, 60
    for seed in range(sims):
        errors = errors_of({"a": 0.4, "b": 0.7, "c": 0.7, "d": 1.0}, seed)
        found = made_results(errors, TRACES, horizons=(1,)).ranks().set_index("forecaster")
        held += all(
            found.loc[name, "rank_low"] <= low and high <= found.loc[name, "rank_high"]
            for name, (low, high) in true.items()
        )
    assert held / sims >= 0.93
    few = made_results(errors_of({"a": 0.4, "b": 0.7}, 0, recipes=4), TRACES[:4], horizons=(1,))
    assert few.ranks().empty


def test_tests_are_corrected_as_one_family():
    """Each other forecaster is compared once; the corrected p is Holm's over those, and never below the plain one."""
    results = made_results(errors_of({"good": 0.6, "sw_avg": 1.0, "bad": 2.7}, 1), TRACES, horizons=(1,))
    found = p_values_against(results, "sw_avg").set_index("forecaster")
    assert list(found.index) == ["good", "bad"]
    assert (found["p_holm"] >= found["p"]).all()
    assert found.loc["good", "skill"] > 0.3
    assert found.loc["bad", "skill"] < -1.0
    with pytest.raises(NotFoundError, match="unknown forecaster 'other'; there is: "):
        p_values_against(results, "other")


def test_one_whose_errors_scatter_is_not_separated():
    """It is worse on average than one that is told from the leader, and no test tells it from anybody."""
    wild = [[0.1 * factor] for factor in (0.5, 15, 0.6, 12, 0.4, 19)]
    results = made_results(
        {"leader": [[0.1]] * 6, "worse": [[0.12 + 0.001 * i] for i in range(6)], "wild": wild},
        TRACES[:6],
        horizons=(1,),
    )
    found = p_values_against(results, "leader").set_index("forecaster")["p_holm"]
    assert found["worse"] < 0.05 < found["wild"]
