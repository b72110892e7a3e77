"""`uniform`: every expert gets 1/E. A mandatory row of every table.

The paper has no such row. On balanced traces it beats moving averages in the transient state, so a table without it
cannot show that a forecaster has learned anything. Nothing is left open and nothing is chosen.
"""

from __future__ import annotations

import numpy as np

from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo

FACTS = {"uniform": {"place": 1, "own_run": 1}}


class Uniform:
    """1/E for every expert, whatever was observed."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        self._share_LE = np.full((info.num_layers, info.num_experts), 1.0 / info.num_experts)

    def observe(self, block: StepBlock) -> None:
        """Take in nothing."""

    def forecast(self, request: ForecastRequest) -> Forecast:
        """1/E over the whole horizon."""
        return Forecast.constant(self._share_LE, request.horizon)
