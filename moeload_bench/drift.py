"""How far the shares of a layer move between neighbouring windows, without what batch noise alone would move.

The maths behind the state labels (docs/states.md). Everything is computed from blocks of a few rows, so that the
batch function and the online detector run the same code on the same numbers.

Axis letters: S rows, N blocks, L MoE layers, E experts, G grid points (one after every block).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

MEAN_ABS_NORMAL = float(np.sqrt(2.0 / np.pi))
"""Mean absolute value of a standard normal variable."""


class Grid(NamedTuple):
    """A rule in rows and blocks of a trace with some stride."""

    rows: int
    window: int
    hold: int
    has_short: bool


class Blocks(NamedTuple):
    """Summaries of consecutive blocks of rows: mean share and step noise, NaN where a layer has too little load.

    ``noise_NLE`` is the mean squared second difference of the rows inside the block, divided by 6: the variance of
    one row's batch noise if that is white. NaN throughout for blocks of fewer than 3 rows.
    """

    mean_NLE: FloatArray
    noise_NLE: FloatArray


def summarise(share_SLE: FloatArray, rows: int) -> Blocks:
    """Summaries of the whole blocks of ``rows`` rows; a last part of a block is left out.

    Rows without load (NaN) are left out of the means; a layer with load in fewer than half of a block's rows, or
    without three such rows in a row, is NaN in that block.
    """
    S, L, E = share_SLE.shape
    N = S // rows
    share = share_SLE[: N * rows].reshape(N, rows, L, E)
    valid = np.isfinite(share[..., 0])
    count_NL = valid.sum(axis=1)
    mean = _mean(np.where(valid[..., None], share, 0.0).sum(axis=1), count_NL, at_least=(rows + 1) // 2)
    if rows < 3:
        return Blocks(mean, np.full(mean.shape, np.nan))
    bend = share[:, 2:] - 2.0 * share[:, 1:-1] + share[:, :-2]
    whole = np.isfinite(bend[..., 0])
    square = np.where(whole[..., None], bend * bend, 0.0).sum(axis=1) / 6.0
    return Blocks(mean, _mean(square, whole.sum(axis=1), at_least=1))


def long_drift(blocks: Blocks, window: int) -> FloatArray:
    """D_w: drift between the last ``window`` blocks and as many before them, at every grid point; [G, L].

    G = N + 1; grid point g has seen blocks 0 .. g-1 and is NaN while 2 * window blocks have not been seen.
    """
    mean = blocks.mean_NLE
    N, L, _ = mean.shape
    out = np.full((N + 1, L), np.nan)
    span = 2 * window
    if span > N:
        return out
    last = _rolling_sum(mean[window:], window) / window
    before = _rolling_sum(mean[:-window], window) / window
    moved_GL = 0.5 * np.abs(last - before).sum(axis=2)
    bend = mean[2:] - 2.0 * mean[1:-1] + mean[:-2]
    noise = _rolling_sum(bend * bend, span - 2) / (6.0 * (span - 2))
    expected_GL = expected_move(noise, window)
    out[span:] = _excess(moved_GL * moved_GL - expected_GL * expected_GL)
    return out


def short_drift(blocks: Blocks, rows: int, over: int) -> FloatArray:
    """R: root mean square over the last ``over`` pairs of the drift between neighbouring blocks; [G, L].

    The noise's share is taken off the mean of the squares, not off each square, so that it cannot be cut off at 0
    pair by pair; NaN while ``over`` + 1 blocks have not been seen.
    """
    mean, noise_NLE = blocks
    N, L, _ = mean.shape
    out = np.full((N + 1, L), np.nan)
    if over + 1 > N:
        return out
    moved_NL = 0.5 * np.abs(np.diff(mean, axis=0)).sum(axis=2)
    noise = _rolling_sum(noise_NLE, over + 1) / (over + 1)
    expected_GL = expected_move(noise, rows)
    square_GL = _rolling_sum(moved_NL * moved_NL, over) / over
    out[over + 1 :] = _excess(square_GL - expected_GL * expected_GL)
    return out


def expected_move(noise_GLE: FloatArray, count: int) -> FloatArray:
    """T0: expected half L1 distance between two means of ``count`` independent values of that variance; [G, L]."""
    return np.asarray(0.5 * MEAN_ABS_NORMAL * np.sqrt(2.0 * noise_GLE / count).sum(axis=2))


def drift(blocks: Blocks, grid: Grid) -> FloatArray:
    """X at every grid point; [G, L]."""
    long_GL = long_drift(blocks, grid.window)
    if not grid.has_short:
        return long_GL
    return np.asarray(np.maximum(long_GL, 0.5 * short_drift(blocks, grid.rows, grid.window)))


def run_hysteresis(drift_GL: FloatArray, low: float, high: float, hold: int) -> BoolArray:
    """Labels at every grid point from the drift at every grid point; [G, L], True for transient."""
    G, L = drift_GL.shape
    state_GL = np.ones((G, L), dtype=np.bool_)
    transient_L, calm_L = np.ones(L, dtype=np.bool_), np.zeros(L, dtype=np.int64)
    for g in range(G):
        transient_L, calm_L = hysteresis_step(transient_L, calm_L, drift_GL[g], low, high, hold)
        state_GL[g] = transient_L
    return state_GL


def hysteresis_step(
    transient_L: BoolArray, calm_L: NDArray[np.int64], drift_L: FloatArray, low: float, high: float, hold: int
) -> tuple[BoolArray, NDArray[np.int64]]:
    """One check: the new labels and for how many checks in a row the drift has been low. NaN counts as high."""
    calm_L = np.where(drift_L <= low, calm_L + 1, 0)
    leave = ~(drift_L <= high)
    return np.where(transient_L, calm_L <= hold, leave), calm_L


def first_stable(transient_SL: BoolArray) -> NDArray[np.int64]:
    """First row that is not transient, -1 where there is none; [L]."""
    stable = ~transient_SL
    return np.where(stable.any(axis=0), stable.argmax(axis=0), -1).astype(np.int64)


def _rolling_sum(values: FloatArray, width: int) -> FloatArray:
    """Sums of ``width`` neighbours along the first axis, added in one order whatever the length: no running total."""
    stop = values.shape[0] - width + 1
    total = values[:stop].copy()
    for shift in range(1, width):
        total += values[shift : shift + stop]
    return total


def _excess(square: FloatArray) -> FloatArray:
    return np.sqrt(np.where(square > 0, square, np.where(np.isnan(square), np.nan, 0.0)))


def _mean(total_NLE: FloatArray, count_NL: NDArray[np.int64], at_least: int) -> FloatArray:
    out = np.full(total_NLE.shape, np.nan)
    count = count_NL[..., None]
    np.divide(total_NLE, count, out=out, where=np.broadcast_to(count >= at_least, out.shape))
    return out
