"""The reference engine of `arima`: exact likelihood of one series at a time, by statsmodels.

Axis letters: S rows, N series, H rows of the horizon, B blocks, P parameters.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._series import FloatArray, block_means

Order = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Fits:
    """One fit per series: ``param_NP`` (NaN where there is none) of the series less ``mean_N``.

    Parameters are the AR coefficients, then the MA coefficients, with the signs that statsmodels gives them.
    ``converged_N`` says whether the optimiser stopped by itself; a fit that did not is used all the same.
    """

    param_NP: FloatArray
    mean_N: FloatArray
    converged_N: np.ndarray[Any, np.dtype[np.bool_]]


def fit(history_SN: FloatArray, order: Order, maxiter: int) -> Fits:
    """Fit every series by maximum likelihood, with the innovation variance concentrated out."""
    N = history_SN.shape[1]
    param_NP = np.full((N, order[0] + order[2]), np.nan)
    mean_N = history_SN.mean(axis=0) if order[1] == 0 else np.zeros(N)
    converged_N = np.zeros(N, dtype=np.bool_)
    for n in range(N):
        series_S = history_SN[:, n] - mean_N[n]
        if np.ptp(series_S) > 0:
            param_NP[n], converged_N[n] = _fit_one(series_S, order, maxiter)
    return Fits(param_NP, mean_N, converged_N)


def forecast(recent_SN: FloatArray, fits: Fits, order: Order, edges: tuple[int, ...]) -> FloatArray:
    """[B, N]: block means of each series' forecast from known parameters; NaN where there is none.

    Closed form: the forecast h rows ahead is Z T^(h-1) a, with the predicted state a, the transition T and the
    design Z. The powers are built by doubling, so that a long horizon costs a few small products and no simulation.
    """
    mean_BN = np.full((len(edges), recent_SN.shape[1]), np.nan)
    for n in np.flatnonzero(np.isfinite(fits.param_NP).all(axis=1)):
        model = _model(recent_SN[:, n] - fits.mean_N[n], order)
        try:
            model.update(fits.param_NP[n])
            state_M = model.ssm.filter().predicted_state[:, -1]
        except (np.linalg.LinAlgError, ValueError):
            continue
        path_H = _observability(model["design"][0], model["transition"], edges[-1]) @ state_M
        mean_BN[:, n] = block_means(path_H, edges) + fits.mean_N[n]
    return mean_BN


def log_likelihood(series_S: FloatArray, param_P: FloatArray, order: Order) -> float:
    """Return the exact log likelihood of one series at known parameters, variance concentrated out."""
    return float(_model(series_S, order).loglike(param_P))


def _fit_one(series_S: FloatArray, order: Order, maxiter: int) -> tuple[FloatArray, bool]:
    model = _model(series_S, order)
    with warnings.catch_warnings():  # start values and convergence: the latter is counted instead
        warnings.simplefilter("ignore")
        try:
            result = model.fit(maxiter=maxiter, disp=0, cov_type="none", low_memory=True)
        except (np.linalg.LinAlgError, ValueError):
            return np.full(order[0] + order[2], np.nan), False
    return np.asarray(result.params, dtype=np.float64), bool(result.mle_retvals["converged"])


def _model(series_S: FloatArray, order: Order) -> Any:
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    return SARIMAX(np.ascontiguousarray(series_S), order=order, concentrate_scale=True)


def _observability(design_M: FloatArray, transition_MM: FloatArray, rows: int) -> FloatArray:
    out_HM, power_MM = design_M[None].astype(np.float64), transition_MM.astype(np.float64)
    while len(out_HM) < rows:
        out_HM = np.concatenate([out_HM, out_HM @ power_MM])
        power_MM = power_MM @ power_MM
    return out_HM[:rows]
