"""Traces and a benchmark for forecasting expert load while Mixture-of-Experts models train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeload_bench.evaluation import evaluate
    from moeload_bench.forecaster import Forecast, Forecaster, ForecastRequest, StepBlock, TraceInfo
    from moeload_bench.results import Result, Results, load_result
    from moeload_bench.store import list_traces, load_trace, write_trace
    from moeload_bench.suite import Suite, load_suite, suite_for_trace
    from moeload_bench.trace import Trace, TraceMeta

_HOME = {
    "evaluate": "evaluation",
    "Forecast": "forecaster",
    "ForecastRequest": "forecaster",
    "Forecaster": "forecaster",
    "StepBlock": "forecaster",
    "TraceInfo": "forecaster",
    "Result": "results",
    "Results": "results",
    "load_result": "results",
    "list_traces": "store",
    "load_trace": "store",
    "write_trace": "store",
    "Suite": "suite",
    "load_suite": "suite",
    "suite_for_trace": "suite",
    "Trace": "trace",
    "TraceMeta": "trace",
}
__all__ = [
    "Forecast",
    "ForecastRequest",
    "Forecaster",
    "Result",
    "Results",
    "StepBlock",
    "Suite",
    "Trace",
    "TraceInfo",
    "TraceMeta",
    "evaluate",
    "list_traces",
    "load_result",
    "load_suite",
    "load_trace",
    "suite_for_trace",
    "write_trace",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that the command line starts fast."""
    if name not in _HOME:
        raise AttributeError(f"module 'moeload_bench' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"moeload_bench.{_HOME[name]}"), name)
