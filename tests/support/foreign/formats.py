"""Every format of `import` by its writer and what its reader needs, on one set of choices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moeload_bench.ops.interchange.importing import import_log
from moeload_bench.traces.trace import Trace
from tests.conftest import need
from tests.support.foreign import logs

CHOSEN = logs.choices()
STAGES = {"pipeline_parallel": 2, "stage_layers": 2}
LAYOUT = {"expert_parallel": 4, **STAGES}
WRITERS: dict[str, Callable[..., Path]] = {
    "npz": logs.archive,
    "csv": logs.table,
    "jsonl": logs.jsonl,
    "megatron-tokens": logs.megatron_tokens,
    "megatron-routing": logs.megatron_routing,
    "load-history": logs.load_history,
    "routed": logs.routed,
    "sglang": logs.sglang_stat,
    "ultra-ep": logs.ultra_ep,
    "flame-moe": logs.flame_moe,
    "wandb": logs.wandb,
    "tensorboard": logs.tensorboard,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "megatron-tokens": LAYOUT,
    "megatron-routing": {"experts": 8, **STAGES},
    "flame-moe": {"experts": 8},
    "load-history": {"interval": 10},
    "routed": {"experts": 8},
    "ultra-ep": {"micro_batches": 2},
}
FILES = {"npz": "counts.npz", "csv": "counts.csv"}
TORCH = ("sglang",)
READERS = {"sglang": ("torch", "torch"), "load-history": ("ijson", "import")}
"""Packages that a format's reader needs, and the extra that brings each."""


def made(name: str, folder: Path) -> Path:
    """The log of a format in ``folder``."""
    if name in READERS:
        package, extra = READERS[name]
        need(package, f"pip install '.[{extra}]'")
    return WRITERS[name](folder / name, CHOSEN)


def imported(name: str, path: Path, out: Path, **options: Any) -> Trace:
    """Read and written by the importer of a format."""
    source = path / FILES[name] if name in FILES else path
    return import_log(source, out, format=name, **OPTIONS.get(name, {}), **options)
