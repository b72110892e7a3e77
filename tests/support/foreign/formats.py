"""Every format of `import` by its writer and its reader, on one set of choices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moeload_bench.interchange import flame_moe, megatron
from moeload_bench.interchange.jsonlines import read_jsonl
from moeload_bench.interchange.laer_moe import read_laer_moe
from moeload_bench.interchange.npz import import_npz
from moeload_bench.interchange.rows import Options, write_log
from moeload_bench.interchange.sglang import read_sglang
from moeload_bench.interchange.smartmoe import read_smartmoe
from moeload_bench.interchange.table import read_csv
from moeload_bench.interchange.tensorboard import read_tensorboard
from moeload_bench.interchange.tensorrt_llm import read_tensorrt_llm
from moeload_bench.interchange.wandb import read_wandb
from moeload_bench.traces.store import read_trace, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import need
from tests.support.foreign import logs

CHOSEN = logs.choices()
LAYOUT = megatron.Layout(expert=4, pipeline=2, stage_layers=2)

Read = Callable[[Path], Any]
READERS: dict[str, tuple[Callable[..., Path], Read]] = {
    "npz": (logs.archive, lambda f: import_npz(f / "counts.npz", top_k=2)),
    "csv": (logs.table, lambda f: read_csv(f / "counts.csv")),
    "jsonl": (logs.jsonl, lambda f: read_jsonl([f])),
    "megatron-tokens": (logs.megatron_tokens, lambda f: megatron.read_tokens([f], LAYOUT)),
    "megatron-routing": (
        logs.megatron_routing,
        lambda f: megatron.read_trace([f], 8, megatron.Layout(pipeline=2, stage_layers=2)),
    ),
    "sglang": (logs.sglang_stat, lambda f: read_sglang([f])),
    "tensorrt-llm": (logs.tensorrt_llm, lambda f: read_tensorrt_llm([f])),
    "smartmoe": (logs.smartmoe, lambda f: read_smartmoe([f])),
    "laer-moe": (logs.laer_moe, lambda f: read_laer_moe([f], device_loads=True, method="LAER")),
    "flame-moe": (logs.flame_moe, lambda f: flame_moe.read_flame_moe([f], 8)),
    "wandb": (logs.wandb, lambda f: read_wandb([f])),
    "tensorboard": (logs.tensorboard, lambda f: read_tensorboard([f])),
}
TORCH = ("sglang",)
NO_TOP_K = ("laer-moe",)


def made(name: str, folder: Path) -> Path:
    """The log of a format in ``folder``."""
    if name in TORCH:
        need("torch", "pip install '.[torch]'")
    return READERS[name][0](folder / name, CHOSEN)


def imported(name: str, path: Path, out: Path, **options: Any) -> Trace:
    """Read and written by the importer of a format."""
    found = READERS[name][1](path)
    if isinstance(found, Trace):
        write_trace(found, out)
    else:
        write_log(found, out, Options(**options))
    return read_trace(out)
