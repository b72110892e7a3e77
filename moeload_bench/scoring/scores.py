"""Forecast and truth to scores: every metric, layer and horizon in one pass over the window.

Axis letters: H horizon rows, L MoE layers, E experts, K suite horizons, B blocks, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import ForecastError, SuiteError
from moeload_bench.forecaster import Forecast
from moeload_bench.scoring.catalogue import forecast_metrics
from moeload_bench.scoring.window import StepSums

SCORING_VERSION = 2
"""Raised whenever a score can change for the same forecast and truth."""

CELLS_PER_CHUNK = 1 << 17
"""Cells [rows, L, E] worked on at once: one megabyte per temporary array."""


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
    sums = StepSums.zero(L, E)
    scores: dict[str, list[FloatArray]] = {}
    start = 0
    for k, stop in enumerate(rows_K):
        _add_rows(sums, forecast, share_HLE, start, stop, stride)
        start = stop
        quantile_QLE = forecast.quantile_QKLE[:, k] if forecast.quantile_QKLE is not None and quantiles else None
        window = sums.window(last_share_LE, quantile_QLE, quantiles)
        for metric in forecast_metrics():
            if metric.applies(window):
                scores.setdefault(metric.name, []).append(metric.formula(window))
    return {name: np.stack(values) for name, values in scores.items()}


def horizon_rows(horizons_K: Sequence[int], stride: int, rows: int) -> tuple[int, ...]:
    """Return the rows of the window of each horizon; raise `SuiteError` for horizons that these rows cannot score."""
    if len(horizons_K) == 0 or list(horizons_K) != sorted(set(horizons_K)) or horizons_K[0] < 1:
        raise SuiteError(f"horizons must rise from at least 1 step, got {tuple(horizons_K)}")
    for h in horizons_K:
        if h % stride:
            raise SuiteError(f"the stride of {stride} steps does not divide the horizon of {h} steps")
    if horizons_K[-1] > rows * stride:
        raise SuiteError(f"the horizon of {horizons_K[-1]} steps needs {horizons_K[-1] // stride} rows, got {rows}")
    return tuple(int(h) // stride for h in horizons_K)


def filled(values: FloatArray, K: int) -> FloatArray:
    """Return values [k, ...] as [K, ...], with NaN for horizons that a run was too short for."""
    missing = np.full((max(0, K - len(values)), *np.shape(values)[1:]), np.nan)
    return np.concatenate([values, missing]) if len(missing) else values


def failure_scores(uniform: Mapping[str, FloatArray], *, with_quantiles: bool = False) -> dict[str, FloatArray]:
    """Return the scores of a task whose forecast failed, from those of the uniform forecast on the same task; [K, L].

    What each metric has then is its `catalogue.Failed`. ``with_quantiles`` adds the metrics of quantiles. NaN stays
    NaN: what cannot be scored is not scored for anybody.
    """
    out: dict[str, FloatArray] = {}
    for metric in forecast_metrics():
        value, times, basis = metric.failed
        base = uniform.get(basis or metric.name)
        if base is not None and (with_quantiles or not metric.needs_quantiles):
            out[metric.name] = times * base if value is None else np.where(np.isfinite(base), value, np.nan)
    return out


def _add_rows(sums: StepSums, forecast: Forecast, share_HLE: FloatArray, start: int, stop: int, stride: int) -> None:
    """Add the rows start .. stop-1, in chunks; a chunk inside one block of the forecast is never expanded."""
    _, L, E = share_HLE.shape
    chunk = max(1, CELLS_PER_CHUNK // max(1, L * E))
    for first in range(start, stop, chunk):
        last = min(first + chunk, stop)
        offset_C = np.arange(first, last) * stride
        block_C = np.searchsorted(forecast.edges_B, offset_C, side="right")
        inside = slice(block_C[0], block_C[0] + 1) if block_C[0] == block_C[-1] else block_C
        sums.add(forecast.share_BLE[inside], share_HLE[first:last])
