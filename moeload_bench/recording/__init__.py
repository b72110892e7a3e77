"""Exact expert loads from real training: recorder, context manager, router adapters.

    from moeload_bench.recording import LoadRecorder, record

`LoadRecorder` is a callback for transformers' Trainer, `record` a context manager for any PyTorch loop. Names are
loaded on first use: torch and transformers are heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moeload_bench.errors import MissingExtraError

if TYPE_CHECKING:
    from moeload_bench.recording.callback import LoadRecorder
    from moeload_bench.recording.engines import (
        deepspeed_routing,
        megatron_routing,
        nemo_automodel_routing,
        olmo_core_routing,
        torchtitan_routing,
    )
    from moeload_bench.recording.recorder import Recorder, record
    from moeload_bench.recording.routers import Routing
    from moeload_bench.recording.stages import Stage, merge_stages

__all__ = [
    "LoadRecorder",
    "Recorder",
    "Routing",
    "Stage",
    "deepspeed_routing",
    "megatron_routing",
    "merge_stages",
    "nemo_automodel_routing",
    "olmo_core_routing",
    "record",
    "torchtitan_routing",
]

_HOME = {
    "LoadRecorder": "callback",
    "Recorder": "recorder",
    "Routing": "routers",
    "Stage": "stages",
    "deepspeed_routing": "engines",
    "megatron_routing": "engines",
    "merge_stages": "stages",
    "nemo_automodel_routing": "engines",
    "olmo_core_routing": "engines",
    "torchtitan_routing": "engines",
    "record": "recorder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("torch", "transformers"):
            raise MissingExtraError(error.name, "record", f"moeload_bench.recording.{name}") from None
        raise
