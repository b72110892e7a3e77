"""The metrics written out over whole windows: what `moeload_bench.scoring.scores` must give, however it computes it.

Axis letters: H rows of the window, L MoE layers, E experts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeload_bench.arrays import FloatArray
from moeload_bench.scoring.metrics import relative_error, total_variation, valid_rows
from moeload_bench.traces.means import ratio_of


def window_tv(forecast_HLE: FloatArray, share_HLE: FloatArray) -> FloatArray:
    """0.5 * sum_E |mean_H p_hat - mean_H p|: the fraction of the window's tokens planned for the wrong expert; [L]."""
    forecast_LE, share_LE = window_means(forecast_HLE, share_HLE)
    return total_variation(forecast_LE, share_LE)


def tv(forecast_HLE: FloatArray, share_HLE: FloatArray) -> FloatArray:
    """Mean over steps of 0.5 * sum_E |p_hat - p|; [L]. The noise of single batches is in it."""
    distance_HL = 0.5 * np.abs(forecast_HLE - share_HLE).sum(axis=2)
    return _mean_where(distance_HL, np.isfinite(distance_HL))


def error_rate(forecast_HLE: FloatArray, share_HLE: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean of |p_hat - p| / p over the (step, expert) cells where p > 0, and the fraction of valid cells these are.

    Two arrays [L]. This is a reading of the founding paper's "error ratio" (arXiv 2404.16914 gives no formula).
    A layer whose cells are all zero or invalid scores NaN.
    """
    counted = np.nan_to_num(share_HLE) > 0
    ratio = np.zeros(share_HLE.shape)
    np.divide(np.abs(forecast_HLE - share_HLE), share_HLE, out=ratio, where=counted)
    cells_L = counted.sum(axis=(0, 2)).astype(np.float64)
    valid_L = np.isfinite(share_HLE).sum(axis=(0, 2)).astype(np.float64)
    return ratio_of(ratio.sum(axis=(0, 2)), cells_L), ratio_of(cells_L, valid_L)


def error_rate_uniform(forecast_HLE: FloatArray, share_HLE: FloatArray) -> FloatArray:
    """Mean over steps and experts of |p_hat - p| / (1/E); [L]. Equal to 2 * tv: E cancels."""
    return 2.0 * tv(forecast_HLE, share_HLE)


def window_error_rate(forecast_HLE: FloatArray, share_HLE: FloatArray) -> FloatArray:
    """Mean over experts with a window-mean share above 0 of |mean_H p_hat - mean_H p| / mean_H p; [L]."""
    return relative_error(*window_means(forecast_HLE, share_HLE))


def window_means(forecast_HLE: FloatArray, share_HLE: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Means over the valid steps of the window: forecast and truth, each [L, E]."""
    valid_HL = valid_rows(share_HLE)
    forecast = np.broadcast_to(forecast_HLE, share_HLE.shape)
    count_L1 = valid_HL.sum(axis=0)[:, None].astype(np.float64)
    weight = valid_HL[..., None]
    return (
        ratio_of(np.where(weight, forecast, 0.0).sum(axis=0), count_L1),
        ratio_of(np.where(weight, share_HLE, 0.0).sum(axis=0), count_L1),
    )


def _mean_where(value_HL: FloatArray, valid_HL: NDArray[np.bool_]) -> FloatArray:
    return ratio_of(np.where(valid_HL, value_HL, 0.0).sum(axis=0), valid_HL.sum(axis=0).astype(np.float64))
