"""Forecast and truth to scores: every metric, layer and horizon in one pass over the window.

Axis letters: H horizon rows, L MoE layers, E experts, K suite horizons, B blocks, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import ForecastError, SuiteError
from moeload_bench.forecaster import Forecast
from moeload_bench.scoring import metrics
from moeload_bench.scoring.catalogue import METRICS

SCORING_VERSION = 2
"""Raised whenever a score can change for the same forecast and truth."""

CELLS_PER_CHUNK = 1 << 17
"""Cells [rows, L, E] worked on at once: one megabyte per temporary array."""

FloatArray = NDArray[np.float64]


@dataclass
class _Sums:
    """What the metrics need, summed over the valid rows seen so far."""

    rows_L: FloatArray
    share_LE: FloatArray
    forecast_LE: FloatArray
    distance_L: FloatArray
    ratio_L: FloatArray
    cells_L: FloatArray

    @classmethod
    def zero(cls, L: int, E: int) -> _Sums:
        return cls(np.zeros(L), np.zeros((L, E)), np.zeros((L, E)), np.zeros(L), np.zeros(L), np.zeros(L))

    def add(self, forecast_CLE: FloatArray, share_CLE: FloatArray) -> None:
        """Take in rows; ``forecast_CLE`` may be [1, L, E]."""
        valid_CL = metrics.valid_rows(share_CLE)
        count_L = valid_CL.sum(axis=0).astype(np.float64)
        share = share_CLE if valid_CL.all() else np.where(valid_CL[..., None], share_CLE, 0.0)
        gap = np.abs(forecast_CLE - share)
        if share is not share_CLE:
            gap[~valid_CL] = 0.0
        self.rows_L += count_L
        self.share_LE += share.sum(axis=0)
        if forecast_CLE.shape[0] == 1:
            self.forecast_LE += forecast_CLE[0] * count_L[:, None]
        else:
            self.forecast_LE += np.where(valid_CL[..., None], forecast_CLE, 0.0).sum(axis=0)
        self.distance_L += gap.sum(axis=(0, 2))
        positive = share > 0
        np.divide(gap, share, out=gap, where=positive)
        gap[~positive] = 0.0
        self.ratio_L += gap.sum(axis=(0, 2))
        self.cells_L += positive.sum(axis=(0, 2))


def score_forecast(
    forecast: Forecast,
    share_HLE: FloatArray,
    horizons_K: Sequence[int],
    *,
    stride: int = 1,
    quantiles: tuple[float, ...] = (),
    last_share_LE: FloatArray | None = None,
) -> dict[str, FloatArray]:
    """Score one forecast at every horizon: metric name to [K, L], NaN where a layer has nothing to score.

    ``share_HLE`` are the true shares of the window's rows, the first at the origin, ``stride`` training steps apart
    (NaN throughout where a layer-step has no load); row i is in the window of horizon h when i * stride < h.
    ``horizons_K`` in training steps, rising. ``last_share_LE``: mean shares before the origin, for
    ``revival_recall``, which is left out without it. ``quantiles``: the levels of ``forecast.quantile_QKLE``; without
    quantiles in the forecast, ``wql`` and ``coverage`` are left out. Memory does not grow with the horizon.

    Raises `SuiteError` for a horizon that the stride does not divide or that the rows do not cover, `ForecastError` for
    a forecast that ends before the last horizon. The forecast itself is checked by `forecaster.check_forecast`.
    """
    rows_K = horizon_rows(horizons_K, stride, share_HLE.shape[0])
    if int(forecast.edges_B[-1]) < int(horizons_K[-1]):
        raise ForecastError(f"the forecast ends at {forecast.edges_B[-1]} steps, expected {horizons_K[-1]}")
    _, L, E = share_HLE.shape
    sums = _Sums.zero(L, E)
    scores: dict[str, list[FloatArray]] = {}
    start = 0
    for k, stop in enumerate(rows_K):
        _add_rows(sums, forecast, share_HLE, start, stop, stride)
        start = stop
        for name, value_L in _metrics(sums, forecast, k, quantiles, last_share_LE).items():
            scores.setdefault(name, []).append(value_L)
    return {name: np.stack(values) for name, values in scores.items()}


def horizon_rows(horizons_K: Sequence[int], stride: int, rows: int) -> tuple[int, ...]:
    """Rows of the window of each horizon; raises `SuiteError` for horizons that cannot be scored on these rows."""
    if len(horizons_K) == 0 or list(horizons_K) != sorted(set(horizons_K)) or horizons_K[0] < 1:
        raise SuiteError(f"horizons must rise from at least 1 step, got {tuple(horizons_K)}")
    for h in horizons_K:
        if h % stride:
            raise SuiteError(f"the stride of {stride} steps does not divide the horizon of {h} steps")
    if horizons_K[-1] > rows * stride:
        raise SuiteError(f"the horizon of {horizons_K[-1]} steps needs {horizons_K[-1] // stride} rows, got {rows}")
    return tuple(int(h) // stride for h in horizons_K)


def mean_over(values: Any, axis: int) -> Any:
    """Mean along an axis over the values that exist; NaN where none does, without a warning."""
    array = np.asarray(values, dtype=np.float64)
    exists = ~np.isnan(array)
    count = exists.sum(axis=axis)
    total = np.where(exists, array, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def failure_scores(uniform: Mapping[str, FloatArray], *, with_quantiles: bool = False) -> dict[str, FloatArray]:
    """The scores of a task whose forecast failed, from the scores of the uniform forecast on the same task; [K, L].

    ``window_tv`` is 1; a metric of which less is better gets twice uniform's value; one of which more is better gets
    its worst value. ``with_quantiles`` adds ``wql`` at twice uniform's (a point forecast, 2 * window_tv) and
    ``coverage`` 0. NaN stays NaN: what cannot be scored is not scored for anybody. Descriptions
    (``error_rate_covered``) are taken over.
    """
    out: dict[str, FloatArray] = {}
    if with_quantiles:
        uniform = {**uniform, "wql": 2.0 * uniform["window_tv"], "coverage": uniform["window_tv"]}
    for spec in METRICS:
        if spec.name not in uniform or (spec.needs_quantiles and not with_quantiles):
            continue
        value = uniform[spec.name]
        if spec.worst is not None:
            out[spec.name] = np.where(np.isfinite(value), spec.worst, np.nan)
        else:
            out[spec.name] = 2.0 * value if spec.lower_is_better else value.copy()
    return out


def _add_rows(sums: _Sums, forecast: Forecast, share_HLE: FloatArray, start: int, stop: int, stride: int) -> None:
    """Add the rows start .. stop-1, in chunks; a chunk inside one block of the forecast is never expanded."""
    _, L, E = share_HLE.shape
    chunk = max(1, CELLS_PER_CHUNK // max(1, L * E))
    for first in range(start, stop, chunk):
        last = min(first + chunk, stop)
        offset_C = np.arange(first, last) * stride
        block_C = np.searchsorted(forecast.edges_B, offset_C, side="right")
        inside = slice(block_C[0], block_C[0] + 1) if block_C[0] == block_C[-1] else block_C
        sums.add(forecast.share_BLE[inside], share_HLE[first:last])


def _metrics(
    sums: _Sums, forecast: Forecast, k: int, quantiles: tuple[float, ...], last_share_LE: FloatArray | None
) -> dict[str, FloatArray]:
    E = sums.share_LE.shape[1]
    share_LE, forecast_LE = _over(sums.share_LE, sums.rows_L), _over(sums.forecast_LE, sums.rows_L)
    per_step_L = _over(sums.distance_L, sums.rows_L)
    out = {
        "window_tv": metrics.total_variation(forecast_LE, share_LE),
        "tv": 0.5 * per_step_L,
        "error_rate": _over(sums.ratio_L, sums.cells_L),
        "error_rate_covered": _over(sums.cells_L, sums.rows_L * E),
        "error_rate_uniform": per_step_L,
        "window_error_rate": metrics.relative_error(forecast_LE, share_LE),
        "hot_recall": metrics.hot_recall(forecast_LE, share_LE, metrics.hot_k(E)),
        "rank_correlation": metrics.rank_correlation(forecast_LE, share_LE),
    }
    if last_share_LE is not None:
        out["revival_recall"] = metrics.revival_recall(forecast_LE, share_LE, last_share_LE)
    if forecast.quantile_QKLE is not None and quantiles:
        quantile_QLE = forecast.quantile_QKLE[:, k]
        out["wql"] = metrics.wql(quantile_QLE, share_LE, quantiles)
        out["coverage"] = metrics.coverage(quantile_QLE, share_LE, quantiles)
    return out


def _over(top: FloatArray, count_L: FloatArray) -> FloatArray:
    out = np.full(top.shape, np.nan)
    count = count_L if top.ndim == 1 else count_L[:, None]
    np.divide(top, count, out=out, where=np.broadcast_to(count, top.shape) > 0)
    return out
