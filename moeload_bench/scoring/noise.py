"""Noise of shares: what is measured around a step's routing probabilities, and around a slowly moving level.

Axis letters: S rows, W windows, E experts, N blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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

    ``size_SE`` the distance of each row, measured or expected (NaN where unknown). The variance of the mean over
    ``rows`` rows is ``of_mean(means, rows)``: of the mean of each of ``terms`` over those rows, at least `NOISE_ROWS`.
    """

    size_SE: FloatArray
    terms: tuple[FloatArray, ...]
    of_mean: Callable[[Sequence[FloatArray], int], FloatArray]

    def of_rows(self, rows: slice) -> Noise:
        """Return that of some of the rows."""
        return Noise(self.size_SE[rows], tuple(term[rows] for term in self.terms), self.of_mean)


def _independent(means: Sequence[FloatArray], rows: int) -> FloatArray:
    return means[0] / rows


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
    return Noise(np.abs(deviation_SE), (deviation_SE**2,), _independent)


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
        return Noise(nothing, (nothing, nothing), _between)
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
    return Noise(np.abs(deviation_SE), (deviation_SE**2, long_run), _between)


def _between(means: Sequence[FloatArray], rows: int) -> FloatArray:
    """g(rows) / rows, from the means of g(1) and of g(b)."""
    b = BLOCK_ROWS
    g_1, g_b = means
    short = max(0.0, (1.0 / rows - 1.0 / b) / (1.0 - 1.0 / b))
    return (g_b + (g_1 - g_b) * short) / rows


def sampling_noise(level_SE: FloatArray, total_S: IntArray, top_k: int) -> Noise:
    """Noise of top-k draws around known shares; unknown in rows without load."""
    total_S1 = np.where(total_S > 0, total_S, np.nan)[:, None]
    variance_SE = sampling_variance(level_SE, total_S1, top_k)
    return Noise(MEAN_ABS_NORMAL * np.sqrt(variance_SE), (variance_SE,), _independent)


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
    """Running totals of rows that come part by part; rows that are NaN throughout are left out.

    ``total_ES`` and ``count_S`` are those before each row of the last part and after it, ``first`` that part's first
    row.
    """

    def __init__(self) -> None:
        self.first = 0
        self.total_ES: FloatArray = np.zeros((1, 1))
        self.count_S: IntArray = np.zeros(1, dtype=np.int64)

    @property
    def rows(self) -> int:
        return self.first + len(self.count_S) - 1

    def add(self, values_SE: FloatArray) -> None:
        """Go on with the rows that follow."""
        self.first = self.rows
        valid_S: BoolArray = np.asarray(np.isfinite(values_SE).all(axis=1))
        # experts first: a running total along memory is several times faster than one across it
        rows_ES = np.empty((values_SE.shape[1], len(values_SE) + 1))
        rows_ES[:, 0] = self.total_ES[:, -1]
        rows_ES[:, 1:] = values_SE.T
        if not valid_S.all():
            rows_ES[:, 1:][:, ~valid_S] = 0.0
        self.total_ES = np.cumsum(rows_ES, axis=1, out=rows_ES)
        self.count_S = self.count_S[-1] + np.concatenate([[0], np.cumsum(valid_S)])


class WindowMeans:
    """Means over windows of ``rows`` rows from each first row, moved to lie inside the ``steps`` rows of a trace."""

    def __init__(self, first_W: IntArray, rows: int, steps: int) -> None:
        self._rows = min(rows, steps)
        start_W = np.clip(first_W, 0, steps - self._rows)
        self._order = np.argsort(start_W, kind="stable")
        self._start_W = start_W[self._order]
        self._held: list[tuple[FloatArray, IntArray]] = []

    def ended(self, series: Sequence[Running]) -> tuple[IntArray, list[FloatArray]]:
        """Return which windows end in the last part of all the series, and of each series their means [W, E]."""
        first, stop = series[0].first, series[0].rows
        opens = slice(*np.searchsorted(self._start_W, [first, stop]))
        ends = slice(*np.searchsorted(self._start_W, [first - self._rows + 1, stop - self._rows + 1]))
        before = self._held or [(np.empty((0, one.total_ES.shape[0])), np.empty(0, dtype=np.int64)) for one in series]
        self._held, found = [], []
        start_W, stop_W = self._start_W[opens] - first, self._start_W[ends] + self._rows - first
        for one, (total_WE, count_W) in zip(series, before, strict=True):
            total_WE = np.concatenate([total_WE, one.total_ES[:, start_W].T])
            count_W = np.concatenate([count_W, one.count_S[start_W]])
            w = len(stop_W)
            seen_W1 = (one.count_S[stop_W] - count_W[:w])[:, None]
            out = np.full((w, total_WE.shape[1]), np.nan)
            np.divide(one.total_ES[:, stop_W].T - total_WE[:w], seen_W1, out=out, where=seen_W1 > 0)
            found.append(np.maximum(out, 0.0))
            self._held.append((total_WE[w:], count_W[w:]))
        return self._order[ends], found


def window_means(values_SE: FloatArray, first_W: IntArray, rows: int) -> FloatArray:
    """Return means of rows that are all there over ``rows`` of them from each first row; [W, E]."""
    running = Running()
    running.add(values_SE)
    at_W, (mean_WE,) = WindowMeans(first_W, rows, len(values_SE)).ended([running])
    out = np.empty_like(mean_WE)
    out[at_W] = mean_WE
    return out
