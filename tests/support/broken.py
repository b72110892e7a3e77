"""Forecasters that are broken on purpose, each in one way: what the conformance suite must name."""

from __future__ import annotations

import json
import os
import time
from typing import Any, ClassVar

import numpy as np

from moeload_bench.forecaster import FitRuns, Forecast, ForecastRequest, StepBlock, TraceInfo


class Sound:
    """The mean share of everything seen: keeps every rule."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        self.info, self.seed = info, seed
        self.total_LE = np.zeros((info.num_layers, info.num_experts))

    def observe(self, block: StepBlock) -> None:
        for load_LE in block.load_SLE:
            self.total_LE = self.total_LE + load_LE

    def share_LE(self) -> Any:
        seen_L1 = self.total_LE.sum(axis=1, keepdims=True)
        return np.where(seen_L1 > 0, self.total_LE / np.maximum(seen_L1, 1), 1 / self.info.num_experts)

    def forecast(self, request: ForecastRequest) -> Forecast:
        return Forecast.constant(self.share_LE(), request.horizon)


class Prints(Sound):
    """Breaks no rule, and says at every step how it is doing."""

    def observe(self, block: StepBlock) -> None:
        print("seen", len(block.step_S))
        super().observe(block)


class EndsItsProcess(Sound):
    """As a crash in compiled code does, but with success as its status."""

    def forecast(self, request: ForecastRequest) -> Forecast:
        os._exit(0)


class Raises(Sound):
    def observe(self, block: StepBlock) -> None:
        raise ValueError("cannot observe")


class WrongShape(Sound):
    def forecast(self, request: ForecastRequest) -> Forecast:
        return Forecast.constant(self.share_LE().T, request.horizon)


class NotFinite(Sound):
    def forecast(self, request: ForecastRequest) -> Forecast:
        return Forecast.constant(self.share_LE() + np.inf, request.horizon)


class Negative(Sound):
    def share_LE(self) -> Any:
        share = super().share_LE()
        return share + np.where(np.arange(share.shape[1]) == 0, -1.0, 1 / max(1, share.shape[1] - 1))


class DoesNotSum(Sound):
    def share_LE(self) -> Any:
        return super().share_LE() * 0.999


class CrossedQuantiles(Sound):
    def forecast(self, request: ForecastRequest) -> Forecast:
        share = self.share_LE()
        level_Q = np.array(request.quantiles)[::-1]
        quantile = level_Q[:, None, None, None] * np.broadcast_to(share, (1, len(request.horizons), *share.shape))
        return Forecast(share[None], np.array([request.horizon]), quantile)


class Unseeded(Sound):
    def share_LE(self) -> Any:
        return np.random.default_rng().dirichlet(np.ones(self.info.num_experts), size=self.info.num_layers)


class LearnsPerBlock(Sound):
    """An exponential average over blocks instead of steps."""

    def observe(self, block: StepBlock) -> None:
        self.total_LE = 0.9 * self.total_LE + block.load_SLE.mean(axis=0)


class LearnsInForecast(Sound):
    """Takes its own forecast in as if it had been observed."""

    def forecast(self, request: ForecastRequest) -> Forecast:
        self.total_LE = self.total_LE + 100 / self.info.num_experts
        return super().forecast(request)


class LooksAtHorizon(Sound):
    """Shrinks the whole path by the length of the horizon."""

    def forecast(self, request: ForecastRequest) -> Forecast:
        weight = request.horizon / (request.horizon + 100)
        return Forecast.constant((1 - weight) * self.share_LE() + weight / self.info.num_experts, request.horizon)


class SharesState(Sound):
    """Keeps what it saw on the class."""

    seen: ClassVar[dict[tuple[int, int], Any]] = {}

    def __init__(self, info: TraceInfo, seed: int) -> None:
        super().__init__(info, seed)
        self.seen[info.num_layers, info.num_experts] = self.total_LE

    def observe(self, block: StepBlock) -> None:
        for load_LE in block.load_SLE:
            self.seen[load_LE.shape] = self.seen[load_LE.shape] + load_LE

    def forecast(self, request: ForecastRequest) -> Forecast:
        self.total_LE = self.seen[self.total_LE.shape]
        return super().forecast(request)


class DividesByLoad(Sound):
    """Log shares: a dead expert makes a NaN."""

    def share_LE(self) -> Any:
        with np.errstate(all="ignore"):
            share = np.exp(np.log(super().share_LE()) - np.log(super().share_LE()).min(axis=1, keepdims=True))
        return share / share.sum(axis=1, keepdims=True)


class NeedsLoad(Sound):
    """Divides each step by its load."""

    def observe(self, block: StepBlock) -> None:
        with np.errstate(all="ignore"):
            super().observe(StepBlock(block.step_S, block.load_SLE / block.load_SLE.sum(axis=2, keepdims=True), None))

    def share_LE(self) -> Any:
        return self.total_LE / self.total_LE.sum(axis=1, keepdims=True)


class NeedsTwoExperts(Sound):
    def share_LE(self) -> Any:
        share = super().share_LE()
        share[:, [0, 1]] = share[:, [0, 1]].mean(axis=1, keepdims=True)
        return share


class NeedsTwoSteps(Sound):
    def forecast(self, request: ForecastRequest) -> Forecast:
        if self.total_LE[0].sum() <= 512:
            raise IndexError("no two steps yet")
        return super().forecast(request)


class SmallOnly(Sound):
    """A table of experts by experts by layers by layers."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        super().__init__(info, seed)
        if info.num_layers * info.num_experts > 4096:
            raise MemoryError("too many experts")


class IgnoresStride(Sound):
    """Takes steps for rows."""

    def forecast(self, request: ForecastRequest) -> Forecast:
        return Forecast.constant(self.share_LE(), -(-request.horizon // self.info.stride))


class NeedsLoss(Sound):
    def observe(self, block: StepBlock) -> None:
        if not block.covariates["loss"].size:
            return
        super().observe(block)


class FitsByTheClock(Sound):
    """What it learns differs from fit to fit."""

    def __init__(self, info: TraceInfo, seed: int, fitted: bytes) -> None:
        super().__init__(info, seed)

    @classmethod
    def fit(cls, runs: FitRuns, seed: int) -> bytes:
        return str(time.perf_counter_ns()).encode()


class FavoursFirstExpert(Sound):
    """Treats experts by their number: allowed, and reported."""

    def share_LE(self) -> Any:
        share = 0.9 * super().share_LE()
        share[:, 0] += 0.1
        return share


class CrashesLate(Sound):
    """Has room for 500 steps."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        super().__init__(info, seed)
        self.left = 500

    def observe(self, block: StepBlock) -> None:
        self.left -= len(block)
        if self.left < 0:
            raise IndexError("step 500 is out of bounds")
        super().observe(block)


class _Remembers(Sound):
    """Forecasts what the first instance of this shape forecast, out of a store that outlives it."""

    def share_LE(self) -> Any:
        key = f"{type(self).__name__}{self.total_LE.shape}{self.total_LE.sum():.0f}"
        self.store().setdefault(key, json.dumps(super().share_LE().tolist()))
        return np.array(json.loads(self.store()[key]))

    def store(self) -> Any:
        raise NotImplementedError


class RememberedInClass(_Remembers):
    first: ClassVar[dict[str, str]] = {}

    def store(self) -> Any:
        return self.first


class RememberedInModule(_Remembers):
    def store(self) -> Any:
        return IN_MODULE


class RememberedInEnvironment(_Remembers):
    def store(self) -> Any:
        return os.environ


IN_MODULE: dict[str, str] = {}


class Sleeps(Sound):
    def observe(self, block: StepBlock) -> None:
        time.sleep(3600)
