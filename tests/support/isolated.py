"""Forecasters for the tests of isolation: they show what reached them, or cost something that can be measured."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import FitRuns, Forecast, ForecastRequest, StepBlock, TraceInfo
from moeload_bench.isolation import bubblewrap, process

COSTLY_CPU_S = 0.2


class Uniform:
    """1/E."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        self.info, self.seed = info, seed

    def observe(self, block: StepBlock) -> None:
        pass

    def forecast(self, request: ForecastRequest) -> Forecast:
        share = np.full((self.info.num_layers, self.info.num_experts), 1 / self.info.num_experts)
        return Forecast.constant(share, request.horizon)


class Everything(Uniform):
    """A path and quantiles that depend on every field of every block and of the request."""

    def __init__(self, info: TraceInfo, seed: int, **kwargs: Any) -> None:
        super().__init__(info, seed)
        self.sum = float(sum(map(ord, repr((info, seed, kwargs)))))

    def observe(self, block: StepBlock) -> None:
        self.sum += float(block.step_S.sum() + (block.load_SLE * np.arange(4)).sum() + block.tokens_SL.sum())
        for name, column in sorted(block.covariates.items()):
            self.sum += len(name) * float(np.asarray(column, dtype=np.float64).sum())

    def forecast(self, request: ForecastRequest) -> Forecast:
        asked = repr((request.origin, request.horizon, request.horizons, request.quantiles))
        seen = self.sum + sum(map(ord, asked)) + float(request.lr_H.sum()) + float(request.stage_H.sum())
        rng = np.random.default_rng(int(seen * 1e6))
        L, E = self.info.num_layers, self.info.num_experts
        shape = (len(request.quantiles), len(request.horizons), L, E)
        quantile = np.sort(rng.random(shape), axis=0)
        path = Forecast.path(rng.dirichlet(np.ones(E), size=(request.horizon, L)))
        return Forecast(path.share_BLE, path.edges_B, quantile)


class Spoiler(Uniform):
    """Looks for the array behind its array, and overwrites what it got."""

    def observe(self, block: StepBlock) -> None:
        for array in (block.load_SLE, block.step_S, block.tokens_SL, *block.covariates.values()):
            base = array if array.base is None else array.base
            if np.size(base) > array.size:
                raise RuntimeError("there is more behind the array")
            array[...] = 0


class SaysItsEnvironment(Uniform):
    """Names the variables that the harness does not set in every sandbox."""

    def forecast(self, request: ForecastRequest) -> Forecast:
        usual = {*bubblewrap.ENVIRONMENT, *process.ENVIRONMENT, "PWD"}
        raise RuntimeError(" ".join(sorted(set(os.environ) - usual)))


class Costly(Uniform):
    """Holds 64 MiB, sleeps 0.15 s in each observe, computes `COSTLY_CPU_S` of CPU time in forecast."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        super().__init__(info, seed)
        self.held = np.ones(8 * 2**20)

    def observe(self, block: StepBlock) -> None:
        time.sleep(0.16)

    def forecast(self, request: ForecastRequest) -> Forecast:
        end = time.process_time() + COSTLY_CPU_S
        while time.process_time() < end:
            pass
        return super().forecast(request)


class Counting(Uniform):
    """Counts its forecasts, beside things that are no counts."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        super().__init__(info, seed)
        self.counts: dict[Any, Any] = {"forecasts": 0, "numpy": np.int64(3), "text": "no", 7: 7, "bad name": 1}

    def forecast(self, request: ForecastRequest) -> Forecast:
        self.counts["forecasts"] += 1
        return super().forecast(request)


class RaisesOnce(Uniform):
    """Raises in its first forecast."""

    first = True

    def forecast(self, request: ForecastRequest) -> Forecast:
        if self.first:
            self.first = False
            raise KeyError("first")
        return super().forecast(request)


class Fitting(Uniform):
    """Its fit says what reached it; its constructor insists on getting that."""

    def __init__(self, info: TraceInfo, seed: int, fitted: bytes, power: int = 1) -> None:
        super().__init__(info, seed)
        assert fitted.startswith(b"2 runs")

    @classmethod
    def fit(cls, runs: FitRuns, seed: int, power: int = 1) -> bytes:
        rows = sum(len(block) for _, block in runs)
        return f"{len(runs)} runs, {rows} rows, seed {seed}, power {power}".encode()


class FitsText(Uniform):
    @classmethod
    def fit(cls, runs: FitRuns, seed: int) -> Any:
        return "text"


class Blames(Uniform):
    def __init__(self, info: TraceInfo, seed: int) -> None:
        raise TargetError("nobody may run")
