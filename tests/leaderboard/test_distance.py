"""The share of the distance that `gated` closes: a ratio of means, an interval over recipes, where it begins."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.pages.distance import ALL, BOUND, NAME, OURS, Values, share_closed, values_of
from leaderboard.pages.results import results_of
from leaderboard.studies.clusters import SUITE
from moeload_bench.results.comparison import errors_of
from moeload_bench.scoring.catalogue import PRIMARY


def test_the_share_is_a_ratio_of_means_with_an_interval_over_recipes() -> None:
    """Half of every recipe's distance is half, without any doubt; a recipe without a distance does not decide."""
    goal_R = np.array([0.01, 0.02, 0.03, 0.04])
    start_R = goal_R + np.array([0.1, 0.2, 0.3, 1e-9])
    half_R = (start_R + goal_R) / 2
    assert share_closed(start_R, half_R, goal_R) == pytest.approx((0.5, 0.5, 0.5))
    assert share_closed(start_R, start_R, goal_R) == pytest.approx((0.0, 0.0, 0.0))
    uneven_R = start_R - (start_R - goal_R) * [0.2, 0.4, 0.6, 0.8]
    share, low, high = share_closed(start_R, uneven_R, goal_R)
    assert share == pytest.approx((0.02 + 0.08 + 0.18) / 0.6)
    assert low < share < high


def test_the_distance_begins_at_the_best_classical_entry() -> None:
    """The one with the least mean over recipes, whatever single recipes say."""
    classical = {"one": np.array([1.0, 5.0]), "other": np.array([2.0, 2.0])}
    found = Values(classical, np.array([1.0, 1.0]), {BOUND: np.array([0.0, 0.0])})
    assert found.best_classical == "other"
    assert found.closed[0] == pytest.approx(0.5)


def test_committed_results_give_every_horizon_and_all() -> None:
    """What learns, what was built here and 1/E are no classical entries; a recipe's runs have one vote together."""
    results = results_of(SUITE)
    found = values_of(results, "stable")
    assert list(found) == [*(f"{h:,}" for h in results[0].suite.horizons), ALL]
    assert {"sw_avg", "arima", "ema"} <= set(found[ALL].classical)
    assert not {*OURS, "uniform", "lstm", "sw_avg_conformal"} & set(found[ALL].classical)
    errors = errors_of(results, PRIMARY).select(state="stable", horizon=100)
    run_T, value_T = np.array(errors.tasks.run_T), errors.by_forecaster[NAME]
    recipes: dict[str, list[float]] = {}
    for run in dict.fromkeys(errors.tasks.run_T):
        recipes.setdefault(run.split("/")[0], []).append(float(value_T[run_T == run].mean()))
    assert found["100"].gated_R.tolist() == pytest.approx([np.mean(runs) for runs in recipes.values()])
