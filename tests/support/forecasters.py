"""Forecasters that the tests use, honest and broken; targets such as `tests/support/forecasters.py:Exact`."""

from __future__ import annotations

import numpy as np

from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo

SLOPE = 1e-5


def ramp_share_SLE(steps: int, layers: int = 2) -> np.ndarray:
    """Two experts; the first one's share rises by SLOPE per step from 1/4."""
    first = 0.25 + SLOPE * np.arange(steps)
    return np.repeat(np.stack([first, 1 - first], axis=-1)[:, None], layers, axis=1)


class LastSeen:
    """The shares of the last observed step."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        self.share_LE = np.full((info.num_layers, info.num_experts), 1 / info.num_experts)

    def observe(self, block: StepBlock) -> None:
        load = block.load_SLE[-1]
        self.share_LE = load / load.sum(axis=1, keepdims=True)

    def forecast(self, request: ForecastRequest) -> Forecast:
        return Forecast.constant(self.share_LE, request.horizon)


class PlainArray(LastSeen):
    """The same as a plain array, its own one, which it goes on writing to."""

    def observe(self, block: StepBlock) -> None:
        load = block.load_SLE[-1]
        self.share_LE[:] = load / load.sum(axis=1, keepdims=True)

    def forecast(self, request: ForecastRequest) -> np.ndarray:
        return self.share_LE


class PlainPath(LastSeen):
    """The same as a plain array with a share for each step."""

    def forecast(self, request: ForecastRequest) -> np.ndarray:
        return np.repeat(self.share_LE[None], request.horizon, axis=0)


class ExactOnRamp(LastSeen):
    """Goes on with the known slope."""

    def forecast(self, request: ForecastRequest) -> Forecast:
        rise = SLOPE * np.arange(1, request.horizon + 1)[:, None]
        first = self.share_LE[None, :, 0] + rise
        return Forecast.path(np.stack([first, 1 - first], axis=-1))


class RaisesOnce(LastSeen):
    """Raises at one origin only."""

    def forecast(self, request: ForecastRequest) -> Forecast:
        if request.origin == 200:
            raise ValueError("not at 200")
        return super().forecast(request)


class NotANumber(LastSeen):
    def forecast(self, request: ForecastRequest) -> Forecast:
        return Forecast.constant(self.share_LE * np.nan, request.horizon)


class WrongShape(LastSeen):
    def forecast(self, request: ForecastRequest) -> Forecast:
        return Forecast.constant(self.share_LE[:, :-1], request.horizon)


class Negative(LastSeen):
    def forecast(self, request: ForecastRequest) -> Forecast:
        share = self.share_LE.copy()
        share[:, 0] -= 2
        share[:, 1] += 2
        return Forecast.constant(share, request.horizon)


class NotNormalised(LastSeen):
    def forecast(self, request: ForecastRequest) -> Forecast:
        return Forecast.constant(self.share_LE * 1.01, request.horizon)


class RaisesInObserve(LastSeen):
    def observe(self, block: StepBlock) -> None:
        raise RuntimeError("no observing today")
