"""The batched half of the engine `grid` of `arima`: any order, all series of a trace, by numba.

Each series is differenced and fitted from several starts, in two steps: Gauss-Newton with Levenberg's damping on the
conditional sum of squares, whose derivatives are two filtered series (d e_t / d phi_i = -u_{t-i} with u = w / theta(B),
d e_t / d theta_j = -s_{t-j} with s = e / theta(B)); then the same on the exact likelihood. The best end is kept.

The exact likelihood of an ARMA costs O(max(p, q + 1)) per row by the Chandrasekhar recursions (Morf, Sidhu and Kailath
1974; Pearlman 1980 for ARMA): from row to row the covariance of the prediction changes by a matrix of rank one. With
prediction errors v_t of variance F_t sigma^2 it is a sum of squares too, -2 log L = n log(sum r_t^2) + constant with
r_t = v_t F_t^(-1/2) (F_1 ... F_n)^(1 / 2n).

Axis letters: S rows, N series, P parameters, M states, B blocks, K starts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ._arima_exact import Fits, Order
from ._series import FloatArray, IntArray

BOUND = 0.9999
STEADY = 1e-13
CSS_STEPS = 30
# beside Hannan and Rissanen's start; chosen on train runs: more starts than these add little likelihood
START_AR_K2 = np.array([[0.0, 0.5], [-0.8, -0.6]])
START_MA_K2 = np.array([[-0.5, -0.4], [0.2, 0.0]])


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


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _stable(coefficient_P: FloatArray) -> bool:
    """Whether 1 - c_1 z - ... - c_p z^p has no root within the unit circle: all partial correlations below 1."""
    c = coefficient_P.copy()
    for k in range(len(c) - 1, -1, -1):
        last = c[k]
        if not abs(last) < BOUND:
            return False
        scale = 1.0 - last * last
        for i in range((k + 1) // 2):
            a, b = c[i], c[k - 1 - i]
            c[i], c[k - 1 - i] = (a + last * b) / scale, (b + last * a) / scale
    return True


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _shrink(coefficient_P: FloatArray) -> FloatArray:
    """Pull roots towards zero (c_i r^i) until the polynomial is stable."""
    c = coefficient_P.copy()
    for _ in range(200):
        if _stable(c):
            return c
        r = 1.0
        for i in range(len(c)):
            r *= 0.95
            c[i] *= r
    return np.zeros_like(c)


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _residuals(w_S: FloatArray, x_P: FloatArray, p: int, e_S: FloatArray) -> float:
    """Conditional residuals, zero before the first row, into ``e_S``; their sum of squares."""
    q = len(x_P) - p
    total = 0.0
    for t in range(len(w_S)):
        e = w_S[t]
        for i in range(min(p, t)):
            e -= x_P[i] * w_S[t - 1 - i]
        for j in range(min(q, t)):
            e -= x_P[p + j] * e_S[t - 1 - j]
        e_S[t] = e
        total += e * e
    return total


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _over_theta(value_S: FloatArray, theta_Q: FloatArray, out_S: FloatArray) -> None:
    """value / theta(B), into ``out_S``."""
    for t in range(len(value_S)):
        out = value_S[t]
        for j in range(min(len(theta_Q), t)):
            out -= theta_Q[j] * out_S[t - 1 - j]
        out_S[t] = out


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _usable(x_P: FloatArray, p: int) -> bool:
    return bool(_stable(x_P[:p]) and _stable(-x_P[p:]))


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _damped_step(square_PP: FloatArray, slope_P: FloatArray, damping: float) -> Any:
    """Solve (H + damping diag H) step = slope."""
    h = square_PP.copy()
    for i in range(len(slope_P)):
        h[i, i] += damping * h[i, i] + 1e-12
    return np.linalg.solve(h, slope_P)


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _conditional(w_S: FloatArray, x_P: FloatArray, p: int) -> FloatArray:
    """Minimise the conditional sum of squares from ``x_P``."""
    n, m = len(w_S), len(x_P)
    e_S, u_S, s_S = np.empty(n), np.empty(n), np.empty(n)
    jacobian_SP = np.zeros((n, m))
    cost, damping = _residuals(w_S, x_P, p, e_S), 1e-3
    for _ in range(CSS_STEPS):
        _over_theta(w_S, x_P[p:], u_S)
        _over_theta(e_S, x_P[p:], s_S)
        for i in range(m):
            source, lag = (u_S, i + 1) if i < p else (s_S, i - p + 1)
            jacobian_SP[lag:, i] = source[: n - lag]
        square_PP, slope_P = jacobian_SP.T @ jacobian_SP, jacobian_SP.T @ e_S
        before = cost
        for _attempt in range(8):
            new_P = x_P + _damped_step(square_PP, slope_P, damping)
            new = _residuals(w_S, new_P, p, u_S) if _usable(new_P, p) else np.inf
            if new < cost:
                x_P, cost, damping = new_P, new, damping * 0.3
                e_S[:] = u_S
                break
            damping *= 4.0
        if not cost < before * (1.0 - 1e-6):
            break
    return x_P


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _regress(design_SP: FloatArray, target_S: FloatArray) -> Any:
    square = design_SP.T @ design_SP
    for i in range(square.shape[0]):
        square[i, i] = square[i, i] * (1.0 + 1e-8) + 1e-12
    return np.linalg.solve(square, design_SP.T @ target_S)


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _hannan_rissanen(w_S: FloatArray, p: int, q: int) -> FloatArray:
    """Residuals of a long autoregression stand in for the innovations; one more regression gives the parameters."""
    n = len(w_S)
    long = min(20 + p + q, n // 4)
    lags_SP = np.empty((n - long, long))
    for i in range(long):
        lags_SP[:, i] = w_S[long - 1 - i : n - 1 - i]
    e_S = w_S[long:] - lags_SP @ _regress(lags_SP, w_S[long:])
    start = max(p, q)
    rows = n - long - start
    design_SP = np.empty((rows, p + q))
    for i in range(p):
        design_SP[:, i] = w_S[long + start - 1 - i : n - 1 - i]
    for j in range(q):
        design_SP[:, p + j] = e_S[start - 1 - j : n - long - 1 - j]
    x_P = _regress(design_SP, w_S[long + start :])
    return np.concatenate((_shrink(x_P[:p]), -_shrink(-x_P[p:])))


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _first_covariances(x_P: FloatArray, p: int) -> FloatArray:
    """[M]: covariance of each state with the first observation, innovation variance 1, stationary start.

    State i > 0 is sum_{j>=i} (phi_{j+1} w_{t+i-1-j} + theta_j e_{t+i-j}) (Harvey's form), state 0 is w_t.
    """
    q = len(x_P) - p
    M = max(p, q + 1)
    theta, psi = np.zeros(M), np.zeros(M)
    theta[0] = 1.0
    theta[1 : q + 1] = x_P[p:]
    for k in range(M):
        psi[k] = theta[k]
        for i in range(min(p, k)):
            psi[k] += x_P[i] * psi[k - 1 - i]
    left, right = np.zeros((M + 1, M + 1)), np.zeros(M + 1)
    for k in range(M + 1):
        left[k, k] += 1.0
        for i in range(p):
            left[k, abs(k - 1 - i)] -= x_P[i]
        for j in range(k, M):
            right[k] += theta[j] * psi[j - k]
    gamma = np.linalg.solve(left, right)
    out = np.empty(M)
    out[0] = gamma[0]
    for i in range(1, M):
        out[i] = 0.0
        for j in range(i, M):
            out[i] += theta[j] * psi[j - i]
            if j < p:
                out[i] += x_P[j] * gamma[j + 1 - i]
    return out


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _exact(w_S: FloatArray, x_P: FloatArray, p: int, r_S: FloatArray, a_M: FloatArray) -> float:
    """Scaled prediction errors r_t into ``r_S``, the state after the last row into ``a_M``; returns sum r_t^2."""
    q = len(x_P) - p
    M = max(p, q + 1)
    phi = np.zeros(M)
    phi[:p] = x_P[:p]
    first_M = _first_covariances(x_P, p)
    f, k_M = first_M[0], np.empty(M)
    for i in range(M):
        k_M[i] = phi[i] * first_M[0] + (first_M[i + 1] if i + 1 < M else 0.0)
    l_M, m = k_M.copy(), -1.0 / f
    a_M[:] = 0.0
    log_f, steady = 0.0, False
    for t in range(len(w_S)):
        v = w_S[t] - a_M[0]
        scale = v / f
        r_S[t] = v / np.sqrt(f)
        head = a_M[0]
        for i in range(M - 1):
            a_M[i] = phi[i] * head + a_M[i + 1] + k_M[i] * scale
        a_M[M - 1] = phi[M - 1] * head + k_M[M - 1] * scale
        log_f += np.log(f)
        if steady:
            continue
        top = l_M[0]
        gain = m * top
        new_f = f + gain * top
        for i in range(M):
            ahead = phi[i] * top + (l_M[i + 1] if i + 1 < M else 0.0)
            k_M[i] += ahead * gain
            l_M[i] = ahead - k_M[i] * top / new_f
        m += gain * gain / f
        steady = abs(gain * top) < STEADY * f
        f = new_f
    scale = np.exp(0.5 * log_f / len(w_S))
    total = 0.0
    for t in range(len(w_S)):
        r_S[t] *= scale
        total += r_S[t] * r_S[t]
    return total


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _likelihood(w_S: FloatArray, x_P: FloatArray, p: int, maxiter: int) -> tuple[FloatArray, float, bool]:
    """Minimise the exact sum of squares from ``x_P``; parameters, its value, whether it stopped by itself."""
    n, m = len(w_S), len(x_P)
    a_M, r_S, new_S = np.empty(max(p, m - p + 1)), np.empty(n), np.empty(n)
    jacobian_SP = np.empty((n, m))
    cost, damping = _exact(w_S, x_P, p, r_S, a_M), 1e-3
    for _ in range(maxiter):
        for i in range(m):
            moved_P = x_P.copy()
            moved_P[i] += 1e-6 if x_P[i] < 0.0 else -1e-6
            _exact(w_S, moved_P, p, new_S, a_M)
            jacobian_SP[:, i] = (r_S - new_S) / (moved_P[i] - x_P[i])
        square_PP, slope_P = jacobian_SP.T @ jacobian_SP, jacobian_SP.T @ r_S
        before = cost
        for _attempt in range(6):
            new_P = x_P + _damped_step(square_PP, slope_P, damping)
            new = _exact(w_S, new_P, p, new_S, a_M) if _usable(new_P, p) else np.inf
            if new < cost:
                x_P, cost, damping = new_P, new, damping * 0.2
                r_S[:] = new_S
                break
            damping *= 5.0
        if not cost < before * (1.0 - 1e-7):
            return x_P, cost, True
    return x_P, cost, False


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _fixed_start(k: int, p: int, q: int) -> FloatArray:
    """A fixed ARMA(2,2) cut or padded with zeros to the order."""
    x_P = np.zeros(p + q)
    for i in range(min(p, 2)):
        x_P[i] = START_AR_K2[k, i]
    for j in range(min(q, 2)):
        x_P[p + j] = START_MA_K2[k, j]
    return x_P


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _fit_all(w_NS: FloatArray, p: int, q: int, maxiter: int) -> tuple[FloatArray, Any]:
    N = w_NS.shape[0]
    param_NP, converged_N = np.full((N, p + q), np.nan), np.zeros(N, dtype=np.bool_)
    for n in range(N):
        w_S = w_NS[n]
        if not np.ptp(w_S) > 0.0:
            continue
        least = np.inf
        for k in range(len(START_AR_K2) + 1):
            start_P = _hannan_rissanen(w_S, p, q) if k == 0 else _fixed_start(k - 1, p, q)
            end_P, cost, converged = _likelihood(w_S, _conditional(w_S, start_P, p), p, maxiter)
            if cost < least:
                least, param_NP[n], converged_N[n] = cost, end_P, converged
    return param_NP, converged_N


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def _forecast_all(
    w_NS: FloatArray, last_DN: FloatArray, param_NP: FloatArray, p: int, q: int, edges: IntArray
) -> FloatArray:
    """[N, B]: block means of the path that follows the filtered state, summed d times onto the last levels."""
    N, D, M = w_NS.shape[0], last_DN.shape[0], max(p, q + 1)
    out_NB, r_S, a_M = np.full((N, len(edges)), np.nan), np.empty(w_NS.shape[1]), np.empty(M)
    for n in range(N):
        x_P, level_D = param_NP[n], last_DN[:, n].copy()
        if not np.isfinite(x_P).all():
            continue
        _exact(w_NS[n], x_P, p, r_S, a_M)
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
