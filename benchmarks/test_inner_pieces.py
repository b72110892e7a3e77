"""Inner pieces under pytest-benchmark: `pytest benchmarks --benchmark-timer=time.process_time`. Nothing is asserted
about time; `--benchmark-disable` runs each piece once, which is what CI does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo
from moeload_bench.isolation.targets import load_class, parse_target
from moeload_bench.scoring.scores import score_forecast
from moeload_bench.traces.trace import shares

HORIZONS = (1, 10, 100, 1000, 2000)
SHAPES = {"6x8": (6, 8), "12x16": (12, 16), "24x64": (24, 64)}


def block_of(L: int, E: int, steps: int = 1000) -> StepBlock:
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(0, 0.01, (steps, L, E)), axis=0) + rng.normal(0, 0.1, (steps, L, E))
    load = np.round(1000 * np.exp(walk)).astype(np.int64)
    return StepBlock(np.arange(steps), load, load.sum(axis=2))


def forecaster_of(target: str, L: int, E: int) -> Any:
    parsed = parse_target(target)
    info = TraceInfo(L, E, 1, tuple(range(L)), None, 1, "none", 0.0, 0)
    return load_class(parsed)(info, 0, **parsed.kwargs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "target", ["last_value", "sw_avg", "sw_avg@window=1000", "ema", "arima@order=[1,1,1]", "arima@order=[5,1,5]"]
)
def test_observe_1000_steps(benchmark: Callable[..., Any], target: str, shape: str) -> None:
    """Cost of 1,000 observed steps."""
    forecaster, block = forecaster_of(target, *SHAPES[shape]), block_of(*SHAPES[shape])
    forecaster.observe(block)  # compiles
    benchmark(forecaster.observe, block)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("target", ["sw_avg", "arima@order=[1,1,1]", "arima@order=[5,1,5]"])
def test_forecast_2000_steps(benchmark: Callable[..., Any], target: str, shape: str) -> None:
    """Cost of a forecast; for (5,1,5) with parameters known, for (1,1,1) with a fit each time."""
    if target.endswith("5]") and shape == "24x64":
        pytest.skip("the first fit of 1,536 series takes half a minute")
    forecaster, block = forecaster_of(target, *SHAPES[shape]), block_of(*SHAPES[shape])
    forecaster.observe(block)
    request = ForecastRequest(1000, HORIZONS[-1], HORIZONS)
    forecaster.forecast(request)
    benchmark(forecaster.forecast, request)


@pytest.mark.parametrize("shape", SHAPES)
def test_score_constant_forecast(benchmark: Callable[..., Any], shape: str) -> None:
    """Every metric of one forecast at five horizons up to 2,000 steps."""
    share = shares(block_of(*SHAPES[shape], steps=2000).load_SLE)
    benchmark(score_forecast, Forecast.constant(share[0], HORIZONS[-1]), share, HORIZONS)
