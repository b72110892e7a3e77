"""`sw_avg` and `ema` against slow twins that follow their definitions word for word."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from moeload_bench.traces.trace import shares
from tests.baselines.test_rules import HORIZONS, ask, feed, make, window_mean
from tests.conftest import synthetic_load_SLE


def recursive_path_HLE(share_SLE: NDArray[np.float64], window: int, rows: int) -> NDArray[np.float64]:
    """The paper's recursion: append the mean of the last ``window`` values, again and again."""
    values = list(share_SLE[-window:])
    for _ in range(rows):
        values.append(np.mean(values[-window:], axis=0))
    return np.stack(values[-rows:])


@pytest.mark.parametrize("window", [1, 2, 7, 100, 160])
def test_sw_avg_follows_the_recursion(window: int) -> None:
    """Exact for 32 rows; every block is the exact mean of the recursive path; exact window means at suite horizons."""
    load = synthetic_load_SLE(300)
    forecaster = make(f"sw_avg@window={window}", load)
    feed(forecaster, load, 0, 300)
    forecast = ask(forecaster, load, 300)
    path = recursive_path_HLE(shares(load), window, HORIZONS[-1])
    np.testing.assert_allclose(forecast.share_BLE[:32], path[:32], rtol=1e-12)
    start = 0
    for block, stop in enumerate(forecast.edges_B):
        np.testing.assert_allclose(forecast.share_BLE[block], path[start:stop].mean(axis=0), rtol=1e-12)
        start = stop
    for horizon in HORIZONS:
        np.testing.assert_allclose(window_mean(forecast, horizon), path[:horizon].mean(axis=0), rtol=1e-12)


def test_sw_avg_blocks_hide_little_of_the_path() -> None:
    """Within a block the path stays within a thirtieth of one step's noise (root mean square)."""
    load = synthetic_load_SLE(300, top_k=1)  # no expert that every token goes to: it would have no noise
    forecaster = make("sw_avg", load)
    feed(forecaster, load, 0, 300)
    forecast = ask(forecaster, load, 300)
    steps = np.repeat(forecast.share_BLE, np.diff(forecast.edges_B, prepend=0), axis=0)
    hidden = steps - recursive_path_HLE(shares(load), 100, HORIZONS[-1])
    noise = shares(load)[200:].std(axis=0)
    assert np.sqrt((hidden**2).mean(axis=0) / noise**2).max() < 1 / 30


def test_sw_avg_tends_to_the_linearly_weighted_mean() -> None:
    """Far ahead the path is sum_i i x_i / (w (w + 1) / 2): the quantity that the recursion keeps."""
    load = synthetic_load_SLE(300)
    forecaster = make("sw_avg@window=10", load)
    feed(forecaster, load, 0, 300)
    weight = np.arange(1, 11) / 55
    expected = np.tensordot(weight, shares(load)[-10:], axes=1)
    np.testing.assert_allclose(ask(forecaster, load, 300).share_BLE[-1], expected, rtol=1e-9)


def test_sw_avg_window_is_in_training_steps() -> None:
    """Sampled every 10 steps, a window of 100 steps holds 10 rows."""
    load = synthetic_load_SLE(300)
    sampled, rows = make("sw_avg@window=100", load, stride=10), make("sw_avg@window=10", load)
    feed(sampled, load, 0, 300, stride=10)
    feed(rows, load, 0, 300)
    first = ask(sampled, load, 3000, (10, 100)).share_BLE
    np.testing.assert_allclose(first, ask(rows, load, 300, (1, 10)).share_BLE, rtol=1e-12)


@pytest.mark.parametrize("gain", [0.01, 0.1, 0.9, 1.0])
def test_ema_follows_its_definition(gain: float) -> None:
    """One step at a time, with the weights divided by their sum."""
    load = synthetic_load_SLE(300)
    forecaster = make(f"ema@gain={gain}", load)
    feed(forecaster, load, 0, 300)
    average, weight = np.zeros(load.shape[1:]), 0.0
    for share_LE in shares(load):
        average = (1 - gain) * average + gain * share_LE
        weight = (1 - gain) * weight + gain
    np.testing.assert_allclose(ask(forecaster, load, 300).share_BLE[0], average / weight, rtol=1e-12)


def test_ema_stride_decays_per_training_step() -> None:
    """A row of a trace sampled every 5 steps decays the average as five steps do."""
    load = synthetic_load_SLE(100)
    sampled, every = make("ema@gain=0.1", load, stride=5), make(f"ema@gain={1 - 0.9**5!r}", load)
    feed(sampled, load, 0, 100, stride=5)
    feed(every, load, 0, 100)
    np.testing.assert_allclose(ask(sampled, load, 500).share_BLE, ask(every, load, 500).share_BLE, rtol=1e-12)
