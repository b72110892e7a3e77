"""Traces and a benchmark for forecasting expert load while Mixture-of-Experts models train."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeload_bench.errors import MoeloadError
    from moeload_bench.forecaster import Forecast, Forecaster, ForecastRequest, StepBlock, TraceInfo
    from moeload_bench.harness.conformance import check_forecaster
    from moeload_bench.harness.evaluate import evaluate
    from moeload_bench.harness.rescore import rescore
    from moeload_bench.isolation.hosts import Limits
    from moeload_bench.ops.facts.events import Event
    from moeload_bench.ops.facts.inspector import inspect_trace
    from moeload_bench.ops.facts.page import report
    from moeload_bench.ops.interchange.importing import import_log
    from moeload_bench.ops.interchange.routing_export import routing
    from moeload_bench.ops.live.monitor import LoadMonitor, Snapshot, replay
    from moeload_bench.ops.planning.advice import Advice, AdviceRule
    from moeload_bench.ops.planning.cluster import Cluster
    from moeload_bench.ops.planning.planner import Settings, compare_policies
    from moeload_bench.placement.plans import ClusterShape
    from moeload_bench.placement.replan import CostModel
    from moeload_bench.placement.vllm_eplb import VllmEplb
    from moeload_bench.recording.callback import LoadRecorder
    from moeload_bench.recording.recorder import record
    from moeload_bench.results.results import load_results
    from moeload_bench.suites.suite import load_suite
    from moeload_bench.traces.lookup import list_traces, load_trace
    from moeload_bench.traces.store import write_trace
    from moeload_bench.traces.trace import Trace

__all__ = [
    "Advice",
    "AdviceRule",
    "Cluster",
    "ClusterShape",
    "CostModel",
    "Event",
    "Forecast",
    "ForecastRequest",
    "Forecaster",
    "Limits",
    "LoadMonitor",
    "LoadRecorder",
    "MoeloadError",
    "Settings",
    "Snapshot",
    "StepBlock",
    "Trace",
    "TraceInfo",
    "VllmEplb",
    "__version__",
    "check_forecaster",
    "compare_policies",
    "evaluate",
    "import_log",
    "inspect_trace",
    "list_traces",
    "load_results",
    "load_suite",
    "load_trace",
    "record",
    "replay",
    "report",
    "rescore",
    "routing",
    "write_trace",
]


def _by_name(modules: dict[str, str]) -> dict[str, str]:
    return {name: module for module, names in modules.items() for name in names.split()}


_HOME = _by_name({
    "errors": "MoeloadError",
    "harness.conformance": "check_forecaster",
    "harness.evaluate": "evaluate",
    "harness.rescore": "rescore",
    "forecaster": "Forecast Forecaster ForecastRequest StepBlock TraceInfo",
    "ops.interchange.importing": "import_log",
    "ops.interchange.routing_export": "routing",
    "isolation.hosts": "Limits",
    "ops.planning.advice": "Advice AdviceRule",
    "ops.planning.cluster": "Cluster",
    "ops.facts.events": "Event",
    "ops.facts.inspector": "inspect_trace",
    "ops.planning.planner": "Settings compare_policies",
    "ops.live.monitor": "LoadMonitor Snapshot replay",
    "ops.facts.page": "report",
    "placement.plans": "ClusterShape",
    "placement.replan": "CostModel",
    "placement.vllm_eplb": "VllmEplb",
    "recording": "LoadRecorder record",
    "results.results": "load_results",
    "suites.suite": "load_suite",
    "traces.lookup": "list_traces load_trace",
    "traces.store": "write_trace",
    "traces.trace": "Trace",
})  # fmt: skip


if not Path(__path__[0], "baselines").is_dir():  # a checkout, installed or not: they lie beside the package there
    __path__.append(str(Path(__path__[0]).parent))


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that the command line starts fast."""
    if name == "__version__":
        from importlib.metadata import version

        return version("moeload-bench")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'moeload_bench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"moeload_bench.{home}"), name)
