"""Public names for watching a run while it trains; the code is in `moeload_bench.inspection`.

`LoadMonitor` watches a training and `replay` a trace: both give the same at the same step. Names are loaded when they
are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeload_bench.inspection.advice import Advice, AdviceRule
    from moeload_bench.inspection.cluster import Cluster
    from moeload_bench.inspection.events import Event
    from moeload_bench.inspection.monitor import LoadMonitor, Snapshot, replay
    from moeload_bench.inspection.planning import Settings

__all__ = ["Advice", "AdviceRule", "Cluster", "Event", "LoadMonitor", "Settings", "Snapshot", "replay"]

_HOME = {
    "Advice": "advice",
    "AdviceRule": "advice",
    "Cluster": "cluster",
    "Event": "events",
    "LoadMonitor": "monitor",
    "Settings": "planning",
    "Snapshot": "monitor",
    "replay": "monitor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"moeload_bench.inspection.{_HOME[name]}"), name)
