"""Traces and a benchmark for forecasting expert load while Mixture-of-Experts models train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeload_bench.errors import MoeloadError
    from moeload_bench.evaluation.conformance import check_forecaster
    from moeload_bench.evaluation.evaluate import evaluate
    from moeload_bench.forecaster import (
        FittedForecaster,
        Forecast,
        Forecaster,
        ForecastRequest,
        StepBlock,
        TraceInfo,
        check_forecast,
        step_block,
        trace_info,
    )
    from moeload_bench.live.page import report
    from moeload_bench.results.record import Result, Results, load_result
    from moeload_bench.suites.suite import Suite, load_suite, suite_for_trace
    from moeload_bench.traces.store import list_traces, load_trace, write_trace
    from moeload_bench.traces.trace import BalancingMeta, LayerMeta, Trace, TraceMeta

_HOME = {
    "check_forecaster": "evaluation.conformance",
    "MoeloadError": "errors",
    "evaluate": "evaluation.evaluate",
    "FittedForecaster": "forecaster",
    "Forecast": "forecaster",
    "ForecastRequest": "forecaster",
    "Forecaster": "forecaster",
    "StepBlock": "forecaster",
    "TraceInfo": "forecaster",
    "check_forecast": "forecaster",
    "step_block": "forecaster",
    "trace_info": "forecaster",
    "report": "live.page",
    "Result": "results.record",
    "Results": "results.record",
    "load_result": "results.record",
    "list_traces": "traces.store",
    "load_trace": "traces.store",
    "write_trace": "traces.store",
    "Suite": "suites.suite",
    "load_suite": "suites.suite",
    "suite_for_trace": "suites.suite",
    "BalancingMeta": "traces.trace",
    "LayerMeta": "traces.trace",
    "Trace": "traces.trace",
    "TraceMeta": "traces.trace",
}
__all__ = [
    "BalancingMeta",
    "FittedForecaster",
    "Forecast",
    "ForecastRequest",
    "Forecaster",
    "LayerMeta",
    "MoeloadError",
    "Result",
    "Results",
    "StepBlock",
    "Suite",
    "Trace",
    "TraceInfo",
    "TraceMeta",
    "check_forecast",
    "check_forecaster",
    "evaluate",
    "list_traces",
    "load_result",
    "load_suite",
    "load_trace",
    "report",
    "step_block",
    "suite_for_trace",
    "trace_info",
    "write_trace",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that the command line starts fast."""
    if name not in _HOME:
        raise AttributeError(f"module 'moeload_bench' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"moeload_bench.{_HOME[name]}"), name)
