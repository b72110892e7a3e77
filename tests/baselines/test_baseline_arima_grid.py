"""The engine `grid` of `arima` against its slow twins: statsmodels' exact likelihood, fits and forecasts."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moeload_bench.baselines import _arima_exact as exact
from numpy.typing import NDArray

from tests.baselines.test_rules import ask, feed, make
from tests.conftest import need, synthetic_load_SLE

need("numba", "pip install -e '.[fast]'")

from moeload_bench.baselines import _arima_batch as batch  # noqa: E402  needs numba, checked above
from moeload_bench.baselines import _arima_stream as stream  # noqa: E402  needs numba, checked above
from moeload_bench.baselines import _arma as arma  # noqa: E402  needs numba, checked above

EDGES = (1, 10, 100, 1000)


def drifting_series_SN(steps: int, series: int = 6, seed: int = 0) -> NDArray[np.float64]:
    """Share-like series around 1: a slow walk under white noise, of different proportions."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, np.geomspace(0.001, 0.05, series), (steps, series)), axis=0)
    return 1.0 + walk + rng.normal(0, 0.05, (steps, series))


def exact_fit(series_S: NDArray[np.float64], order: exact.Order, start_P: Any, maxiter: int = 500) -> Any:
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    model = SARIMAX(np.ascontiguousarray(series_S), order=order, concentrate_scale=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(start_P, maxiter=maxiter, disp=0)


@pytest.mark.slow
@pytest.mark.parametrize("ar", [0, 1])
@pytest.mark.parametrize("steps", [120, 700])
def test_stream_finds_the_exact_maximum(ar: int, steps: int) -> None:
    """While all rows are in the window: likelihood within 0.01 of the optimum near it, forecasts within 0.1 %."""
    series = drifting_series_SN(steps)
    fast = stream.Stream(series.shape[1], 1000)
    fast.push(series)
    fit_N4, mean_BN = fast.fit(bool(ar)), fast.forecast(bool(ar), np.array(EDGES))
    for n in range(series.shape[1]):
        start = [*([fit_N4[n, 1]] if ar else []), max(fit_N4[n, 0], -0.999)]
        result = exact_fit(series[:, n], (ar, 1, 1), start)
        assert exact.log_likelihood(series[:, n], np.array(start), (ar, 1, 1)) > result.llf - 0.01
        path = result.forecast(EDGES[-1])
        means = [path[a:b].mean() for a, b in zip((0, *EDGES[:-1]), EDGES, strict=True)]
        np.testing.assert_allclose(mean_BN[:, n], means, rtol=1e-3)


def test_stream_window_forgets() -> None:
    """Once the window has moved past a change of regime, the fit is the one of the rows after the change."""
    early, late = drifting_series_SN(1500, seed=1) * 5, drifting_series_SN(1500, seed=2)
    both, only = (stream.Stream(early.shape[1], 500) for _ in range(2))
    both.push(early)
    both.push(late)
    only.push(late)
    np.testing.assert_allclose(both.fit(True)[:, :2], only.fit(True)[:, :2], atol=0.05)


def test_stream_gives_nothing_for_constant_and_short_series() -> None:
    """NaN: the forecaster then falls back."""
    series = drifting_series_SN(50)
    series[:, 2] = 0.25
    fast = stream.Stream(series.shape[1], 1000)
    fast.push(series[:10])
    assert np.isnan(fast.forecast(True, np.array(EDGES))).all()
    fast.push(series[10:])
    assert np.isnan(fast.forecast(True, np.array(EDGES))).all(axis=0).tolist() == [n == 2 for n in range(6)]


@settings(max_examples=60)
@given(st.lists(st.floats(-1.5, 1.5), min_size=1, max_size=5))
def test_stability_is_that_of_the_roots(coefficients: list[float]) -> None:
    """The step-down recursion agrees with the roots of the polynomial, and shrinking gives a stable one."""
    c = np.array(coefficients)
    largest = np.abs(np.roots([1.0, *(-c)])).max()
    if abs(largest - 1) > 1e-3:
        assert arma.stable(c, 1.0) == (largest < 1)
        assert arma.stable(-c, -1.0) == (largest < 1)
    arma.shrink(c, 1.0)
    assert arma.stable(c, 1.0)


@pytest.mark.parametrize(("p", "q"), [(1, 1), (5, 5), (0, 2), (3, 0), (2, 4)])
def test_likelihood_equals_statsmodels(p: int, q: int) -> None:
    """The Chandrasekhar recursions give the Kalman filter's likelihood for random stable parameters."""
    rng = np.random.default_rng(p * 10 + q)
    w = rng.normal(size=150)
    x = rng.normal(0, 0.4, p + q)
    arma.shrink(x[:p], 1.0)
    arma.shrink(x[p:], -1.0)
    total = arma.exact(w, x, p, np.empty(150), np.empty(max(p, q + 1)))
    expected = exact.log_likelihood(w, x, (p, 0, q))
    np.testing.assert_allclose(-75 * (np.log(total / 150) + 1 + np.log(2 * np.pi)), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("order", [(2, 0, 1), (5, 1, 5), (1, 2, 1)])
def test_batched_forecast_equals_statsmodels_for_the_same_parameters(order: exact.Order) -> None:
    """Filtering and the long path agree, d = 0, 1 and 2."""
    series = drifting_series_SN(300)
    fits = batch.fit(series, order, 20)
    fast, slow = batch.forecast(series, fits, order, EDGES), exact.forecast(series, fits, order, EDGES)
    np.testing.assert_allclose(fast, slow, rtol=1e-4)


@pytest.mark.slow
def test_batched_fit_is_as_good_as_statsmodels() -> None:
    """(2,1,2) with many iterations: likelihood no worse than statsmodels' less 1 for any series, better on average."""
    series = drifting_series_SN(400)
    fits = batch.fit(series, (2, 1, 2), 50)
    gain = [
        exact.log_likelihood(series[:, n], fits.param_NP[n], (2, 1, 2)) - exact_fit(series[:, n], (2, 1, 2), None).llf
        for n in range(series.shape[1])
    ]
    assert min(gain) > -1
    assert np.mean(gain) > -0.05


@pytest.mark.slow
def test_paper_order_is_as_good_as_statsmodels() -> None:
    """(5,1,5): likelihood no worse than statsmodels' with 500 iterations less 1, on the mean of the series."""
    series = drifting_series_SN(1000, series=3)
    fits = batch.fit(series, (5, 1, 5), 50)
    gain = [
        exact.log_likelihood(series[:, n], fits.param_NP[n], (5, 1, 5)) - exact_fit(series[:, n], (5, 1, 5), None).llf
        for n in range(series.shape[1])
    ]
    assert np.mean(gain) > -1


def test_engines_agree_within_a_forecaster() -> None:
    """On the same loads both engines forecast the same shares, to 0.5 % of a fair share."""
    load = synthetic_load_SLE(400, layers=1, tokens=4096)
    forecasts = []
    for engine in ("grid", "statsmodels"):
        forecaster = make(f"arima@order=[0,1,1],refit_every=400,engine={engine}", load)
        feed(forecaster, load, 0, 400)
        forecasts.append(ask(forecaster, load, 400).share_BLE)
    np.testing.assert_allclose(forecasts[0], forecasts[1], atol=0.005 / 4)


def test_without_numba_the_reference_is_used_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning, one count, and the reference engine's forecast."""
    load = synthetic_load_SLE(200, layers=1)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "numba" else real(name, *rest))
    with pytest.warns(UserWarning, match="numba"):
        without = make("arima@order=[1,1,1],refit_every=200", load)
    reference = make("arima@order=[1,1,1],refit_every=200,engine=statsmodels", load)
    for forecaster in (without, reference):
        feed(forecaster, load, 0, 200)
    np.testing.assert_array_equal(ask(without, load, 200).share_BLE, ask(reference, load, 200).share_BLE)
    assert without.counts == reference.counts | {"numba_missing": 1}
