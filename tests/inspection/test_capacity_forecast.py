"""Quantiles of the need of the next window."""

from __future__ import annotations

import numpy as np
import pytest

from moeload_bench.inspection import capacity_forecast as forecast
from moeload_bench.inspection.capacity_forecast import mixture, need_quantiles, prior_for, quantile, seen


def test_windows_are_disjoint_and_end_with_the_last_row() -> None:
    """Of seven rows in windows of two, three windows end at the last; levels are of the last half of the one before."""
    level, own_N = seen(np.array([9.0, 1, 2, 3, 6, 4, 5]), 2)
    assert level == 5
    assert own_N.tolist() == [6 / 2, 5 / 6]


def test_a_run_shorter_than_a_window_has_a_level_and_no_ratio() -> None:
    """The level is that of the rows that there are."""
    level, own_N = seen(np.array([2.0, 3.0]), 100)
    assert (level, len(own_N)) == (3.0, 0)


def test_a_quantile_is_exceeded_by_the_part_that_is_its_risk() -> None:
    """Of 1 to 100 with equal weights, ten are above the quantile at 10 %; a weight counts as so many equal ratios."""
    ratio = np.arange(1.0, 101)
    assert quantile(ratio, np.ones(100), (0.1, 0.05)).tolist() == [90, 95]
    assert quantile(np.array([1.0, 2.0]), np.array([9.0, 1.0]), (0.1,)).tolist() == [1.0]


def test_small_risks_go_on_as_an_exponential_tail() -> None:
    """From the quantiles at 10 and 1 %: ten times less risk multiplies by their ratio once more."""
    ratio = np.linspace(1, 3, 1001)
    tenth, last, beyond = quantile(ratio, np.ones(1001), (0.1, 0.01, 0.001))
    assert beyond == pytest.approx(last * last / tenth)


def test_own_windows_outweigh_other_runs_with_time() -> None:
    """Five own windows weigh as much as all other runs together."""
    _, weight = mixture(np.ones(5), np.ones(200))
    assert weight[:5].sum() == pytest.approx(weight[5:].sum())


def test_a_forecast_scales_with_the_run() -> None:
    """Twice the need gives twice the forecast; less risk never gives a lower one."""
    need_S = np.random.default_rng(0).uniform(1, 2, 3000)
    risks, prior = (0.1, 0.05, 0.01, 0.001), prior_for(100, 500)
    once = need_quantiles(need_S, 100, risks, prior)
    assert need_quantiles(2 * need_S, 100, risks, prior) == pytest.approx(2 * once)
    assert (np.diff(once) >= 0).all()


def test_a_steady_run_is_covered() -> None:
    """Of a run without change at most the risk, and some sampling, exceeds the forecast."""
    need_S = 1 + np.random.default_rng(1).gamma(4, 0.05, 40_000)
    starts = range(2000, 40_000, 100)
    prior = prior_for(100, 500)
    over = [need_S[at : at + 100].max() > need_quantiles(need_S[:at], 100, (0.1,), prior)[0] for at in starts]
    assert 0.05 < np.mean(over) < 0.15


def test_the_prior_is_that_of_the_nearest_window_and_of_the_size_of_batch() -> None:
    """250 rows are nearer to 100 than to 1,000 by their ratio, 500 are not; from 2,048 tokens on a batch is large."""
    assert (prior_for(250, 500).rows, prior_for(500, 500).rows) == (100, 1000)
    assert [prior_for(100, tokens).size for tokens in (512, 2047, 2048, 1e6)] == ["small", "small", "large", "large"]
    assert all(len(one.dropped_F) == len(forecast.TIMES) for one in forecast.priors())
