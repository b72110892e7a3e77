"""`floor_fork`: the error that is left to a forecaster that knows the weights, the past and the plan of a training.

Several futures are recorded of one past (`moeload-bench record --fork`). They differ only in the order of the text, so
no forecaster can know which of them comes.

Axis letters: J futures, K horizons, S rows, L MoE layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.traces.means import mean_over
from moeload_bench.traces.trace import shares


def horizon_means(load_SLE: IntArray, horizons_K: Sequence[int]) -> FloatArray:
    """Return the mean share over the first steps of each horizon [K, L, E]; steps without load are left out."""
    share_SLE = shares(load_SLE)
    return np.stack([mean_over(share_SLE[:horizon], axis=0) for horizon in horizons_K])


def share_distance(share_LE: FloatArray, other_LE: FloatArray) -> FloatArray:
    """Return the total variation of shares [..., L, E], as a mean over the layers that have load in both."""
    return np.asarray(mean_over(0.5 * np.abs(share_LE - other_LE).sum(axis=-1), axis=-1))


def floor_fork(future_JKLE: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return `window_tv` that is left to a forecaster that knows the whole state of training [K], and its error [K].

    With x_j the mean shares of future j over the horizon (`horizon_means`), averaged over layers:

        floor_fork = mean over pairs i < j of 0.5 sum_E |x_i - x_j| / sqrt(2)

    Two futures differ by sqrt(2) times as much as one differs from their common centre where differences are normal.
    The batch noise of the window is in it. The error is the jackknife's over futures (Efron and Stein 1981), for this
    past; NaN for fewer than 3 futures.
    """
    J = len(future_JKLE)
    pair_JJK = np.stack([share_distance(future_JKLE, future) for future in future_JKLE])
    total_K = pair_JJK.sum(axis=(0, 1))
    floor_K = total_K / (J * (J - 1)) / math.sqrt(2)
    if J < 3:
        return floor_K, np.full_like(floor_K, np.nan)
    without_JK = (total_K - 2 * pair_JJK.sum(axis=1)) / ((J - 1) * (J - 2)) / math.sqrt(2)
    error_K = np.sqrt((J - 1) / J * ((without_JK - without_JK.mean(axis=0)) ** 2).sum(axis=0))
    return floor_K, error_K
