"""No forecast depends on what comes after its origin: with an altered one, every baseline forecasts the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moeload_bench.forecaster import Forecast, trace_info
from moeload_bench.harness import replay
from moeload_bench.isolate import open_host
from moeload_bench.targets import baseline_names, parse_target
from moeload_bench.trace import Trace
from tests.conftest import synthetic_trace

ORIGIN, STEPS = 130, 200
SLOW_BASELINES = ("arima", "lstm")


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


def forecasts(name: str, trace: Trace) -> list[Forecast]:
    """What it says before and at the origin, in a process of its own."""
    with open_host(parse_target(name), trace_info(trace), seed=0, level="process") as host:
        found = [answer.forecast for answer in replay(trace, host, [60, ORIGIN], (1, 10, 60))]
    assert all(one is not None for one in found)
    return [one for one in found if one is not None]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW_BASELINES else name for name in baseline_names()],
)
def test_an_altered_future_changes_no_forecast(name: str) -> None:
    """At the origin and before it, to the last bit; the two traces do differ after it."""
    trace = synthetic_trace(STEPS)
    other = altered(trace)
    assert not np.array_equal(trace.load_SLE[ORIGIN:], other.load_SLE[ORIGIN:])
    for one, two in zip(forecasts(name, trace), forecasts(name, other), strict=True):
        np.testing.assert_array_equal(one.share_BLE, two.share_BLE)
        np.testing.assert_array_equal(one.edges_B, two.edges_B)
