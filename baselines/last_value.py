"""`last_value`: the shares of the newest step, held over the whole horizon.

This is what SYMI / SwiftMoE and Pro-Prophet act on (the last iteration's load); the paper has no such row. A layer-step
without any load repeats the layer's last valid shares; before any observation the forecast is 1/E.
"""

from __future__ import annotations

from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo

from ._series import ShareStream

FACTS = {"last_value": {"place": 2, "own_run": 2}}


class LastValue:
    """The last observed share of every expert."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        self._stream = ShareStream(info)

    def observe(self, block: StepBlock) -> None:
        """Keep the newest row."""
        for _ in self._stream.chunks(block.load_SLE):
            pass

    def forecast(self, request: ForecastRequest) -> Forecast:
        """Return the newest row over the whole horizon."""
        return Forecast.constant(self._stream.last_LE, request.horizon)
