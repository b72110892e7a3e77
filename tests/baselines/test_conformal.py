"""Calibrated quantiles: of `sw_avg_conformal` and `gated`, from residuals of other runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from moeload_bench.baselines._measures import Memory
from moeload_bench.baselines._spread import HORIZONS, LEVELS, Residuals, Spread, WindowTruth, moving
from moeload_bench.baselines.gated import Gated
from moeload_bench.baselines.sw_avg import SlidingWindowAverage
from moeload_bench.baselines.sw_avg_conformal import ConformalWindowAverage

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo, check_forecast
from tests.conftest import synthetic_load_SLE

INFO = TraceInfo(2, 4, 2, (0, 1), 512, 1, "none", 0.0, 0)
REQUEST = ForecastRequest(700, 100, (1, 10, 100), (0.1, 0.5, 0.9))


def run_of(seed: int, steps: int = 800) -> tuple[TraceInfo, StepBlock]:
    """A synthetic run, of a group of its own."""
    load = synthetic_load_SLE(steps, seed=seed)
    return replace(INFO, group=seed), StepBlock(np.arange(steps), load, load.sum(axis=2) // 2)


def test_the_shares_are_those_of_sw_avg_and_quantiles_lie_around_them() -> None:
    """To the last digit; without anything fitted, or without levels asked for, there are no quantiles."""
    fitted = ConformalWindowAverage.fit([run_of(1), run_of(2)], 0)
    _, block = run_of(3, 700)
    plain, conformal = SlidingWindowAverage(INFO, 0), ConformalWindowAverage(INFO, 0, fitted)
    bare = ConformalWindowAverage(INFO, 0)
    for each in (plain, conformal, bare):
        each.observe(block)
    told = check_forecast(conformal.forecast(REQUEST), REQUEST, INFO)
    np.testing.assert_array_equal(told.share_BLE, plain.forecast(REQUEST).share_BLE)
    assert told.quantile_QKLE is not None
    assert (told.quantile_QKLE[2] > told.quantile_QKLE[0]).mean() > 0.9
    assert bare.forecast(REQUEST).quantile_QKLE is None
    assert conformal.forecast(replace(REQUEST, quantiles=())).quantile_QKLE is None
    assert conformal.counts == {"forecasts": 2, "without_quantiles": 1}


def test_quantiles_cover_what_they_say_on_runs_of_the_same_kind() -> None:
    """Calibrated on six runs, asked on six others: 0.8 to within a tenth."""
    fitted = ConformalWindowAverage.fit([run_of(seed) for seed in range(6)], 0)
    inside = []
    for seed in range(6, 12):
        info, block = run_of(seed)
        forecaster, true, fed = ConformalWindowAverage(info, 0, fitted), WindowTruth(info, block), 0
        for origin in range(300, 700, 50):
            part = slice(fed, origin)
            forecaster.observe(StepBlock(block.step_S[part], block.load_SLE[part], block.tokens_SL[part]))
            fed = origin
            low, _, high = forecaster.forecast(REQUEST).quantile_QKLE
            truth = true.means(origin, REQUEST.horizons)
            inside.append(((low <= truth) & (truth <= high)).mean())
    assert np.mean(inside) == pytest.approx(0.8, abs=0.1)


def test_levels_and_horizons_between_the_calibrated_ones() -> None:
    """Any level, any horizon: rising along the levels, between the factors of the neighbouring horizons."""
    residuals = Residuals()
    rng = np.random.default_rng(0)
    for run in range(3):
        for k in range(len(HORIZONS)):
            truth = np.full((len(HORIZONS), 2, 4), np.nan)
            truth[k] = rng.normal(size=(2, 4)) * (k + 1)
            still = np.array([False, True])
            residuals.add(run, np.zeros_like(truth), truth, np.ones_like(truth), still)
    spread = residuals.spread()
    assert spread is not None
    horizons, levels = (3, 5000), (0.001, 0.33, 0.5, 0.97)
    mean, scale = np.full((2, 2, 4), 0.5), np.full((2, 2, 4), 0.01)
    quantile = spread.quantiles(levels, horizons, mean, scale, np.array([False, True]))
    assert quantile.shape == (4, 2, 2, 4)
    assert (np.diff(quantile, axis=0) >= 0).all()
    factor = (quantile[1, 1, 0, 0] - 0.5) / 0.01
    assert factor == pytest.approx(np.interp(0.33, LEVELS, spread.factor_CKQ[0, -1]), rel=1e-5)


def test_every_run_counts_the_same() -> None:
    """A run with a hundred times the residuals moves the quantiles no more than another."""
    residuals = Residuals()
    ones = np.ones((len(HORIZONS), 1, 2))
    for run, times, value in ((0, 100, 1.0), (1, 1, -1.0)):
        for _ in range(times):
            residuals.add(run, np.zeros_like(ones), value * ones, ones, np.array([True]))
    spread = residuals.spread()
    assert spread is not None
    median = spread.factor_CKQ[1, 0, LEVELS.index(0.5)]
    assert -1 < median < 1
    np.testing.assert_array_equal(spread.factor_CKQ[0], spread.factor_CKQ[1])  # no still layer was seen


def test_nothing_seen_gives_nothing() -> None:
    """No run, one run, or runs that are too short: nothing is fitted; what is no archive is refused."""
    assert Residuals().spread() is None
    assert ConformalWindowAverage.fit([run_of(1)], 0) == b""
    assert ConformalWindowAverage.fit([run_of(1, 30), run_of(2, 30)], 0) == b""
    for data in (b"no archive", Spread(np.zeros((2, 5, 3), np.float32)).to_bytes()):
        with pytest.raises(TargetError, match="quantiles: "):
            ConformalWindowAverage(INFO, 0, data)


def test_a_switch_makes_a_layer_move_and_steady_loads_do_not() -> None:
    """From 256 rows on; before that every layer counts as moving."""
    rng = np.random.default_rng(0)
    steady = rng.multinomial(4000, [0.4, 0.3, 0.2, 0.1], (600, 1))
    switch = np.concatenate([steady[:500], rng.multinomial(4000, [0.1, 0.2, 0.3, 0.4], (100, 1))])
    info = replace(INFO, num_layers=1, layer_indices=(0,))
    found = []
    for load in (steady[:200], steady, switch):
        memory = Memory(info)
        memory.observe(StepBlock(np.arange(len(load)), load, load.sum(axis=2)))
        found.append(bool(moving(memory)[0]))
    assert found == [True, False, True]


def test_gated_gives_quantiles_with_the_weights_that_ship() -> None:
    """For any shape and horizon; not before five rows; none where none are asked for."""
    _, block = run_of(4, 700)
    forecaster = Gated(INFO, 0)
    forecaster.observe(StepBlock(block.step_S[:4], block.load_SLE[:4], block.tokens_SL[:4]))
    assert forecaster.forecast(REQUEST).quantile_QKLE is None
    forecaster.observe(StepBlock(block.step_S[4:], block.load_SLE[4:], block.tokens_SL[4:]))
    told = check_forecast(forecaster.forecast(REQUEST), REQUEST, INFO)
    assert told.quantile_QKLE is not None
    mean_KLE = told.window_means(REQUEST.horizons)
    assert ((told.quantile_QKLE[0] <= mean_KLE + 1e-3) & (mean_KLE <= told.quantile_QKLE[2] + 1e-3)).all()
    assert forecaster.forecast(replace(REQUEST, quantiles=())).quantile_QKLE is None
