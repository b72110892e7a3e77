"""Any GluonTS-style predictor: an object with ``predict(dataset)`` that yields forecasts with ``quantile(level)``.

A predictor is made for one length of prediction, so a subclass in your own file says how it is made:

    from moeload_bench.adapters.gluonts import PredictorAdapter

    class Mine(PredictorAdapter):
        def make(self, ahead):
            from gluonts.model.seasonal_naive import SeasonalNaivePredictor
            return SeasonalNaivePredictor(prediction_length=ahead, season_length=1)

GluonTS itself is not needed here: only what the predictor needs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from moeload_bench.adapters.blocks import BlockAdapter
from moeload_bench.arrays import FloatArray
from moeload_bench.errors import ForecastError
from moeload_bench.forecaster import TraceInfo

START, FREQUENCY = "2000-01-01 00:00", "s"


class PredictorAdapter(BlockAdapter):
    """A forecaster made of predictors; `make` is called once per number of blocks ahead."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        super().__init__(info, seed)
        self._made: dict[int, Any] = {}

    @abstractmethod
    def make(self, ahead: int) -> Any:
        """Return the predictor for so many values ahead."""

    def predict(
        self, context_NT: FloatArray, ahead: int, levels: Sequence[float]
    ) -> tuple[FloatArray, FloatArray | None]:
        """Return medians as points, from one data set of all series."""
        if ahead not in self._made:
            self._made[ahead] = self.make(ahead)
        forecasts = list(self._made[ahead].predict(entries(context_NT)))
        if len(forecasts) != len(context_NT):
            got, expected = len(forecasts), len(context_NT)
            raise ForecastError(f"the predictor gave {got} forecasts, expected one for each of {expected}")
        value_QNH = np.array([[f.quantile(level)[:ahead] for f in forecasts] for level in (0.5, *levels)], np.float64)
        return value_QNH[0], value_QNH[1:]


def entries(context_NT: FloatArray) -> list[dict[str, Any]]:
    """Return the series as GluonTS reads them; steps are called seconds."""
    import pandas as pd

    start = pd.Period(START, freq=FREQUENCY)
    return [{"start": start, "target": series_T.astype(np.float32), "item_id": str(n)} for n, series_T in
            enumerate(context_NT)]  # fmt: skip
