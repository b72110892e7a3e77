"""`sw_avg_conformal`: `sw_avg` with calibrated quantiles: what quantiles of a stronger forecaster have to beat.

The forecast is that of `sw_avg`, to the last digit. Around its window means stand quantiles by split conformal
prediction (`_spread`): residuals on the `train` runs of a suite, scaled by what can be seen at the origin, per horizon
and state. Learned by numpy alone, in seconds.

Without anything fitted (`--trace`, fewer than two runs, none long enough) and before the first row there are no
quantiles. ``window`` is that of `sw_avg`.

`counts`: ``forecasts``; of these ``without_quantiles``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moeload_bench.forecaster import FitRuns, Forecast, ForecastRequest, StepBlock, TraceInfo

from ._measures import Memory, measure
from ._spread import FIRST, HORIZONS, Residuals, Spread, WindowTruth, moving, scale_of
from .sw_avg import SlidingWindowAverage

FACTS = {"sw_avg_conformal": {"place": 18}}
ORIGINS = 60
"""Per run, half of them spread evenly, half evenly in the logarithm of the row."""


class ConformalWindowAverage:
    """`sw_avg`, and how far off it has been on other runs."""

    def __init__(self, info: TraceInfo, seed: int, fitted: bytes | None = None, window: int = 100) -> None:
        self._average = SlidingWindowAverage(info, seed, window)
        self._memory = Memory(info)
        self._spread = Spread.from_bytes(bytes(fitted)) if fitted else None
        self.counts = {"forecasts": 0, "without_quantiles": 0}

    @classmethod
    def fit(cls, runs: FitRuns, seed: int, window: int = 100) -> bytes:
        """Return the factors as an archive; empty where there are fewer than two runs, or none is long enough."""
        if len(runs) < 2:
            return b""
        residuals = Residuals()
        for number, (info, block) in enumerate(runs):
            cls(info, seed, window=window)._collect(residuals, number, block)
        spread = residuals.spread()
        return b"" if spread is None else spread.to_bytes()

    def observe(self, block: StepBlock) -> None:
        """Keep the window of `sw_avg`, and what the spread is seen from."""
        self._average.observe(block)
        self._memory.observe(block)

    def forecast(self, request: ForecastRequest) -> Forecast:
        """Return the forecast of `sw_avg`; quantiles where some are asked for."""
        self.counts["forecasts"] += 1
        average = self._average.forecast(request)
        if self._spread is None or not self._memory.rows or not request.quantiles:
            self.counts["without_quantiles"] += 1
            return average
        mean_KLE = average.window_means(request.horizons)
        scale_KLE = scale_of(measure(self._memory), mean_KLE, request.horizons)
        quantile_QKLE = self._spread.quantiles(
            request.quantiles, request.horizons, mean_KLE, scale_KLE, moving(self._memory)
        )
        return replace(average, quantile_QKLE=quantile_QKLE)

    def _collect(self, residuals: Residuals, run: int, block: StepBlock) -> None:
        """Follow a whole run, and note how far off the average was at each origin."""
        stride = self._memory.info.stride
        true = WindowTruth(self._memory.info, block)
        fed = 0
        for origin in _origins(len(block)):
            part = slice(fed, origin)
            self.observe(StepBlock(block.step_S[part], block.load_SLE[part], block.tokens_SL[part]))
            fed = origin
            average = self._average.forecast(ForecastRequest(origin * stride, HORIZONS[-1], HORIZONS))
            mean_KLE = average.window_means(HORIZONS)
            scale_KLE = scale_of(measure(self._memory), mean_KLE, HORIZONS)
            residuals.add(run, mean_KLE, true.means(origin, HORIZONS), scale_KLE, moving(self._memory))


def _origins(rows: int) -> list[int]:
    if rows <= FIRST:
        return []
    even, log = np.linspace(FIRST, rows - 1, ORIGINS // 2), np.geomspace(FIRST, rows - 1, ORIGINS // 2)
    return sorted({int(row) for row in (*even, *log)})
