"""Noise of shares: what is measured around a step's routing probabilities, and around a slowly moving level.

Axis letters: S rows, W windows, E experts, N blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from moeload_bench.drift import BoolArray, FloatArray
from moeload_bench.trace import Array, IntArray, shares

MEAN_ABS_NORMAL = float(np.sqrt(2.0 / np.pi))
"""Mean absolute value of a standard normal variable."""
NOISE_ROWS = 100
"""Rows over which the variance of the noise is averaged at least."""
BLOCK_ROWS = 10
"""Rows per block for the noise around the level."""


class Noise(NamedTuple):
    """The noise of one layer: how far a row's shares lie from what is known about it.

    ``deviation_SE`` one draw of that distance per row (NaN where unknown); ``variance_of_mean(first, rows)`` the
    variance of the mean over ``rows`` rows from each of the rows ``first`` [W, E].
    """

    deviation_SE: FloatArray
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
    return Noise(deviation_SE, lambda first, rows: running.mean(first, max(rows, NOISE_ROWS)) / rows)


def level_noise(share_SE: FloatArray) -> Noise:
    """Noise of rows, and of means of rows, around a level that moves slowly.

    g(n) = n * variance of a mean over n rows: g(1) is the variance of rows in blocks of b = BLOCK_ROWS around the
    block's mean, g(b) is b times the mean squared second difference of block means / 6 (a slow drift cancels), and
    g(n) = g(b) for longer means; between them g is linear in 1 / n, as it is for short-lived autocorrelation.
    """
    b = BLOCK_ROWS
    S, E = share_SE.shape
    N = S // b
    if N < 3:
        nothing = np.full((S, E), np.nan)
        return Noise(nothing, lambda first, rows: np.full((len(first), E), np.nan))
    block_NbE = share_SE[: N * b].reshape(N, b, E)
    mean_NE = block_NbE.mean(axis=1)
    deviation_SE = np.full((S, E), np.nan)
    deviation_SE[: N * b] = ((block_NbE - mean_NE[:, None]) * np.sqrt(b / (b - 1))).reshape(N * b, E)
    bend_NE = (mean_NE[2:] - 2.0 * mean_NE[1:-1] + mean_NE[:-2]) ** 2 / 6.0
    long_run = np.full((S, E), np.nan)
    long_run[b : b + (N - 2) * b] = np.repeat(b * bend_NE, b, axis=0)
    one, many = Running(deviation_SE**2), Running(long_run)

    def variance_of_mean(first: IntArray, rows: int) -> FloatArray:
        over = max(rows, NOISE_ROWS)
        g_1, g_b = one.mean(first, over), many.mean(first, over)
        short = max(0.0, (1.0 / rows - 1.0 / b) / (1.0 - 1.0 / b))
        return (g_b + (g_1 - g_b) * short) / rows

    return Noise(deviation_SE, variance_of_mean)


def sampling_variance(share: FloatArray, total: Array, top_k: int) -> FloatArray:
    """v = p (1 - k p) / (k T): variance of a share under k draws without replacement for each of T tokens.

    ``total`` = k T, the loads' sum. An expert gets each token at most once, so its count is binomial with k p.
    """
    return np.asarray(share * np.maximum(1.0 - top_k * share, 0.0) / total)


class Running:
    """Means over any window of rows from running totals; rows that are NaN throughout are left out."""

    def __init__(self, values_SE: FloatArray) -> None:
        S, E = values_SE.shape
        valid_S: BoolArray = np.asarray(np.isfinite(values_SE).all(axis=1))
        # experts first: a running total along memory is several times faster than one across it
        self.total_ES = np.zeros((E, S + 1))
        np.cumsum(np.ascontiguousarray(np.where(valid_S[:, None], values_SE, 0.0).T), axis=1, out=self.total_ES[:, 1:])
        self.count_S = np.concatenate([[0], np.cumsum(valid_S)])

    def mean(self, first_W: IntArray, rows: int) -> FloatArray:
        """Means over ``rows`` rows from each first row, moved to lie inside the trace; [W, E]."""
        S = len(self.count_S) - 1
        rows = min(rows, S)
        start = np.clip(first_W, 0, S - rows)
        count_W = self.count_S[start + rows] - self.count_S[start]
        sum_WE = (self.total_ES[:, start + rows] - self.total_ES[:, start]).T
        out = np.full(sum_WE.shape, np.nan)
        np.divide(sum_WE, count_W[:, None], out=out, where=np.broadcast_to(count_W[:, None] > 0, out.shape))
        return np.asarray(np.maximum(out, 0.0))
