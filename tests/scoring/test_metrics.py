"""Metrics against independent implementations and on the edges of the simplex."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.metrics import mean_absolute_percentage_error, mean_pinball_loss

from moeload_bench.errors import SuiteError
from moeload_bench.scoring import metrics
from tests.scoring import oracle

seeds = st.integers(0, 2**31)


def simplex(seed, *shape, alpha=1.0):
    return np.random.default_rng(seed).dirichlet(np.full(shape[-1], alpha), shape[:-1])


@settings(max_examples=30)
@given(seed=seeds, H=st.integers(1, 20), E=st.integers(1, 9))
def test_window_tv_and_tv_are_half_cityblock(seed, H, E):
    """window_tv is half the city-block distance of the means; tv the mean of half the distances (scipy)."""
    forecast, share = simplex(seed, H, 2, E), simplex(seed + 1, H, 2, E)
    for layer in range(2):
        mean = cdist(forecast[:, layer].mean(0)[None], share[:, layer].mean(0)[None], "cityblock")[0, 0] / 2
        steps = np.diag(cdist(forecast[:, layer], share[:, layer], "cityblock")) / 2
        assert oracle.window_tv(forecast, share)[layer] == pytest.approx(mean, abs=1e-12)
        assert oracle.tv(forecast, share)[layer] == pytest.approx(steps.mean(), abs=1e-12)


@settings(max_examples=30)
@given(seed=seeds, H=st.integers(1, 20), E=st.integers(1, 9))
def test_relative_errors_match_sklearn(seed, H, E):
    """error_rate is the mean absolute percentage error over cells, window_error_rate that of the means (sklearn)."""
    forecast, share = simplex(seed, H, 2, E), simplex(seed + 1, H, 2, E) + 1e-9
    rate, covered = oracle.error_rate(forecast, share)
    for layer in range(2):
        expected = mean_absolute_percentage_error(share[:, layer].ravel(), forecast[:, layer].ravel())
        assert rate[layer] == pytest.approx(expected, rel=1e-9)
        expected = mean_absolute_percentage_error(share[:, layer].mean(0), forecast[:, layer].mean(0))
        assert oracle.window_error_rate(forecast, share)[layer] == pytest.approx(expected, rel=1e-9)
    assert (covered == 1.0).all()


@settings(max_examples=40)
@given(seed=seeds, H=st.integers(1, 12), E=st.integers(1, 8))
def test_bounds(seed, H, E):
    """0 <= window_tv <= tv <= 1, error_rate_uniform = 2 tv, and a perfect forecast scores 0."""
    forecast, share = simplex(seed, H, 3, E, alpha=0.3), simplex(seed + 1, H, 3, E, alpha=0.3)
    window, step = oracle.window_tv(forecast, share), oracle.tv(forecast, share)
    assert (window >= 0).all()
    assert (window <= step + 1e-12).all()
    assert (step <= 1 + 1e-12).all()
    np.testing.assert_allclose(oracle.error_rate_uniform(forecast, share), 2 * step)
    assert oracle.window_tv(share, share).max() == 0
    assert oracle.tv(share, share).max() == 0
    assert oracle.error_rate(share, share)[0].max() == 0


def test_dead_experts_count_in_full():
    """Tokens planned for a dead expert are wrong; the relative error leaves it out and says how much it covers."""
    share = np.array([[[0.5, 0.5, 0.0, 0.0]]])
    forecast = np.array([[[0.25, 0.25, 0.25, 0.25]]])
    assert oracle.window_tv(forecast, share)[0] == 0.5
    rate, covered = oracle.error_rate(forecast, share)
    assert (rate[0], covered[0]) == (0.5, 0.5)


def test_single_and_two_expert_layers():
    """With one expert every forecast is right; with two, window_tv is the error of either share."""
    one = np.ones((5, 1, 1))
    assert oracle.window_tv(one, one)[0] == 0
    assert metrics.hot_recall(one[0], one[0], 1)[0] == 1
    assert np.isnan(metrics.rank_correlation(one[0], one[0])[0])
    assert oracle.window_tv(np.array([[[0.7, 0.3]]]), np.array([[[0.4, 0.6]]]))[0] == pytest.approx(0.3)


def test_steps_without_load_are_left_out():
    """A NaN step changes no mean; a layer without any load is NaN in every metric, and no warning is raised."""
    forecast, share = simplex(3, 10, 2, 4), simplex(4, 10, 2, 4)
    holed = share.copy()
    holed[3, 0] = np.nan
    mask = np.arange(10) != 3
    for metric in (oracle.window_tv, oracle.tv, oracle.window_error_rate, oracle.error_rate_uniform):
        assert metric(forecast, holed)[0] == pytest.approx(metric(forecast[mask], share[mask])[0])
        assert metric(forecast, holed)[1] == pytest.approx(metric(forecast, share)[1])
    dead = np.full((10, 1, 4), np.nan)
    for metric in (oracle.window_tv, oracle.tv, oracle.window_error_rate, oracle.error_rate_uniform):
        assert np.isnan(metric(forecast[:, :1], dead)).all()
    assert np.isnan(oracle.error_rate(forecast[:, :1], dead)).all()
    mean = dead[0]
    assert np.isnan(metrics.hot_recall(forecast[0, :1], mean, 2)).all()
    assert np.isnan(metrics.rank_correlation(forecast[0, :1], mean)).all()
    assert np.isnan(metrics.revival_recall(forecast[0, :1], mean, mean)).all()
    assert np.isnan(metrics.coverage(np.zeros((2, 1, 4)), mean, (0.1, 0.9))).all()


@settings(max_examples=40)
@given(seed=seeds, E=st.integers(2, 10))
def test_rank_correlation_is_spearman(seed, E):
    """Spearman's correlation with average ranks for ties (scipy)."""
    rng = np.random.default_rng(seed)
    forecast, share = rng.integers(0, 4, (2, 1, E)).astype(float)
    ours = metrics.rank_correlation(forecast, share)[0]
    if np.ptp(share) == 0:
        assert np.isnan(ours)
    elif np.ptp(forecast) == 0:
        assert ours == 0
    else:
        assert ours == pytest.approx(stats.spearmanr(forecast[0], share[0]).statistic, abs=1e-12)


def test_hot_recall_breaks_ties_in_expectation():
    """Without ties it counts the overlap of the top k; a uniform forecast scores k / E exactly."""
    share = np.array([[0.4, 0.3, 0.2, 0.1]])
    assert metrics.hot_recall(np.array([[0.1, 0.4, 0.3, 0.2]]), share, 2)[0] == 0.5
    assert metrics.hot_recall(share, share, 2)[0] == 1.0
    assert metrics.hot_recall(np.full((1, 4), 0.25), share, 1)[0] == 0.25
    assert metrics.hot_recall(np.full((1, 4), 0.25), share, 3)[0] == 0.75
    assert [metrics.hot_k(E) for E in (1, 4, 8, 64)] == [1, 1, 2, 16]


@pytest.mark.parametrize("k", [0, -1])
def test_hot_recall_of_nobody_is_refused(k):
    """At least one expert must be named."""
    with pytest.raises(SuiteError, match=f"at least 1 expert to name, got k = {k}"):
        metrics.hot_recall(np.full((1, 4), 0.25), np.full((1, 4), 0.25), k)


def test_hot_recall_expectation_is_what_random_tie_breaks_give():
    """The expectation equals the mean over many random tie breaks of forecast and truth."""
    forecast, share = np.array([3.0, 1, 1, 1, 0, 0]), np.array([2.0, 2, 2, 1, 1, 0])
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(20000):
        top = [set(np.lexsort((rng.random(6), -values))[:2]) for values in (forecast, share)]
        hits.append(len(top[0] & top[1]) / 2)
    assert metrics.hot_recall(forecast[None], share[None], 2)[0] == pytest.approx(np.mean(hits), abs=0.01)


def test_revival_recall_counts_tokens_of_experts_that_come_back():
    """Only experts dead before and alive in the window count; what is provided beyond their need earns nothing."""
    last = np.array([[0.0, 0.001, 0.5, 0.499]])
    share = np.array([[0.2, 0.1, 0.4, 0.3]])
    assert metrics.revival_recall(np.array([[0.1, 0.3, 0.3, 0.3]]), share, last)[0] == pytest.approx(0.2 / 0.3)
    assert metrics.revival_recall(last, share, last)[0] == pytest.approx(0.001 / 0.3)
    assert np.isnan(metrics.revival_recall(share, share, share)[0])
    still_dead = np.array([[0.04, 0.0, 0.5, 0.46]])
    assert np.isnan(metrics.revival_recall(share, still_dead, last)[0])


def test_point_forecast_as_quantiles_scores_twice_window_tv():
    """With symmetric levels a forecast that gives the same share at each level scores 2 window_tv."""
    forecast, share = simplex(5, 3, 8), simplex(6, 3, 8)
    wql = metrics.wql(np.stack([forecast] * 3), share, (0.1, 0.5, 0.9))
    np.testing.assert_allclose(wql, 2 * metrics.total_variation(forecast, share))


def test_coverage_counts_experts_inside():
    """The fraction of experts inside the outermost levels; one level makes no interval."""
    share = np.array([[0.2, 0.3, 0.5]])
    quantile = np.array([[[0.1, 0.35, 0.5]], [[0.3, 0.4, 0.5]]])
    assert metrics.coverage(quantile, share, (0.1, 0.9))[0] == pytest.approx(2 / 3)
    assert np.isnan(metrics.coverage(quantile[:1], share, (0.5,))[0])


def test_coverage_of_true_quantiles_is_nominal():
    """Quantiles of the distribution that the shares are drawn from cover as often as they promise."""
    rng = np.random.default_rng(7)
    share = rng.dirichlet(np.full(8, 4.0), 4000)
    marginal = stats.beta(4.0, 28.0)
    quantile = np.stack([np.full(share.shape, marginal.ppf(level)) for level in (0.1, 0.9)])
    assert metrics.coverage(quantile, share, (0.1, 0.9)).mean() == pytest.approx(0.8, abs=0.01)


@settings(max_examples=30)
@given(seed=seeds, E=st.integers(1, 8))
def test_wql_is_twice_the_mean_pinball_loss_over_the_total(seed, E):
    """Against sklearn's pinball loss, summed over a layer's experts; shares sum to 1, so the weights do too."""
    levels = (0.1, 0.5, 0.9)
    share = simplex(seed, 2, E)
    quantile = np.sort(np.random.default_rng(seed).random((3, 2, E)), axis=0)
    ours = metrics.wql(quantile, share, levels)
    for layer in range(2):
        pairs = zip(quantile[:, layer], levels, strict=True)
        parts = [2 * E * mean_pinball_loss(share[layer], one, alpha=level) for one, level in pairs]
        assert ours[layer] == pytest.approx(np.mean(parts))
