"""A run watched while it trains: has it stabilised, which experts die, is it time to move them? This room answers.

`LoadMonitor` in a training, `replay` on a trace: what is said at a step is what a replay of the recorded trace says at
that step. Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeload_bench.live.advice import Advice, AdviceRule
    from moeload_bench.live.cluster import Cluster
    from moeload_bench.live.core import Settings, Snapshot, replay
    from moeload_bench.live.monitor import LoadMonitor

__all__ = ["Advice", "AdviceRule", "Cluster", "LoadMonitor", "Settings", "Snapshot", "replay"]

_HOME = {
    "Advice": "advice",
    "AdviceRule": "advice",
    "Cluster": "cluster",
    "LoadMonitor": "monitor",
    "Settings": "core",
    "Snapshot": "core",
    "replay": "core",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
