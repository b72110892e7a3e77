"""Noise of shares: what is measured around a step's routing probabilities, and around a slowly moving level.

Axis letters: S rows, W windows, E experts, N blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import Array, BoolArray, FloatArray, IntArray
from moeload_bench.traces.trace import shares

MEAN_ABS_NORMAL = float(np.sqrt(2.0 / np.pi))
"""Mean absolute value of a standard normal variable."""
NOISE_ROWS = 100
"""Rows over which the variance of the noise is averaged at least."""
BLOCK_ROWS = 10
"""Rows per block for the noise around the level."""


class Noise(NamedTuple):
    """The noise of one layer: how far a row's shares lie from what is known about it.

    ``size_SE`` the distance of each row, measured or expected (NaN where unknown); ``variance_of_mean(first, rows)``
    the variance of the mean over ``rows`` rows from each of the rows ``first`` [W, E].
    """

    size_SE: FloatArray
    variance_of_mean: Callable[[IntArray, int], FloatArray]


def batch_noise(load_SE: IntArray, half_SE: IntArray) -> Noise:
    """Noise between a step's shares and its routing probabilities, from the shares a, b of its two halves.

    (a - b) sqrt(A B) / (A + B), with A and B the halves' loads ((a - b) / 2 for equal halves), has the variance of
    the whole batch's share around the step's probability, whatever its distribution, if sequences are independent.
    Steps are independent given their probabilities, so the variance of a mean over n rows is the mean of v_e over n.
    """
    other_SE = load_SE - half_SE
    a, b = half_SE.sum(axis=1, dtype=np.float64), other_SE.sum(axis=1, dtype=np.float64)
    weight_S = np.zeros(a.shape)
    np.divide(np.sqrt(a * b), a + b, out=weight_S, where=a + b > 0)
    deviation_SE = (shares(half_SE) - shares(other_SE)) * weight_S[:, None]
    running = Running(deviation_SE**2)
    return Noise(np.abs(deviation_SE), lambda first, rows: running.mean(first, max(rows, NOISE_ROWS)) / rows)


def level_noise(share_SE: FloatArray) -> Noise:
    """Noise of rows, and of means of rows, around a level that moves slowly.

    g(n) = n * variance of a mean over n rows: g(1) is the variance of rows in blocks of b = BLOCK_ROWS around the
    block's mean, g(b) is b times the mean squared second difference of block means / 6 (a slow drift cancels), and
    g(n) = g(b) for longer means; between them g is linear in 1 / n, as it is for short-lived autocorrelation. A block
    is the mean of its c rows with load, and 6 / b, by which b * bend is divided, is 1 / c_0 + 4 / c_1 + 1 / c_2.
    """
    b = BLOCK_ROWS
    S, E = share_SE.shape
    N = S // b
    if N < 3:
        nothing = np.full((S, E), np.nan)
        return Noise(nothing, lambda first, rows: np.full((len(first), E), np.nan))
    block_NbE = share_SE[: N * b].reshape(N, b, E)
    valid_Nb: BoolArray = np.asarray(np.isfinite(block_NbE).all(axis=2))
    count_N = valid_Nb.sum(axis=1)
    count_N1 = np.where(count_N > 0, count_N, np.nan)[:, None]
    mean_NE = np.where(valid_Nb[..., None], block_NbE, 0.0).sum(axis=1) / count_N1
    widen_N = np.sqrt(count_N / np.where(count_N > 1, count_N - 1, np.nan))
    deviation_SE = np.full((S, E), np.nan)
    deviation_SE[: N * b] = ((block_NbE - mean_NE[:, None]) * widen_N[:, None, None]).reshape(N * b, E)
    weight_N1 = 1.0 / count_N1[2:] + 4.0 / count_N1[1:-1] + 1.0 / count_N1[:-2]
    bend_NE = (mean_NE[2:] - 2.0 * mean_NE[1:-1] + mean_NE[:-2]) ** 2 / weight_N1
    long_run = np.full((S, E), np.nan)
    long_run[b : b + (N - 2) * b] = np.repeat(bend_NE, b, axis=0)
    one, many = Running(deviation_SE**2), Running(long_run)

    def variance_of_mean(first: IntArray, rows: int) -> FloatArray:
        over = max(rows, NOISE_ROWS)
        g_1, g_b = one.mean(first, over), many.mean(first, over)
        short = max(0.0, (1.0 / rows - 1.0 / b) / (1.0 - 1.0 / b))
        return (g_b + (g_1 - g_b) * short) / rows

    return Noise(np.abs(deviation_SE), variance_of_mean)


def sampling_noise(level_SE: FloatArray, total_S: IntArray, top_k: int) -> Noise:
    """Noise of top-k draws around known shares; unknown in rows without load."""
    total_S1 = np.where(total_S > 0, total_S, np.nan)[:, None]
    variance_SE = sampling_variance(level_SE, total_S1, top_k)
    running = Running(variance_SE)
    size_SE = MEAN_ABS_NORMAL * np.sqrt(variance_SE)
    return Noise(size_SE, lambda first, rows: running.mean(first, max(rows, NOISE_ROWS)) / rows)


def sampling_variance(share: FloatArray, total: Array, top_k: int) -> FloatArray:
    """v = p (1 - k p) / (k T): variance of a share under k draws without replacement for each of T tokens.

    ``total`` = k T, the loads' sum. An expert gets each token at most once, so its count is binomial with k p.
    """
    return np.asarray(share * np.maximum(1.0 - top_k * share, 0.0) / total)


def sampling_error(experts: int, tokens: int, top_k: int, steps: int = 1) -> float:
    """Expected |p_hat - p| / p of an oracle, equal shares: sqrt(2 / pi) sqrt(p (1 - k p) / (k T steps)) / p.

    What draws alone leave of a per-step error (or of that of a mean over ``steps``) when a step has ``tokens`` tokens.
    """
    p = 1.0 / experts
    variance = float(sampling_variance(np.array(p), np.array(top_k * tokens), top_k))
    return MEAN_ABS_NORMAL * float(np.sqrt(variance / steps)) / p


def relative_noise(spread: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Expected |x - p| / x of an observed share x > 0, and the probability of x > 0, at noise of sd ``spread`` * p.

    x / p is taken as m-th of a Poisson count with mean m = 1 / spread^2: exact for rare draws, and it has the skewness
    that keeps over-dispersed shares away from 0. NaN stays NaN.
    """
    grid, error, seen = _relative_table()
    clipped = np.minimum(spread, grid[-1])
    return np.interp(clipped, grid, error), np.interp(clipped, grid, seen)


@functools.cache
def _relative_table() -> tuple[FloatArray, FloatArray, FloatArray]:
    """`relative_noise` at spreads from 0 to 5; below 0.05 the first terms of its series are exact to 1e-4."""
    grid = np.concatenate([[0.0], np.linspace(0.05, 1.0, 96), np.linspace(1.05, 5.0, 80)])
    error, seen = np.zeros(len(grid)), np.ones(len(grid))
    for i, spread in enumerate(grid[1:], start=1):
        mean = 1.0 / spread**2
        count = np.arange(1, int(mean + 12.0 * np.sqrt(mean) + 20))
        chance = np.exp(count * np.log(mean) - mean - np.cumsum(np.log(count)))
        seen[i] = -np.expm1(-mean)
        error[i] = (chance * np.abs(count - mean) / count).sum() / seen[i]
    return grid, error, seen


class Running:
    """Means over any window of rows from running totals; rows that are NaN throughout are left out."""

    def __init__(self, values_SE: FloatArray) -> None:
        S, E = values_SE.shape
        valid_S: BoolArray = np.asarray(np.isfinite(values_SE).all(axis=1))
        # experts first: a running total along memory is several times faster than one across it
        self.total_ES = np.zeros((E, S + 1))
        np.cumsum(np.ascontiguousarray(np.where(valid_S[:, None], values_SE, 0.0).T), axis=1, out=self.total_ES[:, 1:])
        self.count_S = np.concatenate([[0], np.cumsum(valid_S)])

    @property
    def rows(self) -> int:
        return len(self.count_S) - 1

    def mean(self, first_W: IntArray, rows: int) -> FloatArray:
        """Means over ``rows`` rows from each first row, moved to lie inside the trace; [W, E]."""
        rows = min(rows, self.rows)
        start = np.clip(first_W, 0, self.rows - rows)
        count_W = self.count_S[start + rows] - self.count_S[start]
        sum_WE = (self.total_ES[:, start + rows] - self.total_ES[:, start]).T
        out = np.full(sum_WE.shape, np.nan)
        np.divide(sum_WE, count_W[:, None], out=out, where=np.broadcast_to(count_W[:, None] > 0, out.shape))
        return np.asarray(np.maximum(out, 0.0))
