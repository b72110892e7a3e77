"""Turn foreign logs into traces: which formats there are, and what all of their readers share."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from moeload_bench.errors import TraceError, not_found
from moeload_bench.ops.interchange.logfiles import Paths
from moeload_bench.ops.interchange.rows import Imported, Log, Options, Report, Semantics, write_log
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace


class Format(NamedTuple):
    """A foreign format: where it comes from, how its engine is made to write it, and what its counts are."""

    name: str
    files: str
    written_by: str
    counts: str


FORMATS = (
    Format("npz", "FILE.npz, .npy or .pt", "np.savez(load=..., step=..., tokens=...), torch.save", "as you say"),
    Format("csv", "FILE.csv", "step,layer,expert,load or step,layer,load_0,...", "as you say"),
    Format("jsonl", "*.jsonl", "a few lines in any loop: this project's own shape", "before drops; ranks are added"),
    Format(
        "megatron-tokens",
        "tokens_per_expert/rank*.jsonl",
        "Megatron-LM --save-tokens-per-expert-interval N",
        "behind the dispatch: after drops, local experts; put together over ranks and pipeline stages",
    ),
    Format(
        "megatron-routing",
        "router_trace_rank*.jsonl",
        "Megatron-LM --moe-routing-trace-path DIR",
        "before drops; micro-batches with drops are not in the files",
    ),
    Format(
        "load-history",
        "expert-load.json",
        "vLLM: load_history with logical_expert_load",
        "before drops, intervals of inference",
    ),
    Format(
        "routed",
        "*.npy, *.npz",
        "vLLM --enable-return-routed-experts, RL trainers",
        "before drops, a step per request or batch",
    ),
    Format(
        "sglang",
        "expert_distribution_recorder_*.pt",
        "sglang --expert-distribution-recorder-mode stat | per_pass",
        "before drops, passes of inference",
    ),
    Format(
        "ultra-ep",
        "*.manifest.json, *.chunk*.npz",
        "UltraEP: ULTRA_EP_LOAD_PROFILING=1",
        "before drops, a step per M micro-batches",
    ),
    Format("flame-moe", "**/layer_*.parquet", "FLAME-MoE-Traces on the Hub", "before drops, at checkpoints"),
    Format(
        "wandb",
        "history.csv, .parquet or .jsonl",
        "W&B: scan_history(), scalars or histograms",
        "as logged, or shares",
    ),
    Format(
        "tensorboard", "events.out.tfevents.*", "add_scalar per layer and expert", "as logged up to 2^24, or shares"
    ),
)
_MODULES = dict.fromkeys(("npz", "csv", "jsonl"), "counts") | dict.fromkeys(
    ("megatron-tokens", "megatron-routing"), "megatron"
)
"""The modules of formats that do not have one of their own name; the reader of `my-format` is `read_my_format`."""


def import_log(
    source: Paths,
    out: str | Path,
    *,
    format: str,
    top_k: int | None = None,
    tokens: int | None = None,
    counted: Semantics | None = None,
    first_step: int | None = None,
    last_step: int | None = None,
    layers: Sequence[int] | int | None = None,
    meta: Mapping[str, Any] | None = None,
    **more: Any,
) -> Trace:
    """Write an engine's log as the trace ``out`` and return it; `moeload-bench import FORMAT` does the same.

    ``source``: a file, a folder, a glob, or several of them. ``tokens`` is the number that enters a layer in a step, if
    the log has none. ``layers``: the numbers of the MoE layers in the model, or the first of them, where the log
    numbers them from 0. ``counted`` overrides what the format's counts are. ``meta`` goes into `TraceMeta`. ``more``
    are the format's own options, named like those of the command (`expert_parallel`, `experts`, `pattern`, ...).

    Raise `NotFoundError` for an unknown format, and `TraceError` that names file and line, or the missing option.
    """
    numbers = layers if isinstance(layers, int | None) else tuple(layers)
    options = Options(top_k, tokens, counted, first_step, last_step, {"recipe": "own", **(meta or {})}, numbers)
    import_from(format, source, Path(out), options, **more)
    return read_trace(out)


def import_from(
    format: str,
    source: Paths,
    out: Path,
    options: Options,
    report: Report | None = None,
    **more: Any,
) -> Imported:
    """Write a log as the trace ``out``; say how large it is and what a reader should know."""
    if format not in (names := [entry.name for entry in FORMATS]):
        raise not_found("format", format, names)
    name = format.replace("-", "_")
    module = importlib.import_module(f"{__package__}.{_MODULES.get(format, name)}")
    read: Callable[..., Log] = getattr(module, f"read_{name}")
    try:
        inspect.signature(read).bind(source, **more)
    except TypeError as error:  # an option that the format lacks, or needs and did not get
        raise TraceError(f"format {format}: {error}") from None
    return write_log(read(source, report=report, **more), out, options)
