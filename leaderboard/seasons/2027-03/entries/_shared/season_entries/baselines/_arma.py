"""What the engine `grid` needs of an ARMA(p, q) with given parameters, by numba.

Parameters are phi_1 .. phi_p, theta_1 .. theta_q: w_t = sum phi_i w_{t-i} + e_t + sum theta_j e_{t-j}.

The exact likelihood costs O(max(p, q + 1)) per row by the Chandrasekhar recursions (Morf, Sidhu and Kailath 1974; for
ARMA: Pearlman 1980): from row to row the covariance of the prediction changes by a matrix of rank one. With prediction
errors v_t of variance F_t sigma^2 it is a sum of squares, -2 log L = n log(sum r_t^2) + constant with
r_t = v_t F_t^(-1/2) (F_1 ... F_n)^(1 / 2n).

Axis letters: S rows, P parameters, M states.
"""

from __future__ import annotations

import os

import numpy as np
from numba import njit

from ._series import FloatArray

BOUND = 0.9999
# Compiled code is kept on disk (by pickle) only where a folder for it was named.
CACHE = "NUMBA_CACHE_DIR" in os.environ
STEADY = 1e-12


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def stable(coefficient_P: FloatArray, sign: float) -> bool:
    """Whether 1 - s c_1 z - ... - s c_p z^p has no root in the unit circle: all partial correlations are below 1."""
    c = np.empty(len(coefficient_P))
    for i in range(len(c)):
        c[i] = sign * coefficient_P[i]
    for k in range(len(c) - 1, -1, -1):
        last = c[k]
        if not abs(last) < BOUND:
            return False
        scale = 1.0 - last * last
        for i in range((k + 1) // 2):
            a, b = c[i], c[k - 1 - i]
            c[i], c[k - 1 - i] = (a + last * b) / scale, (b + last * a) / scale
    return True


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def shrink(coefficient_P: FloatArray, sign: float) -> None:
    """Pull roots towards zero (c_i r^i), in place, until the polynomial is stable."""
    while not stable(coefficient_P, sign):
        r = 1.0
        for i in range(len(coefficient_P)):
            r *= 0.95
            coefficient_P[i] *= r


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def residuals(w_S: FloatArray, x_P: FloatArray, p: int, e_S: FloatArray) -> float:
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


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def over_theta(value_S: FloatArray, theta_Q: FloatArray, out_S: FloatArray) -> None:
    """value / theta(B), into ``out_S``."""
    for t in range(len(value_S)):
        out = value_S[t]
        for j in range(min(len(theta_Q), t)):
            out -= theta_Q[j] * out_S[t - 1 - j]
        out_S[t] = out


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def usable(x_P: FloatArray, p: int) -> bool:
    return bool(stable(x_P[:p], 1.0) and stable(x_P[p:], -1.0))


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def solve(left_PP: FloatArray, right_P: FloatArray) -> None:
    """Gauss elimination; the solution replaces the right side. (numpy.linalg.solve takes seconds to compile.)"""
    m = len(right_P)
    for k in range(m):
        pivot = k
        for i in range(k + 1, m):
            if abs(left_PP[i, k]) > abs(left_PP[pivot, k]):
                pivot = i
        for j in range(k, m):
            left_PP[k, j], left_PP[pivot, j] = left_PP[pivot, j], left_PP[k, j]
        right_P[k], right_P[pivot] = right_P[pivot], right_P[k]
        for i in range(k + 1, m):
            factor = left_PP[i, k] / left_PP[k, k]
            for j in range(k, m):
                left_PP[i, j] -= factor * left_PP[k, j]
            right_P[i] -= factor * right_P[k]
    for k in range(m - 1, -1, -1):
        for j in range(k + 1, m):
            right_P[k] -= left_PP[k, j] * right_P[j]
        right_P[k] /= left_PP[k, k]


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def first_covariances(x_P: FloatArray, p: int) -> FloatArray:
    """[M]: covariance of each state with the first observation, innovation variance 1, stationary start.

    State i > 0 is sum_{j>=i} (phi_{j+1} w_{t+i-1-j} + theta_j e_{t+i-j}) (Harvey's form), state 0 is w_t.
    """
    q = len(x_P) - p
    M = max(p, q + 1)
    theta, psi = np.zeros(M), np.zeros(M)
    theta[0] = 1.0
    for j in range(q):
        theta[j + 1] = x_P[p + j]
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
    solve(left, right)
    gamma = right
    out = np.empty(M)
    out[0] = gamma[0]
    for i in range(1, M):
        out[i] = 0.0
        for j in range(i, M):
            out[i] += theta[j] * psi[j - i]
            if j < p:
                out[i] += x_P[j] * gamma[j + 1 - i]
    return out


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def exact(w_S: FloatArray, x_P: FloatArray, p: int, r_S: FloatArray, a_M: FloatArray) -> float:
    """Scaled prediction errors r_t into ``r_S``, the state after the last row into ``a_M``; returns sum r_t^2."""
    q = len(x_P) - p
    M = max(p, q + 1)
    phi = np.zeros(M)
    for i in range(p):
        phi[i] = x_P[i]
    first_M = first_covariances(x_P, p)
    f, k_M = first_M[0], np.empty(M)
    for i in range(M):
        k_M[i] = phi[i] * first_M[0] + (first_M[i + 1] if i + 1 < M else 0.0)
    l_M, m = k_M.copy(), -1.0 / f
    for i in range(M):
        a_M[i] = 0.0
    log_f, steady = 0.0, False
    inverse, root, log_now = 1.0 / f, 1.0 / np.sqrt(f), np.log(f)
    for t in range(len(w_S)):
        v = w_S[t] - a_M[0]
        scale = v * inverse
        r_S[t] = v * root
        head = a_M[0]
        for i in range(M - 1):
            a_M[i] = phi[i] * head + a_M[i + 1] + k_M[i] * scale
        a_M[M - 1] = phi[M - 1] * head + k_M[M - 1] * scale
        log_f += log_now
        if steady:
            continue
        top, size = l_M[0], 0.0
        gain = m * top
        new_f = f + gain * top
        for i in range(M):
            ahead = phi[i] * top + (l_M[i + 1] if i + 1 < M else 0.0)
            k_M[i] += ahead * gain
            l_M[i] = ahead - k_M[i] * top / new_f
            size += l_M[i] * l_M[i]
        m += gain * gain / f
        f = new_f
        steady = abs(m) * size < STEADY * f
        inverse, root, log_now = 1.0 / f, 1.0 / np.sqrt(f), np.log(f)
    scale = np.exp(0.5 * log_f / len(w_S))
    total = 0.0
    for t in range(len(w_S)):
        r_S[t] *= scale
        total += r_S[t] * r_S[t]
    return total
