"""`average_tuned`: what it chooses, from which runs, and that a forecast is the averages it chose."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from baselines.average_tuned import CANDIDATES, HORIZONS, SHIPPED, AverageTuned, best_averages
from moeload_bench.errors import TargetError
from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo, trace_info
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.lookup import load_trace
from tests.baselines.test_rules import window_mean
from tests.conftest import synthetic_trace

Run = tuple[TraceInfo, StepBlock]


def drawn(tokens: int, drift: float, *, steps: int = 1200, group: int = 0, seed: int = 0) -> Run:
    """A run whose log loads walk by ``drift`` a step, counted with multinomial noise."""
    rng = np.random.default_rng(seed)
    log_SLE = np.cumsum(rng.normal(0, drift, (steps, 2, 8)), axis=0)
    p_SLE = np.exp(log_SLE) / np.exp(log_SLE).sum(axis=2, keepdims=True)
    load_SLE = rng.multinomial(tokens, p_SLE)
    info = TraceInfo(2, 8, 1, (0, 1), tokens, 1, "none", 0.0, group)
    return info, StepBlock(np.arange(steps), load_SLE, load_SLE.sum(axis=2))


def reach(name: str) -> int:
    return int(name.split()[1])


def table(chosen: str = "window 1", **cells: tuple[str, ...]) -> bytes:
    return json.dumps({**dict.fromkeys(SHIPPED, (chosen,) * len(HORIZONS)), **cells}).encode()


def forecaster(run: Run, fitted: bytes | None = None, rows: int | None = None) -> Any:
    out = AverageTuned(run[0], 0, fitted)
    out.observe(run[1] if rows is None else run[1].rows(0, rows))
    return out


def test_noise_asks_for_a_longer_average_than_drift_does() -> None:
    """At every horizon, whichever state the run was taken to be in."""
    noisy = best_averages([drawn(200, 0.0)])
    restless = best_averages([drawn(200_000, 0.05)])
    for cell in ("small still", "large moving"):
        assert reach(noisy[cell][2]) > 8 * reach(restless[cell][2])


def test_sizes_of_batches_are_chosen_apart_and_lend_to_each_other_where_one_has_no_run() -> None:
    """A thousand and a half tokens per expert and row lie between them."""
    small, large = drawn(1_000, 0.02), drawn(100_000, 0.02, group=1)
    both = best_averages([small, large])
    assert both["small moving"] == best_averages([small])["small moving"]
    assert both["large moving"] == best_averages([large])["large moving"] != both["small moving"]
    assert best_averages([small])["large moving"] == both["small moving"]


@pytest.mark.slow
def test_a_recipe_counts_once_however_many_runs_it_has() -> None:
    """A run that is there four times in its group changes nothing; in groups of its own it moves the choice."""
    quiet, restless = drawn(400, 0.0), drawn(400, 0.1, group=1)
    again = [(replace(restless[0], group=group), restless[1]) for group in (2, 3, 4)]
    once = best_averages([quiet, restless])
    assert best_averages([quiet, restless, restless, restless, restless]) == once
    assert reach(best_averages([quiet, restless, *again])["small moving"][2]) < reach(once["small moving"][2])


def test_the_mean_over_each_horizon_is_the_average_that_was_chosen_for_it() -> None:
    """Of windows of 4, 16 and 256 steps over three horizons; a longer horizon does not change a shorter one."""
    run = drawn(50_000, 0.002)
    row = ("window 4", "window 16", "window 256", "window 256", "window 256")
    told = forecaster(run, table(**dict.fromkeys(SHIPPED, row)))
    share_SLE = run[1].load_SLE / run[1].load_SLE.sum(axis=2, keepdims=True)
    for horizons in (HORIZONS[:3], HORIZONS):
        forecast = told.forecast(ForecastRequest(1200, horizons[-1], horizons))
        for horizon, window in zip(horizons, (4, 16, 256, 256, 256), strict=False):
            np.testing.assert_allclose(window_mean(forecast, horizon), share_SLE[-window:].mean(axis=0), atol=1e-9)


def test_it_reads_its_table_by_the_layers_state_and_the_loads_size() -> None:
    """A layer whose shares do not move takes the still row, one that moves the moving row."""
    move, stay = drawn(50_000, 0.05), drawn(50_000, 0.0)
    load_SLE = np.stack([move[1].load_SLE[:, 0], stay[1].load_SLE[:, 0]], axis=1)
    run = (move[0], StepBlock(move[1].step_S, load_SLE, load_SLE.sum(axis=2)))
    fitted = table("decay 2048", **{"large still": ("window 512",) * 5, "large moving": ("window 2",) * 5})
    share_LE = forecaster(run, fitted).forecast(ForecastRequest(1200, 1, (1,))).share_BLE[0]
    share_SLE = load_SLE / load_SLE.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(share_LE[0], share_SLE[-2:, 0].mean(axis=0))
    np.testing.assert_allclose(share_LE[1], share_SLE[-512:, 1].mean(axis=0))


@pytest.mark.parametrize("fitted", [b"[]", b"{}", b"\xff", table("window 5"), table("decay")])
def test_what_fit_did_not_return_is_refused(fitted: bytes) -> None:
    """By a message, whatever the bytes."""
    with pytest.raises(TargetError, match="average_tuned: "):
        AverageTuned(drawn(100, 0.0, steps=30)[0], 0, fitted)


def test_without_runs_the_shipped_averages_are_used() -> None:
    """`fit` of a suite without `train` runs returns nothing."""
    assert AverageTuned.fit([], 0) == b""
    run = drawn(400, 0.01, steps=300)
    one, other = forecaster(run, b""), forecaster(run, json.dumps(SHIPPED).encode())
    request = ForecastRequest(300, 2000, HORIZONS)
    np.testing.assert_array_equal(one.forecast(request).share_BLE, other.forecast(request).share_BLE)


def test_a_run_too_short_to_be_tried_teaches_nothing() -> None:
    """Beside one that is long enough it changes nothing."""
    long = drawn(400, 0.01)
    assert best_averages([long, drawn(400, 0.01, steps=10, group=1)]) == best_averages([long])
    assert best_averages([drawn(400, 0.01, steps=10)]) == SHIPPED
    trace = synthetic_trace(40)
    assert set(best_averages([(trace_info(trace), trace.rows(0, 40))])["small still"]) <= set(CANDIDATES)


@pytest.mark.slow
def test_the_shipped_averages_are_those_of_the_train_runs_of_v3() -> None:
    """As `fit` chooses them."""
    suite = load_suite("v3")
    traces = [load_trace(run.id) for run in suite.fit]
    runs = [(trace_info(trace, suite.group_of(trace.id)), trace.rows(0, trace.steps)) for trace in traces]
    assert json.loads(AverageTuned.fit(runs, 0)) == {cell: list(row) for cell, row in SHIPPED.items()}
