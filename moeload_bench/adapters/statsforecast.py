"""`statsforecast`: AutoARIMA, AutoETS or AutoTheta of Nixtla, one model per series (`pip install statsforecast`).

Each expert of each layer is fitted anew at every origin and block size: exact, and slow. A fit to 128 values takes some
6 ms (AutoETS, AutoTheta) or 100 ms (AutoARIMA), to 64 values half of that for the first two.
Quantiles are the ends of the library's central intervals.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence

import numpy as np

from moeload_bench.adapters.blocks import LEAST_ROWS, BlockAdapter, FloatArray
from moeload_bench.bounds import whole_number
from moeload_bench.errors import MissingExtraError, TargetError
from moeload_bench.forecaster import TraceInfo

FACTS = {
    "autotheta": {
        "place": 19,
        "target": 'moeload_bench.adapters.statsforecast:StatsForecast@model="AutoTheta",context=64',
    },
}
if importlib.util.find_spec("statsforecast") is None:
    raise MissingExtraError("statsforecast", "adapters", "the forecaster `statsforecast`")

MODELS = ("AutoETS", "AutoTheta", "AutoARIMA")
CONTEXT = 128
"""The newest values that a model is fitted to, unless told otherwise."""


class StatsForecast(BlockAdapter):
    """One automatic model per series; ``model`` is one of `MODELS`, fitted to the newest ``context`` values."""

    def __init__(self, info: TraceInfo, seed: int, model: str = "AutoETS", context: int = CONTEXT) -> None:
        super().__init__(info, seed)
        self._context = whole_number(context, "context", LEAST_ROWS)
        if model not in MODELS:
            raise TargetError(f"statsforecast: model is {model!r}, expected one of: {', '.join(MODELS)}")
        self._name = model

    def predict(
        self, context_NT: FloatArray, ahead: int, levels: Sequence[float]
    ) -> tuple[FloatArray, FloatArray | None]:
        """Forecast a constant series as it is, and one that cannot be fitted by its mean, without a spread."""
        from statsforecast import models

        point_NH = np.empty((len(context_NT), ahead))
        quantile_QNH = np.empty((len(levels), len(context_NT), ahead))
        central = sorted({round(100 * abs(2 * level - 1), 6) for level in levels} - {0.0})
        for n, series_T in enumerate(context_NT[:, -self._context :]):
            fitted = None
            if np.ptp(series_T) > 0:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        fitted = getattr(models, self._name)(season_length=1).forecast(series_T, ahead, level=central)
                    except Exception:  # the library has no one error for a series that it cannot fit
                        fitted = None
            if fitted is None or not np.isfinite(fitted["mean"]).all():
                fitted = {"mean": np.full(ahead, series_T.mean())}
            point_NH[n] = fitted["mean"]
            for q, level in enumerate(levels):
                side = f"{'hi' if level > 0.5 else 'lo'}-{round(100 * abs(2 * level - 1), 6):g}"
                quantile_QNH[q, n] = next((fitted[key] for key in fitted if _same(key, side)), fitted["mean"])
        return point_NH, quantile_QNH


def _same(key: str, side: str) -> bool:
    """Whether a column of the library, `lo-80` or `lo-80.0`, is that side."""
    name, _, level = key.partition("-")
    return bool(level) and name == side[:2] and float(level) == float(side[3:])
