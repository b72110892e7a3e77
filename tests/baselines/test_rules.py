"""Rules that every baseline keeps, on synthetic loads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo, check_forecast
from moeload_bench.isolation.targets import load_class, parse_target
from tests.conftest import synthetic_load_SLE

HORIZONS = (1, 10, 100, 250)
TARGETS = [
    "uniform",
    "last_value",
    "sw_avg",
    "sw_avg@window=7",
    "ema",
    "recent_sum",
    "since_plan@every=7",
    "since_plan@whole_blocks=true",
    "adaptive",
    "average_tuned",
    "online",
    "gated",
    "guarded",
    "online_guarded",
    "arima@order=[1,1,1],history=150",
    pytest.param("arima@order=[2,1,2],history=150,refit_every=160", marks=pytest.mark.slow),
    "arima@order=[1,1,1],history=150,refit_every=160,engine=statsmodels",
]


def make(target: str, load_SLE: NDArray[np.int64], stride: int = 1) -> Any:
    """A fresh forecaster for loads of this shape."""
    parsed = parse_target(target)
    _, L, E = load_SLE.shape
    info = TraceInfo(L, E, 2, tuple(range(L)), 512, stride, "none", 0.0, 0)
    return load_class(parsed)(info, 0, **parsed.kwargs)


def feed(forecaster: Any, load_SLE: NDArray[np.int64], start: int, stop: int, stride: int = 1) -> None:
    rows = load_SLE[start:stop]
    forecaster.observe(StepBlock(np.arange(start, stop) * stride, rows, rows.sum(axis=2) // 2))


def ask(forecaster: Any, load_SLE: NDArray[np.int64], origin: int, horizons: tuple[int, ...] = HORIZONS) -> Forecast:
    """The forecast, checked as the harness checks it."""
    _, L, E = load_SLE.shape
    info = TraceInfo(L, E, 2, tuple(range(L)), 512, 1, "none", 0.0, 0)
    request = ForecastRequest(origin, horizons[-1], horizons)
    return check_forecast(forecaster.forecast(request), request, info)


def window_mean(forecast: Forecast, horizon: int) -> NDArray[np.float64]:
    """[L, E] mean over the first ``horizon`` steps."""
    edges = np.concatenate([[0], np.minimum(forecast.edges_B, horizon)])
    mean: NDArray[np.float64] = np.einsum("b,ble->le", np.diff(edges), forecast.share_BLE) / horizon
    return mean


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_observed_is_uniform(target: str) -> None:
    """Before any step is seen the forecast is 1/E, and an empty block is not an observation."""
    load = synthetic_load_SLE(1)
    forecaster = make(target, load)
    np.testing.assert_allclose(ask(forecaster, load, 0).share_BLE, 1 / load.shape[2], rtol=1e-15)
    feed(forecaster, load, 0, 0)
    np.testing.assert_allclose(ask(forecaster, load, 0).share_BLE, 1 / load.shape[2], rtol=1e-15)


@pytest.mark.parametrize("target", [t for t in TARGETS if t != "uniform"])
def test_dead_expert_stays_dead(target: str) -> None:
    """An expert without a single token is forecast at exactly 0."""
    load = synthetic_load_SLE(300, experts=5)
    load[:, :, 2] = 0
    forecaster = make(target, load)
    feed(forecaster, load, 0, 300)
    assert (ask(forecaster, load, 300).share_BLE[:, :, 2] == 0).all()


@pytest.mark.parametrize("target", TARGETS)
def test_layer_step_without_load_repeats_the_last_valid_share(target: str) -> None:
    """A hole gives the forecast that the last valid row in its place gives, across a block boundary too."""
    load = synthetic_load_SLE(300)
    filled = load.copy()
    load[[0, 150, 151, 298, 299], 1] = 0
    filled[150:152, 1], filled[298:300, 1] = filled[149, 1], filled[297, 1]
    filled[0, 1] = 256  # before the first valid row: 1/E
    with_holes, without = make(target, load), make(target, filled)
    for start, stop in ((0, 151), (151, 300)):
        feed(with_holes, load, start, stop)
        feed(without, filled, start, stop)
    np.testing.assert_array_equal(ask(with_holes, load, 300).share_BLE, ask(without, filled, 300).share_BLE)


@pytest.mark.parametrize(
    "target",
    ["sw_avg@window=0", "sw_avg@window=2.5", "ema@gain=0", "ema@gain=1.5", "recent_sum@steps=0",
     "since_plan@every=true", "since_plan@whole_blocks=1", "adaptive@sharpness=-1", "gated@weights=mine",
     "online@trust=-1", "online@window=5",
     "arima@order=[1,1]", "arima@order=[0,1,0]",
     "arima@order=[1,3,1]", "arima@engine=abacus", "arima@maxiter=0", "arima@history=true"],
)  # fmt: skip
def test_senseless_parameters_are_refused(target: str) -> None:
    """A parameter out of range raises one line that says what was got and what is expected."""
    with pytest.raises(TargetError, match=r"expected|there is"):
        make(target, synthetic_load_SLE(1))
