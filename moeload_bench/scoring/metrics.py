"""How wrong a forecast of shares is: pure array functions, one value per MoE layer.

``forecast_LE`` and the true ``share_LE`` are means over a window, which `moeload_bench.scoring.window` makes without
the steps that have no load. They sum to 1 over E; a layer without load in the whole window has share NaN throughout and
scores NaN. Nothing here averages over layers.

Axis letters: H horizon rows, L MoE layers, E experts, Q quantiles.
"""

from __future__ import annotations

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray
from moeload_bench.errors import SuiteError
from moeload_bench.traces.means import ratio_of

HOT_FRACTION = 4
"""One expert in four counts as hot: ``hot_recall`` is taken at k = max(1, E // 4)."""
DEAD_SHARE = 0.1
"""An expert below this fraction of the even share 1/E is dead."""
REVIVED_SHARE = 0.2
"""A dead expert is revived when its window-mean share reaches this fraction of 1/E."""


def hot_recall(forecast_LE: FloatArray, share_LE: FloatArray, k: int) -> FloatArray:
    """Return the expected fraction of the k truly most loaded experts that are among the forecast's k; [L].

    Both are window means. Ties are broken at random and the expectation is taken, so a uniform forecast scores k / E.
    Raises `SuiteError` for k < 1.
    """
    if k < 1:
        raise SuiteError(f"hot_recall needs at least 1 expert to name, got k = {k}")
    both_LE = _in_top(forecast_LE, k) * _in_top(share_LE, k)
    return np.asarray(both_LE.sum(axis=-1) / k)


def rank_correlation(forecast_LE: FloatArray, share_LE: FloatArray) -> FloatArray:
    """Return Spearman's rank correlation over experts of the window means, ties at their average rank; [L].

    0 when the forecast gives every expert the same share; NaN when the truth does (nothing to rank).
    """
    a, b = _average_ranks(forecast_LE), _average_ranks(share_LE)
    a -= a.mean(axis=-1, keepdims=True)
    b -= b.mean(axis=-1, keepdims=True)
    var_a, var_b = (a * a).sum(axis=-1), (b * b).sum(axis=-1)
    out = np.zeros(var_a.shape)
    np.divide((a * b).sum(axis=-1), np.sqrt(var_a * var_b), out=out, where=(var_a > 0) & (var_b > 0))
    out[(var_b == 0) | ~np.isfinite(share_LE).all(axis=-1)] = np.nan
    return out


def revival_recall(forecast_LE: FloatArray, share_LE: FloatArray, last_share_LE: FloatArray) -> FloatArray:
    """Return the fraction of reviving experts' tokens that the forecast provided for; [L], NaN where none revives.

    An expert revives when its share before the origin, ``last_share_LE``, is below DEAD_SHARE / E and its true
    window-mean share is at least REVIVED_SHARE / E. The score is sum min(p_hat, p) / sum p over those experts.
    Recall alone rewards spreading: read it beside ``window_tv``.
    """
    E = share_LE.shape[-1]
    finite = np.isfinite(last_share_LE) & np.isfinite(share_LE)
    revived = finite & (np.nan_to_num(last_share_LE) < DEAD_SHARE / E) & (np.nan_to_num(share_LE) >= REVIVED_SHARE / E)
    truth = np.where(revived, share_LE, 0.0)
    provided = np.where(revived, np.minimum(forecast_LE, share_LE), 0.0)
    return ratio_of(provided.sum(axis=-1), truth.sum(axis=-1))


def wql(quantile_QLE: FloatArray, share_LE: FloatArray, levels: tuple[float, ...]) -> FloatArray:
    """Return the weighted quantile loss of window-mean shares; [L].

    Mean over levels q of 2 * sum_E max(q (p - z), (q - 1) (p - z)) / sum_E p, with z the forecast quantile; shares sum
    to 1. A point forecast read as all its quantiles scores 2 * window_tv when the levels are symmetric about 1/2.
    """
    level_Q = np.asarray(levels, dtype=np.float64)[:, None, None]
    miss = share_LE[None] - quantile_QLE
    loss_QL = 2.0 * np.maximum(level_Q * miss, (level_Q - 1.0) * miss).sum(axis=2)
    return np.asarray(loss_QL.mean(axis=0))


def coverage(quantile_QLE: FloatArray, share_LE: FloatArray, levels: tuple[float, ...]) -> FloatArray:
    """Return the fraction of experts whose window-mean share lies between the lowest and the highest quantile; [L].

    Compare with the nominal value, the difference of those two levels. A single level makes no interval: NaN.
    """
    if len(levels) < 2:
        return np.full(share_LE.shape[0], np.nan)
    inside = (quantile_QLE[0] <= share_LE) & (share_LE <= quantile_QLE[-1])
    return np.where(np.isfinite(share_LE).all(axis=-1), inside.mean(axis=-1), np.nan)


def total_variation(forecast_LE: FloatArray, share_LE: FloatArray) -> FloatArray:
    """Return 0.5 * sum_E |p_hat - p|; [L]."""
    return np.asarray(0.5 * np.abs(forecast_LE - share_LE).sum(axis=-1))


def relative_error(forecast_LE: FloatArray, share_LE: FloatArray) -> FloatArray:
    """Return the mean over experts with p > 0 of |p_hat - p| / p; [L]."""
    counted = np.nan_to_num(share_LE) > 0
    relative = np.zeros(share_LE.shape)
    np.divide(np.abs(forecast_LE - share_LE), share_LE, out=relative, where=counted)
    return ratio_of(relative.sum(axis=-1), counted.sum(axis=-1).astype(np.float64))


def valid_rows(share_HLE: FloatArray) -> BoolArray:
    """Return which layer-steps have load; [H, L]."""
    return np.asarray(np.isfinite(share_HLE).all(axis=2))


def hot_k(num_experts: int) -> int:
    """Return the k of ``hot_recall`` for a layer of so many experts."""
    return max(1, num_experts // HOT_FRACTION)


def _in_top(values_LE: FloatArray, k: int) -> FloatArray:
    """Return the probability of each expert to be among the k largest, ties broken at random; NaN rows stay NaN."""
    k = min(k, values_LE.shape[-1])
    kth = np.sort(values_LE, axis=-1)[..., -k][..., None]
    above, tied = values_LE > kth, values_LE == kth
    room = k - above.sum(axis=-1, keepdims=True)
    out = np.where(above, 1.0, np.where(tied, ratio_of(room, tied.sum(axis=-1, keepdims=True)), 0.0))
    return np.where(np.isfinite(values_LE), out, np.nan)


def _average_ranks(values_LE: FloatArray) -> FloatArray:
    """Return ranks along E from 1, ties at their average: half of (values below + values not above + 1).

    As `scipy.stats.rankdata` gives them (a test compares); to import scipy.stats takes longer than to score a run.
    """
    ordered = np.sort(values_LE, axis=-1)
    out = np.empty(values_LE.shape)
    for row in np.ndindex(values_LE.shape[:-1]):
        below = np.searchsorted(ordered[row], values_LE[row], side="left")
        through = np.searchsorted(ordered[row], values_LE[row], side="right")
        out[row] = 0.5 * (below + through + 1)
    return out
