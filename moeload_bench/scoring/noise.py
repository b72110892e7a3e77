"""Noise of shares: what is measured around a step's routing probabilities, and around a slowly moving level.

Axis letters: S rows, W windows, E experts, N blocks; X any axes between, such as that of layers.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import Array, BoolArray, FloatArray, IntArray
from moeload_bench.traces.means import ratio_of
from moeload_bench.traces.trace import shares

MEAN_ABS_NORMAL = float(np.sqrt(2.0 / np.pi))
"""Mean absolute value of a standard normal variable."""
NOISE_ROWS = 100
"""Rows over which the variance of the noise is averaged at least."""
LEVEL_ROWS = 20
"""Rows around a row whose mean share stands for its level."""
BLOCK_ROWS = 10
"""Rows per block for the noise around the level."""


class Noise(NamedTuple):
    """The noise of layers: how far a row's shares lie from what is known about it.

    ``size_SXE`` the distance of each row, measured or expected (NaN where unknown). The variance of the mean over
    ``rows`` rows is ``of_mean(means, rows)``: of the mean of each of ``terms`` over those rows, at least `NOISE_ROWS`.
    """

    size_SXE: FloatArray
    terms: tuple[FloatArray, ...]
    of_mean: Callable[[Sequence[FloatArray], int], FloatArray]

    def of_rows(self, rows: slice) -> Noise:
        """Return that of some of the rows."""
        return Noise(self.size_SXE[rows], tuple(term[rows] for term in self.terms), self.of_mean)


def _independent(means: Sequence[FloatArray], rows: int) -> FloatArray:
    return means[0] / rows


def batch_noise(load_SXE: IntArray, half_SXE: IntArray) -> Noise:
    """Return the noise between a step's shares and its routing probabilities, from the shares a, b of its two halves.

    (a - b) sqrt(A B) / (A + B), with A and B the halves' loads ((a - b) / 2 for equal halves), has the variance of
    the whole batch's share around the step's probability, whatever its distribution, if sequences are independent.
    Steps are independent given their probabilities, so the variance of a mean over n rows is the mean of v_e over n.
    """
    other_SXE = load_SXE - half_SXE
    a, b = half_SXE.sum(axis=-1, dtype=np.float64), other_SXE.sum(axis=-1, dtype=np.float64)
    weight_SX = np.zeros(a.shape)
    np.divide(np.sqrt(a * b), a + b, out=weight_SX, where=a + b > 0)
    deviation_SXE = (shares(half_SXE) - shares(other_SXE)) * weight_SX[..., None]
    return Noise(np.abs(deviation_SXE), (deviation_SXE**2,), _independent)


def level_noise(share_SXE: FloatArray) -> Noise:
    """Return the noise of rows, and of means of rows, around a level that moves slowly.

    g(n) = n * variance of a mean over n rows: g(1) is the variance of rows in blocks of b = BLOCK_ROWS around the
    block's mean, g(b) is b times the mean squared second difference of block means / 6 (a slow drift cancels), and
    g(n) = g(b) for longer means; between them g is linear in 1 / n, as it is for short-lived autocorrelation. A block
    is the mean of its c rows with load, and 6 / b, by which b * bend is divided, is 1 / c_0 + 4 / c_1 + 1 / c_2.
    """
    b = BLOCK_ROWS
    S, *rest = share_SXE.shape
    N = S // b
    deviation_SXE, long_run = np.full((2, S, *rest), np.nan)
    if N < 3:
        return Noise(deviation_SXE, (deviation_SXE, long_run), _between)
    block_NbXE = share_SXE[: N * b].reshape(N, b, *rest)
    valid_NbX: BoolArray = np.asarray(np.isfinite(np.einsum("...e->...", block_NbXE)))
    count_NX = valid_NbX.sum(axis=1)
    count_NX1 = np.where(count_NX > 0, count_NX, np.nan)[..., None]
    filled_NbXE = block_NbXE if valid_NbX.all() else np.where(valid_NbX[..., None], block_NbXE, 0.0)
    mean_NXE = filled_NbXE.sum(axis=1) / count_NX1
    widen_NX = np.sqrt(count_NX / np.where(count_NX > 1, count_NX - 1, np.nan))
    of_block_NbXE = deviation_SXE[: N * b].reshape(N, b, *rest)
    np.subtract(block_NbXE, mean_NXE[:, None], out=of_block_NbXE)
    of_block_NbXE *= widen_NX[:, None, ..., None]
    weight_NX1 = 1.0 / count_NX1[2:] + 4.0 / count_NX1[1:-1] + 1.0 / count_NX1[:-2]
    bend_NXE = (mean_NXE[2:] - 2.0 * mean_NXE[1:-1] + mean_NXE[:-2]) ** 2 / weight_NX1
    long_run[b : b + (N - 2) * b].reshape(N - 2, b, *rest)[:] = bend_NXE[:, None]
    return Noise(np.abs(deviation_SXE), (deviation_SXE**2, long_run), _between)


def _between(means: Sequence[FloatArray], rows: int) -> FloatArray:
    """Return g(rows) / rows, from the means of g(1) and of g(b)."""
    b = BLOCK_ROWS
    g_1, g_b = means
    short = max(0.0, (1.0 / rows - 1.0 / b) / (1.0 - 1.0 / b))
    return (g_b + (g_1 - g_b) * short) / rows


def sampling_noise(level_SXE: FloatArray, total_SX: IntArray, top_k_X: Array) -> Noise:
    """Return the noise of top-k draws around known shares; unknown in rows without load."""
    total_SX1 = np.where(total_SX > 0, total_SX, np.nan)[..., None]
    variance_SXE = sampling_variance(level_SXE, total_SX1, top_k_X[..., None])
    return Noise(MEAN_ABS_NORMAL * np.sqrt(variance_SXE), (variance_SXE,), _independent)


def sampling_variance(share: FloatArray, total: Array, top_k: Array | int) -> FloatArray:
    """Return v = p (1 - k p) / (k T), a share's variance under k draws without replacement for each of T tokens.

    ``total`` = k T, the loads' sum. An expert gets each token at most once, so its count is binomial with k p.
    """
    return np.asarray(share * np.maximum(1.0 - top_k * share, 0.0) / total)


def sampling_error(experts: int, tokens: int, top_k: int, steps: int = 1) -> float:
    """Return expected |p_hat - p| / p of an oracle, equal shares: sqrt(2 / pi) sqrt(p (1 - k p) / (k T steps)) / p.

    What draws alone leave of a per-step error (or of that of a mean over ``steps``) when a step has ``tokens`` tokens.
    """
    p = 1.0 / experts
    variance = float(sampling_variance(np.array(p), np.array(top_k * tokens), top_k))
    return MEAN_ABS_NORMAL * float(np.sqrt(variance / steps)) / p


def relative_noise(spread: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return expected |x - p| / x of an observed share x > 0, and how likely x > 0 is, at noise of sd ``spread`` * p.

    x / p is taken as m-th of a Poisson count with mean m = 1 / spread^2: exact for rare draws, and it has the skewness
    that keeps over-dispersed shares away from 0. NaN stays NaN.
    """
    grid, error, seen = _relative_table()
    clipped = np.minimum(spread, grid[-1])
    return np.interp(clipped, grid, error), np.interp(clipped, grid, seen)


@functools.cache
def _relative_table() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return `relative_noise` at spreads from 0 to 5; below 0.05 the first terms of its series are exact to 1e-4."""
    grid = np.concatenate([[0.0], np.linspace(0.05, 1.0, 96), np.linspace(1.05, 5.0, 80)])
    error, seen = np.zeros(len(grid)), np.ones(len(grid))
    for i, spread in enumerate(grid[1:], start=1):
        mean = 1.0 / spread**2
        count = np.arange(1, int(mean + 12.0 * np.sqrt(mean) + 20))
        chance = np.exp(count * np.log(mean) - mean - np.cumsum(np.log(count)))
        seen[i] = -np.expm1(-mean)
        error[i] = (chance * np.abs(count - mean) / count).sum() / seen[i]
    return grid, error, seen


SHORT_ROW = 128
"""Values in a row below which `numpy.cumsum` is faster than adding row by row."""


class Running:
    """Running totals of rows that come part by part; rows that are NaN throughout are left out.

    ``total_SXE`` and ``count_SX`` are those before each row of the last part and after it, ``first`` that part's first
    row.
    """

    def __init__(self) -> None:
        self.first = self.rows = 0
        self.total_SXE: FloatArray = np.zeros(1)
        self.count_SX: IntArray = np.zeros(1, dtype=np.int64)

    def add(self, values_SXE: FloatArray) -> None:
        """Go on with the rows that follow."""
        valid_SX: BoolArray = np.asarray(np.isfinite(np.einsum("...e->...", values_SXE)))
        total_SXE = np.empty((len(values_SXE) + 1, *values_SXE.shape[1:]))
        total_SXE[0] = self.total_SXE[-1]
        total_SXE[1:] = values_SXE
        if not valid_SX.all():
            total_SXE[1:][~valid_SX] = 0.0
        if total_SXE[0].size < SHORT_ROW:
            np.cumsum(total_SXE, axis=0, out=total_SXE)
        else:  # of long rows `cumsum` takes twice to four times as long; the sums are the same
            for before, row in itertools.pairwise(total_SXE):
                np.add(before, row, out=row)
        count_SX = np.zeros((len(valid_SX) + 1, *valid_SX.shape[1:]), dtype=np.int64)
        np.cumsum(valid_SX, axis=0, out=count_SX[1:])
        self.first, self.rows = self.rows, self.rows + len(values_SXE)
        self.total_SXE, self.count_SX = total_SXE, count_SX + self.count_SX[-1]


class WindowMeans:
    """Means over windows of ``rows`` rows from each first row, moved to lie inside the ``steps`` rows of a trace."""

    def __init__(self, first_W: IntArray, rows: int, steps: int) -> None:
        self._rows = min(rows, steps)
        start_W = np.clip(first_W, 0, steps - self._rows)
        self._order = np.argsort(start_W, kind="stable")
        self._start_W = start_W[self._order]
        self._held: list[tuple[FloatArray, IntArray]] = []

    def ended(self, series: Sequence[Running], place: tuple[int, ...] = ()) -> tuple[IntArray, list[FloatArray]]:
        """Return which windows end in the last part of all the series, and of each series their means [W, ..., E].

        ``place``: which one these windows are of, in the axes between rows and experts.
        """
        first, stop = series[0].first, series[0].rows
        opens = slice(*np.searchsorted(self._start_W, [first, stop]))
        ends = slice(*np.searchsorted(self._start_W, [first - self._rows + 1, stop - self._rows + 1]))
        start_W, stop_W = self._start_W[opens] - first, self._start_W[ends] + self._rows - first
        pending, self._held, means, w = self._held, [], [], len(stop_W)
        for n, totals in enumerate(series):
            total, count = totals.total_SXE[(start_W, *place)], totals.count_SX[(start_W, *place)]
            if pending:
                total, count = np.concatenate([pending[n][0], total]), np.concatenate([pending[n][1], count])
            size = (totals.count_SX[(stop_W, *place)] - count[:w])[..., None]
            out = ratio_of(totals.total_SXE[(stop_W, *place)] - total[:w], size)
            means.append(np.maximum(out, 0.0, out=out))
            self._held.append((total[w:], count[w:]))
        return self._order[ends], means


def level_of(share_SXE: FloatArray) -> FloatArray:
    """Return the mean share of the `LEVEL_ROWS` rows around each row, of the first or last ones at the ends."""
    S, running = len(share_SXE), Running()
    running.add(share_SXE)
    rows = min(LEVEL_ROWS, S)
    count_WX = running.count_SX[rows:] - running.count_SX[:-rows]
    level_WXE = running.total_SXE[rows:] - running.total_SXE[:-rows]
    level_WXE /= np.where(count_WX > 0, count_WX, np.nan)[..., None]
    np.maximum(level_WXE, 0.0, out=level_WXE)
    return np.asarray(level_WXE[np.clip(np.arange(S) - LEVEL_ROWS // 2, 0, S - rows)])


def window_means(values_SXE: FloatArray, first_W: IntArray, rows: int) -> FloatArray:
    """Return means of rows that are all there over ``rows`` of them from each first row; [W, ..., E]."""
    running = Running()
    running.add(values_SXE)
    at_W, (mean_WXE,) = WindowMeans(first_W, rows, len(values_SXE)).ended([running])
    out = np.empty_like(mean_WXE)
    out[at_W] = mean_WXE
    return out
