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
    from moeload_bench.recording.callback import LoadRecorder as LoadRecorder
    from moeload_bench.recording.engines import deepspeed_routing as deepspeed_routing
    from moeload_bench.recording.engines import megatron_routing as megatron_routing
    from moeload_bench.recording.engines import nemo_automodel_routing as nemo_automodel_routing
    from moeload_bench.recording.engines import olmo_core_routing as olmo_core_routing
    from moeload_bench.recording.engines import torchtitan_routing as torchtitan_routing
    from moeload_bench.recording.recorder import Recorder as Recorder
    from moeload_bench.recording.recorder import record as record
    from moeload_bench.recording.routers import Routing as Routing
    from moeload_bench.recording.stages import Stage as Stage
    from moeload_bench.recording.stages import merge_stages as merge_stages

_HOME = {
    "LoadRecorder": "callback",
    "Recorder": "recorder",
    "record": "recorder",
    "Routing": "routers",
    "Stage": "stages",
    "merge_stages": "stages",
    **dict.fromkeys(
        ("deepspeed_routing", "megatron_routing", "nemo_automodel_routing", "olmo_core_routing", "torchtitan_routing"),
        "engines",
    ),
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("torch", "transformers"):
            raise MissingExtraError(error.name, "record", f"moeload_bench.recording.{name}") from None
        raise
