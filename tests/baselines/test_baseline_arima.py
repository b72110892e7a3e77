"""`arima`: the reference engine against statsmodels' own slow path, and the documented fall-backs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from moeload_bench.baselines.arima import fit_due
from numpy.typing import NDArray

from moeload_bench.traces.trace import shares
from tests.baselines.test_rules import HORIZONS, ask, feed, make, window_mean
from tests.conftest import synthetic_load_SLE


@pytest.mark.parametrize("order", [(1, 1, 1), (2, 0, 1), (2, 1, 2)])
def test_statsmodels_engine_equals_statsmodels(order: tuple[int, int, int]) -> None:
    """Fit, closed-form forecast and block means equal ARIMA(...).fit().forecast(), clipped and divided by the sum."""
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    load = synthetic_load_SLE(200, layers=1, experts=3)
    forecaster = make(f"arima@order={list(order)},refit_every=200,engine=statsmodels", load)
    feed(forecaster, load, 0, 200)
    series = shares(load)[:, 0] * 3
    mean = series.mean(axis=0) if order[1] == 0 else np.zeros(3)
    path_HE = np.empty((HORIZONS[-1], 3))
    for e in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = SARIMAX(series[:, e] - mean[e], order=order, concentrate_scale=True).fit(maxiter=50, disp=0)
            path_HE[:, e] = result.forecast(HORIZONS[-1]) + mean[e]
    forecast = ask(forecaster, load, 200)
    expected = np.maximum(path_HE, 0)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(forecast.share_BLE[:32, 0], expected[:32], rtol=1e-6)
    for horizon in HORIZONS:
        np.testing.assert_allclose(window_mean(forecast, horizon)[0], expected[:horizon].mean(axis=0), rtol=1e-5)


def test_fit_is_due_at_fixed_row_numbers() -> None:
    """Multiples of refit_every; before the first, its halvings as long as enough rows are there."""
    due = {rows: fit_due(rows, 1000, 44) for rows in (0, 43, 61, 62, 124, 125, 999, 1000, 1999, 2000, 2500)}
    assert due == {
        0: None, 43: None, 61: None, 62: 62, 124: 62, 125: 125, 999: 500, 1000: 1000, 1999: 1000, 2000: 2000,
        2500: 2000,
    }  # fmt: skip


def test_parameters_are_applied_to_newer_history_between_fits() -> None:
    """Between two fits the forecast follows the data with the parameters of the last fit."""
    load = synthetic_load_SLE(260, layers=1)
    changed = load.copy()
    changed[210:] = changed[210:, :, ::-1]
    forecasters = [make("arima@order=[1,1,1],history=200,refit_every=200,engine=statsmodels", load) for _ in range(2)]
    for forecaster, rows in zip(forecasters, (load, changed), strict=True):
        feed(forecaster, rows, 0, 205)
        ask(forecaster, rows, 205)
        feed(forecaster, rows, 205, 260)
    first, second = (ask(f, rows, 260).share_BLE for f, rows in zip(forecasters, (load, changed), strict=True))
    assert np.abs(first - second).max() > 0.05
    assert forecasters[0].counts["fits"] == forecasters[1].counts["fits"] == 4


def test_constant_dead_and_short_series_fall_back_and_are_counted() -> None:
    """They get the mean of the last 100 steps; the counts say how often."""
    load = np.empty((150, 1, 4), dtype=np.int64)
    load[:, 0] = [100, 0, 0, 0]
    load[:, 0, 2] = np.random.default_rng(0).integers(50, 60, 150)
    load[:, 0, 3] = 100 - load[:, 0, 2]  # experts 0 and 1 are constant, 1 is dead
    forecaster = make("arima@order=[1,1,1],refit_every=100,engine=statsmodels", load)
    feed(forecaster, load, 0, 10)
    short = ask(forecaster, load, 10)
    np.testing.assert_allclose(short.share_BLE[0], shares(load)[:10].mean(axis=0), rtol=1e-12)
    assert forecaster.counts == {"fits": 0, "not_converged": 0, "forecasts": 4, "fallback": 4}
    feed(forecaster, load, 10, 150)
    full = ask(forecaster, load, 150)
    assert forecaster.counts["fits"] == 2
    assert forecaster.counts["fallback"] == 6
    assert (full.share_BLE[:, 0, 1] == 0).all()
    np.testing.assert_allclose(full.share_BLE[:, 0, 0], 0.5, atol=0.01)


def test_fit_that_does_not_converge_is_used_and_counted() -> None:
    """With one iteration allowed nothing converges; the forecast is still the model's."""
    load: NDArray[np.int64] = synthetic_load_SLE(200, layers=1)
    forecaster = make("arima@order=[2,1,2],maxiter=1,refit_every=200,engine=statsmodels", load)
    feed(forecaster, load, 0, 200)
    ask(forecaster, load, 200)
    assert forecaster.counts == {"fits": 4, "not_converged": 4, "forecasts": 4, "fallback": 0}
