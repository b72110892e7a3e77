"""The batched half of the engine `grid` of `arima`: any order, all series of a trace, by numba.

Each series is differenced and fitted from several starts, in two steps: Gauss-Newton with Levenberg's damping on the
conditional sum of squares, whose derivatives are two filtered series (d e_t / d phi_i = -u_{t-i} with u = w / theta(B),
d e_t / d theta_j = -s_{t-j} with s = e / theta(B)); then the same on the exact likelihood (`_arma.py`). The best end is
kept.

Axis letters: S rows, N series, P parameters, M states, B blocks, K starts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ._arima_exact import Fits, Order
from ._arma import CACHE, exact, over_theta, residuals, shrink, solve, usable
from ._series import FloatArray, IntArray

CSS_STEPS = 30
SCREEN, CONVERGED = 1e-4, 1e-7  # relative decrease of the sum of squares at which a start, and the best one, is done
# Beside Hannan and Rissanen's start: phi_1 .. phi_5, theta_1 .. theta_5, cut to the order. Chosen on train runs out of
# eighteen: with these six no series ended lower than with all of them by more than 1 in log-likelihood.
START_K10 = np.array(
    [
        [0.3, 0.0, 0.0, 0.0, 0.0, -0.9, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.5, 0.0, 0.0, 0.0, -0.5, -0.4, 0.0, 0.0, 0.0],
        [-0.8, -0.6, 0.0, 0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0],
        [0.5, 0.0, 0.0, 0.0, 0.5, -0.8, 0.0, 0.0, 0.0, 0.0],
        [1.2, -0.8, 0.0, 0.0, 0.0, -1.5, 0.9, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.6, 0.0, -0.6, 0.0, 0.0, 0.0, 0.0],
    ]
)


def fit(history_SN: FloatArray, order: Order, maxiter: int) -> Fits:
    """Fit every series; at most ``maxiter`` steps on the exact likelihood."""
    p, d, q = order
    mean_N = history_SN.mean(axis=0) if d == 0 else np.zeros(history_SN.shape[1])
    work_SN = np.diff(history_SN - mean_N, n=d, axis=0)
    param_NP, converged_N = _fit_all(np.ascontiguousarray(work_SN.T), p, q, maxiter)
    return Fits(param_NP, mean_N, converged_N)


def forecast(recent_SN: FloatArray, fits: Fits, order: Order, edges: tuple[int, ...]) -> FloatArray:
    """[B, N]: block means of each series' forecast from known parameters; NaN where there is none."""
    p, d, q = order
    level_SN = recent_SN - fits.mean_N
    work_SN = np.diff(level_SN, n=d, axis=0)
    last_DN = np.stack([np.diff(level_SN, n=i, axis=0)[-1] for i in range(d)]) if d else np.empty((0, len(fits.mean_N)))
    out_NB = _forecast_all(np.ascontiguousarray(work_SN.T), last_DN, fits.param_NP, p, q, np.array(edges))
    return np.ascontiguousarray(out_NB.T) + fits.mean_N


def warm_up() -> None:
    """Compile everything, on nothing that needs computing."""
    flat_SN = np.zeros((8, 1))
    forecast(flat_SN, fit(flat_SN, (1, 1, 1), 1), (1, 1, 1), (1, 2))


@njit(error_model="numpy", fastmath=True, cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _dot(a_S: FloatArray, b_S: FloatArray) -> float:
    """fastmath lets the sum use vector instructions; everything else here adds in order."""
    total = 0.0
    for t in range(len(a_S)):
        total += a_S[t] * b_S[t]
    return total


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _damped_step(column_PS: FloatArray, error_S: FloatArray, damping: float) -> FloatArray:
    """Solve (C C' + damping diag) step = C error, for the columns C of a regression."""
    m = len(column_PS)
    left_PP, right_P = np.empty((m, m)), np.empty(m)
    for i in range(m):
        right_P[i] = _dot(column_PS[i], error_S)
        for j in range(i + 1):
            left_PP[i, j] = left_PP[j, i] = _dot(column_PS[i], column_PS[j])
        left_PP[i, i] += damping * left_PP[i, i] + 1e-12
    solve(left_PP, right_P)
    return right_P


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _moved(x_P: FloatArray, step_P: FloatArray) -> FloatArray:
    new_P = np.empty(len(x_P))
    for i in range(len(x_P)):
        new_P[i] = x_P[i] + step_P[i]
    return new_P


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _conditional(w_S: FloatArray, x_P: FloatArray, p: int) -> FloatArray:
    """Minimise the conditional sum of squares from ``x_P``."""
    n, m = len(w_S), len(x_P)
    e_S, new_S, u_S, s_S = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    column_PS = np.zeros((m, n))
    cost, damping = residuals(w_S, x_P, p, e_S), 1e-3
    for _ in range(CSS_STEPS):
        over_theta(w_S, x_P[p:], u_S)
        over_theta(e_S, x_P[p:], s_S)
        for i in range(m):
            source, lag = (u_S, i + 1) if i < p else (s_S, i - p + 1)
            for t in range(lag, n):
                column_PS[i, t] = source[t - lag]
        before = cost
        for _attempt in range(8):
            new_P = _moved(x_P, _damped_step(column_PS, e_S, damping))
            new = residuals(w_S, new_P, p, new_S) if usable(new_P, p) else np.inf
            if new < cost:
                x_P, cost, damping = new_P, new, damping * 0.3
                e_S, new_S = new_S, e_S
                break
            damping *= 4.0
        if not cost < before * (1.0 - 1e-6):
            break
    return x_P


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _hannan_rissanen(w_S: FloatArray, p: int, q: int) -> FloatArray:
    """Residuals of a long autoregression stand in for the innovations; one more regression gives the parameters."""
    n = len(w_S)
    long = min(20 + p + q, n // 4)
    lag_PS = np.empty((long, n - long))
    for i in range(long):
        for t in range(n - long):
            lag_PS[i, t] = w_S[t + long - 1 - i]
    e_S = w_S[long:].copy()
    long_P = _damped_step(lag_PS, e_S, 1e-8)
    for i in range(long):
        for t in range(n - long):
            e_S[t] -= long_P[i] * lag_PS[i, t]
    start = max(p, q)
    rows = n - long - start
    column_PS = np.empty((p + q, rows))
    for i in range(p + q):
        for t in range(rows):
            column_PS[i, t] = w_S[long + start + t - 1 - i] if i < p else e_S[start + t - 1 - (i - p)]
    x_P: FloatArray = _damped_step(column_PS, w_S[long + start :], 1e-8)
    shrink(x_P[:p], 1.0)
    shrink(x_P[p:], -1.0)
    return x_P


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _likelihood(w_S: FloatArray, x_P: FloatArray, p: int, maxiter: int, least: float) -> tuple[FloatArray, float, bool]:
    """Minimise the exact sum of squares from ``x_P``; parameters, its value, whether it stopped by itself."""
    n, m = len(w_S), len(x_P)
    a_M, r_S, new_S = np.empty(max(p, m - p + 1)), np.empty(n), np.empty(n)
    column_PS = np.empty((m, n))
    cost, damping = exact(w_S, x_P, p, r_S, a_M), 1e-3
    for _ in range(maxiter):
        for i in range(m):
            value, small = x_P[i], 1e-6 if x_P[i] < 0.0 else -1e-6
            x_P[i] += small
            exact(w_S, x_P, p, new_S, a_M)
            x_P[i] = value
            for t in range(n):
                column_PS[i, t] = (r_S[t] - new_S[t]) / small
        before = cost
        for _attempt in range(6):
            new_P = _moved(x_P, _damped_step(column_PS, r_S, damping))
            new = exact(w_S, new_P, p, new_S, a_M) if usable(new_P, p) else np.inf
            if new < cost:
                x_P, cost, damping = new_P, new, damping * 0.2
                r_S, new_S = new_S, r_S
                break
            damping *= 5.0
        if not cost < before * (1.0 - least):
            return x_P, cost, True
    return x_P, cost, False


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _fixed_start(k: int, p: int, q: int) -> FloatArray:
    """Return a fixed ARMA(5,5) cut or padded with zeros to the order, and made stable."""
    x_P = np.zeros(p + q)
    for i in range(min(p, 5)):
        x_P[i] = START_K10[k, i]
    for j in range(min(q, 5)):
        x_P[p + j] = START_K10[k, 5 + j]
    shrink(x_P[:p], 1.0)
    shrink(x_P[p:], -1.0)
    return x_P


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _fit_all(w_NS: FloatArray, p: int, q: int, maxiter: int) -> tuple[FloatArray, Any]:
    N = w_NS.shape[0]
    param_NP, converged_N = np.full((N, p + q), np.nan), np.zeros(N, dtype=np.bool_)
    for n in range(N):
        w_S, best_cost, best_P = w_NS[n], np.inf, np.zeros(p + q)
        if not _dot(w_S, w_S) > 0.0:
            continue
        for k in range(len(START_K10) + 1):
            start_P = _hannan_rissanen(w_S, p, q) if k == 0 else _fixed_start(k - 1, p, q)
            end_P, cost, _ = _likelihood(w_S, _conditional(w_S, start_P, p), p, maxiter, SCREEN)
            if cost < best_cost:
                best_cost, best_P = cost, end_P
        if not np.isfinite(best_cost):
            continue
        best_P, _, converged_N[n] = _likelihood(w_S, best_P, p, maxiter, CONVERGED)
        for i in range(p + q):
            param_NP[n, i] = best_P[i]
    return param_NP, converged_N


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _forecast_all(
    w_NS: FloatArray, last_DN: FloatArray, param_NP: FloatArray, p: int, q: int, edges: IntArray
) -> FloatArray:
    """[N, B]: block means of the path that follows the filtered state, summed d times onto the last levels."""
    N, D, M = w_NS.shape[0], last_DN.shape[0], max(p, q + 1)
    out_NB, r_S, a_M = np.full((N, len(edges)), np.nan), np.empty(w_NS.shape[1]), np.empty(M)
    for n in range(N):
        x_P, level_D = param_NP[n], last_DN[:, n].copy()
        if not np.isfinite(x_P[0]):
            continue
        exact(w_NS[n], x_P, p, r_S, a_M)
        start = 0
        for block in range(len(edges)):
            total = 0.0
            for _ in range(start, edges[block]):
                value = head = a_M[0]
                for i in range(M):
                    a_M[i] = (x_P[i] * head if i < p else 0.0) + (a_M[i + 1] if i + 1 < M else 0.0)
                for i in range(D - 1, -1, -1):
                    level_D[i] += value
                    value = level_D[i]
                total += value
            out_NB[n, block] = total / (edges[block] - start)
            start = edges[block]
    return out_NB
