"""How far the shares of a layer move, at several time scales, less what sampling noise alone would move.

This is the maths behind the state labels (docs/methods/states.md). Everything is computed from summaries of blocks of a
few rows, so that the batch function and the online detector run the same code on the same numbers.
Axis letters: S rows, N blocks, M time scales, L MoE layers, E experts, G grid points (one before each block, one after
the last).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import Array, BoolArray, FloatArray, IntArray
from moeload_bench.errors import TraceError
from moeload_bench.traces.means import mean_over
from moeload_bench.traces.streaming import parts
from moeload_bench.traces.trace import shares

SLIDING_CHUNK = 256
"""Rows of sliding statistics that are processed at once."""


CELLS_AT_ONCE = 1 << 20
"""Shares (rows x layers x experts) that are summarised at once, in whole blocks: this bounds the memory."""
BLOCKS_AT_ONCE = 4
"""Blocks of a trace that are looked at together, in spans of the two windows that are compared."""


class Grid(NamedTuple):
    """A rule in rows and blocks of a trace with some stride.

    ``rows`` per block; ``window`` and ``hold`` in blocks; ``scales_M`` in rows, each dividing ``rows``; ``has_short``:
    whether the short scales decide too, or only measure the noise.
    """

    rows: int
    window: int
    hold: int
    scales_M: tuple[int, ...]
    has_short: bool
    margin: float


class Blocks(NamedTuple):
    """Summaries of consecutive blocks; NaN where a layer has load in fewer than half of the rows.

    ``mean_NLE``: the mean share. ``square_NML``: the mean of T^2 over the pairs of neighbouring m-row means whose
    second member lies in the block; T is half the L1 distance between the two.
    """

    mean_NLE: FloatArray
    square_NML: FloatArray


def summarise(load_SLE: Array, grid: Grid, first: int = 0, stop: int | None = None) -> Blocks:
    """Summarise blocks first .. stop-1 of a trace from its counts; all whole ones by default."""
    rows = grid.rows
    stop = load_SLE.shape[0] // rows if stop is None else stop
    lead = (
        shares(load_SLE[(first - 1) * rows : first * rows]) if first else np.full((rows, *load_SLE.shape[1:]), np.nan)
    )
    blocks = []
    for part in parts((stop - first, rows, *load_SLE.shape[1:]), cells=CELLS_AT_ONCE):
        share_SLE = shares(load_SLE[(first + part.start) * rows : (first + part.stop) * rows])
        blocks.append(summarise_shares(share_SLE, lead, grid))
        lead = share_SLE[-rows:]
    if not blocks:
        L, E = load_SLE.shape[1:]
        return Blocks(np.empty((0, L, E)), np.empty((0, len(grid.scales_M), L)))
    return Blocks(*(np.concatenate(part) for part in zip(*blocks, strict=True)))


def trace_drift(load_SLE: Array, grid: Grid) -> FloatArray:
    """Return X at every grid point of a trace, from its counts; [G, L]. Memory does not grow with its length."""
    N, span = load_SLE.shape[0] // grid.rows, 2 * grid.window
    blocks = summarise(load_SLE, grid, 0, 0)
    drifts = [drift(blocks, grid)]
    for first in range(0, N, BLOCKS_AT_ONCE * span):
        new = summarise(load_SLE, grid, first, min(first + BLOCKS_AT_ONCE * span, N))
        blocks = Blocks(*(np.concatenate([old[-span:], more]) for old, more in zip(blocks, new, strict=True)))
        drifts.append(drift(blocks, grid)[-len(new.mean_NLE) :])
    return np.concatenate(drifts)


def summarise_shares(share_SLE: FloatArray, lead_SLE: FloatArray, grid: Grid) -> Blocks:
    """Summarise whole blocks of shares; ``lead_SLE`` is the block before them, all NaN for the first."""
    N = share_SLE.shape[0] // grid.rows
    led = np.concatenate([lead_SLE, share_SLE])
    squares = []
    for m in grid.scales_M:
        mean = row_means(led, m)[grid.rows // m - 1 :]
        square = (0.5 * np.abs(mean[1:] - mean[:-1]).sum(axis=2)) ** 2
        squares.append(mean_over(square.reshape(N, grid.rows // m, -1), axis=1))  # over the pairs that are known
    return Blocks(row_means(share_SLE, grid.rows), np.stack(squares, axis=1))


def row_means(share_SLE: FloatArray, rows: int) -> FloatArray:
    """Return means of ``rows`` consecutive rows over those with load; NaN if fewer than half of them have load."""
    S, L, E = share_SLE.shape
    part = share_SLE.reshape(S // rows, rows, L, E)
    valid = np.isfinite(part[..., 0])
    if valid.all():
        return np.asarray(part.sum(axis=1) / rows)
    count = valid.sum(axis=1)[..., None]
    total = np.where(valid[..., None], part, 0.0).sum(axis=1)
    out = np.full(total.shape, np.nan)
    np.divide(total, count, out=out, where=np.broadcast_to(2 * count >= rows, out.shape))
    return out


def drift(blocks: Blocks, grid: Grid) -> FloatArray:
    """Return X at every grid point, in fractions of a layer's tokens; [G, L], NaN until two windows have been seen.

    T_m^2 is the mean square, over the last two windows, of the move between neighbouring m-row means. White noise moves
    them by N / sqrt(m), so N^2 = min_m m T_m^2 is the most noise that every scale allows, and D_m^2 = T_m^2 - margin
    N^2 / m (at least 0) is real movement. X = max(D_w, max_m D_m / 2), where D_w is that between the last two windows.
    """
    mean, square_NML = blocks
    N, L, _ = mean.shape
    out = np.full((N + 1, L), np.nan)
    span = 2 * grid.window
    if span > N:
        return out
    scale_M1 = np.array(grid.scales_M, dtype=np.float64)[:, None]
    moved_GML = rolling_sum(square_NML[1:], span - 1) / (span - 1)
    noise_GL = (scale_M1 * moved_GML).min(axis=1)
    squared_GL = _moved(mean, grid.window) ** 2 - grid.margin * noise_GL / (grid.window * grid.rows)
    if grid.has_short:
        short_GL = (moved_GML - grid.margin * noise_GL[:, None] / scale_M1).max(axis=1)
        squared_GL = np.maximum(squared_GL, 0.25 * short_GL)
    out[span:] = np.sqrt(np.maximum(squared_GL, 0.0))
    return out


def _moved(mean_NLE: FloatArray, window: int) -> FloatArray:
    """Return half the L1 distance between neighbouring means of ``window`` blocks, at every point between two; [G, L].

    A few points are worked on at once: this bounds the memory.
    """
    N, L, E = mean_NLE.shape
    points, at_once = N - 2 * window + 1, max(window, CELLS_AT_ONCE // max(1, L * E))
    out = np.empty((points, L))
    for first in range(0, points, at_once):
        mean = rolling_sum(mean_NLE[first : first + at_once + 2 * window - 1], window) / window
        out[first : first + at_once] = 0.5 * np.abs(mean[window:] - mean[:-window]).sum(axis=2)
    return out


def rolling_sum(values: FloatArray, width: int) -> FloatArray:
    """Return sums of ``width`` neighbours along the first axis, each added up separately: a running total rounds."""
    stop = values.shape[0] - width + 1
    total = values[:stop].copy()
    for shift in range(1, width):
        total += values[shift : shift + stop]
    return total


def run_hysteresis(drift_GL: FloatArray, low: float | FloatArray, high: float | FloatArray, hold: int) -> BoolArray:
    """Return the label at every grid point from the drift at every grid point; [G, L], True for transient."""
    G, L = drift_GL.shape
    state_GL = np.ones((G, L), dtype=np.bool_)
    transient_L, calm_L = np.ones(L, dtype=np.bool_), np.zeros(L, dtype=np.int64)
    for g in range(G):
        transient_L, calm_L = hysteresis_step(transient_L, calm_L, drift_GL[g], low, high, hold)
        state_GL[g] = transient_L
    return state_GL


def hysteresis_step(
    transient_L: BoolArray,
    calm_L: IntArray,
    drift_L: FloatArray,
    low: float | FloatArray,
    high: float | FloatArray,
    hold: int,
) -> tuple[BoolArray, IntArray]:
    """Make one check: return the new labels, and how many checks in a row the drift was low. NaN counts as high."""
    calm_L = np.where(drift_L <= low, calm_L + 1, 0)
    leave = ~(drift_L <= high)
    return np.where(transient_L, calm_L <= hold, leave), calm_L


def first_stable(transient_SL: BoolArray) -> IntArray:
    """Return the first row that is not transient, -1 if there is none; [L]."""
    stable = ~transient_SL
    return np.where(stable.any(axis=0), stable.argmax(axis=0), -1).astype(np.int64)


def sliding_variance(share_SLE: FloatArray, window: int) -> FloatArray:
    """Return the variance of each expert's share over the ``window`` rows before each row; [S + 1, L, E], first ones
    NaN.

    The founding paper draws it for windows of 10 and 100 steps. Row t covers rows t - window .. t - 1.
    """
    return _sliding(share_SLE, window, lambda view: view.var(axis=-1))


def sliding_range(share_SLE: FloatArray, window: int) -> FloatArray:
    """Return largest minus smallest share over the ``window`` rows before each row; [S + 1, L, E], first ones NaN."""
    return _sliding(share_SLE, window, lambda view: view.max(axis=-1) - view.min(axis=-1))


def _sliding(share_SLE: FloatArray, window: int, statistic: Callable[[FloatArray], FloatArray]) -> FloatArray:
    S = share_SLE.shape[0]
    if window < 1:
        raise TraceError(f"a window holds at least 1 row, got {window}")
    out = np.full((S + 1, *share_SLE.shape[1:]), np.nan)
    for start in range(0, S - window + 1, SLIDING_CHUNK):
        part = share_SLE[start : min(start + SLIDING_CHUNK, S - window + 1) + window - 1]
        view = np.lib.stride_tricks.sliding_window_view(part, window, axis=0)
        out[start + window : start + window + len(view)] = statistic(view)
    return out
