"""Forecasters that leave a line in a file whenever one is made: what ran, and how often."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo


class Counted:
    """1/E, with a weight of the first expert to tell arguments apart; ``delay`` seconds per forecast."""

    def __init__(self, info: TraceInfo, seed: int, log: str, weight: float = 0.0, delay: float = 0.0) -> None:
        self.info, self.weight, self.delay = info, weight, delay
        with Path(log).open("a") as file:
            file.write(f"{weight} {os.getpid()}\n")

    def observe(self, block: StepBlock) -> None:
        pass

    def forecast(self, request: ForecastRequest) -> Forecast:
        time.sleep(self.delay)
        share = np.full((self.info.num_layers, self.info.num_experts), (1 - self.weight) / self.info.num_experts)
        share[:, 0] += self.weight
        return Forecast.constant(share, request.horizon)
