"""No forecast depends on what comes after its origin: with an altered one, every baseline forecasts the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moeload_bench.forecaster import Forecast, step_block, trace_info
from moeload_bench.harness.replay import follow
from moeload_bench.isolation.hosts import fit_target
from moeload_bench.isolation.targets import baseline_names, parse_target
from moeload_bench.traces.trace import Trace
from tests.conftest import need, synthetic_trace

ORIGIN, STEPS = 130, 200
SLOW = ("arima", "lstm", "arima@order=[1,1,1]", "lstm@mode=online")


def altered(trace: Trace) -> Trace:
    """The same run up to the origin; after it other loads, tokens, losses: everything that is measured."""
    other = synthetic_trace(STEPS, seed=77)

    def joined(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return np.concatenate([before[:ORIGIN], after[ORIGIN:][::-1]])

    planned = {"lr": trace.columns["lr"]}
    columns = {name: joined(column, other.columns[name]) for name, column in trace.columns.items()} | planned
    return replace(
        trace,
        load_SLE=joined(trace.load_SLE, other.load_SLE),
        tokens_SL=joined(trace.tokens_SL, other.tokens_SL),
        columns=columns,
    )


def forecasts(name: str, trace: Trace, fitted: bytes | None = None) -> list[Forecast]:
    """What it says before and at the origin, in a process of its own."""
    with follow(parse_target(name), trace, seed=0, fitted=fitted, level="process") as feed:
        found = [answer.forecast for answer in feed.answers([60, ORIGIN], (1, 10, 60))]
        fallbacks = feed.host.counts().get("fallback", 0)
    assert all(one is not None for one in found)
    assert fitted is None or fallbacks < 2, "the fitted network was asked"
    return [one for one in found if one is not None]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
        for name in dict.fromkeys([*baseline_names(), *SLOW])
    ],
)
def test_an_altered_future_changes_no_forecast(name: str) -> None:
    """At the origin and before it, to the last bit; the two traces do differ after it."""
    assert_same_forecasts(name, None)


@pytest.mark.slow
def test_an_altered_future_changes_no_forecast_of_a_fitted_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """`lstm` as suites run it: with the bytes of a fit on other runs (a short one: its quality does not matter)."""
    need("torch", "pip install -e '.[torch]'")
    monkeypatch.setattr("moeload_bench.baselines.lstm.OFFLINE_UPDATES", 20)
    run = synthetic_trace(3000, seed=5)
    fit = fit_target(parse_target("lstm"), [(trace_info(run), step_block(run, 0, 3000))], seed=0, level="none")
    assert fit is not None
    assert_same_forecasts("lstm", fit[0])


def assert_same_forecasts(name: str, fitted: bytes | None) -> None:
    """On a trace and on the one that differs from it after the origin."""
    trace = synthetic_trace(STEPS)
    other = altered(trace)
    assert not np.array_equal(trace.load_SLE[ORIGIN:], other.load_SLE[ORIGIN:])
    for one, two in zip(forecasts(name, trace, fitted), forecasts(name, other, fitted), strict=True):
        np.testing.assert_array_equal(one.share_BLE, two.share_BLE)
        np.testing.assert_array_equal(one.edges_B, two.edges_B)
