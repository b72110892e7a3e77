"""Run by the interpreter of the peers' environment: an adapter's forecast on synthetic loads, written out as arrays.

python peer_adapters.py AutoETS|AutoTheta|AutoARIMA|sktime|gluonts LOAD.npy OUT.npz
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo, check_forecast


def make(name: str, info: TraceInfo) -> Any:
    """The adapter of a library."""
    if name == "sktime":
        from moeload_bench.adapters.sktime import Sktime

        return Sktime(info, 0, estimator="sktime.forecasting.naive.NaiveForecaster")
    if name == "gluonts":
        from moeload_bench.adapters.gluonts import PredictorAdapter

        class SeasonalNaive(PredictorAdapter):
            def make(self, ahead: int) -> Any:
                from gluonts.model.seasonal_naive import SeasonalNaivePredictor

                return SeasonalNaivePredictor(prediction_length=ahead, season_length=1)

        return SeasonalNaive(info, 0)
    from moeload_bench.adapters.statsforecast import StatsForecast

    return StatsForecast(info, 0, model=name)


def main() -> None:
    name, load_file, out = sys.argv[1:]
    load = np.load(load_file)
    _, L, E = load.shape
    info = TraceInfo(L, E, 2, tuple(range(L)), None, 1, "none", 0.0, 0)
    forecaster = make(name, info)
    forecaster.observe(StepBlock(np.arange(len(load)), load, load.sum(axis=2)))
    request = ForecastRequest(len(load), 100, (1, 10, 100), (0.1, 0.5, 0.9))
    told = check_forecast(forecaster.forecast(request), request, info)
    quantile = told.quantile_QKLE if told.quantile_QKLE is not None else np.zeros(0)
    np.savez(out, mean_KLE=told.window_means((1, 10, 100)), quantile_QKLE=quantile)


if __name__ == "__main__":
    main()
