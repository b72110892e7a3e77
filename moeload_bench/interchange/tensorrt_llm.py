"""TensorRT-LLM's expert statistics.

Read from NVIDIA/TensorRT-LLM at c85e8726, `tensorrt_llm/_torch/expert_statistic.py` (and `examples/ep_load_balancer`),
switched on with `EXPERT_STATISTIC_ITER_RANGE=100-200 EXPERT_STATISTIC_PATH=DIR`. It writes `meta_info.json` with
`num_experts` and `num_experts_per_token`, and `rank{r}.safetensors` whose tensors `"{iteration}_{layer}"` hold the
int32 counts [E] of the experts that this rank's tokens chose, before any drop. With attention data parallelism each
rank has tokens of its own. Without it all ranks hold the same counts, which must be taken once (`--replicated`).
Iterations are passes of an inference engine, not training steps.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from moeload_bench.arrays import IntArray
from moeload_bench.errors import TraceError, printable
from moeload_bench.interchange.logfiles import (
    Paths,
    Progress,
    files_by_number,
    find_files,
    same_on_all,
    whole_counts,
)
from moeload_bench.interchange.rows import Log, LogRow, Report
from moeload_bench.schema import read_json
from moeload_bench.traces.tensors import Tensor, read_header
from moeload_bench.traces.trace import MAX_COUNT

_DTYPES = {"I32": "<i4", "I64": "<i8"}
Number = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]


class _MetaInfo(BaseModel):
    num_experts: Number
    num_experts_per_token: Number


def read_tensorrt_llm(paths: Paths, *, replicated: bool = False, report: Report | None = None) -> Log:
    """Return the log of a statistics folder; ``replicated``: every rank saw the same tokens."""
    files = find_files(paths, "rank[0-9]*.safetensors")
    ranks = [_Safetensors(f) for _, f in sorted(files_by_number(files, r"^rank(\d+)\.safetensors$", "rank").items())]
    whole = "JSON with num_experts and num_experts_per_token"
    about = read_json(_MetaInfo, files[0].parent / "meta_info.json", 1_000_000, whole, TraceError)
    experts, top_k = about.num_experts, about.num_experts_per_token
    keys = _keys(ranks)
    steps, layers = sorted({step for step, _ in keys}), tuple(sorted({layer for _, layer in keys}))
    missing = next(((s, m) for s in steps for m in layers if (s, m) not in keys), None)
    if missing:
        raise TraceError(
            f"{files[0]}: layer {missing[1]} of iteration {missing[0]} is missing, other iterations have it"
        )
    progress = Progress([rank.path for rank in ranks], report)
    rows = _rows(ranks, steps, layers, experts, replicated, progress)
    where = f"{files[0].parent} ({len(ranks)} ranks)"
    return Log(where, layers, experts, rows, top_k=top_k, notes=["iterations of an inference engine"])


def _keys(ranks: list[_Safetensors]) -> set[tuple[int, int]]:
    """Return (iteration, layer) of every tensor; all ranks must hold the same."""
    first = set(ranks[0].tensors)
    for rank in ranks[1:]:
        wrong = first ^ set(rank.tensors)
        if wrong:
            step, layer = min(wrong)
            raise TraceError(f"{rank.path}: layer {layer} of iteration {step} is in one rank only, expected it in all")
    return first


def _rows(
    ranks: list[_Safetensors],
    steps: list[int],
    layers: tuple[int, ...],
    experts: int,
    replicated: bool,
    progress: Progress,
) -> Iterator[LogRow]:
    for done, step in enumerate(steps, 1):
        load = {rank: reader.load_LE(step, layers, experts) for rank, reader in enumerate(ranks)}
        same = same_on_all(load)
        if replicated and len(ranks) > 1 and not same:
            raise TraceError(f"{ranks[0].path}: ranks differ in iteration {step}, expected the same (--replicated)")
        if same and not replicated:
            raise TraceError(
                f"{ranks[0].path}: all {len(ranks)} ranks hold the same counts: without attention data parallelism "
                "every rank counts all tokens; say --replicated to take them once"
            )
        yield LogRow(step, load[0] if replicated else sum(load.values(), np.zeros_like(load[0])), str(ranks[0].path))
        progress.at(progress.total * done // len(steps), f"iteration {step}")


class _Safetensors:
    """The counts in one safetensors file, read a tensor at a time; ``tensors`` has those of (iteration, layer)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            header = read_header(path)
        except ValueError as error:
            raise TraceError(f"{path}: {error}") from None
        self._data = header.start
        self.tensors = {self._key(name, tensor): tensor for name, tensor in header.tensors.items()}
        if not self.tensors:
            raise TraceError(f"{path}: holds no tensor, expected one per iteration and layer")

    def _key(self, name: str, tensor: Tensor) -> tuple[int, int]:
        key = re.fullmatch(r"([0-9]{1,18})_([0-9]{1,18})", name)
        if key is None:
            raise TraceError(
                f"{self.path}: tensor {printable(name)[:80]!r}, expected names like 100_3 (iteration, layer)"
            )
        if tensor.dtype not in _DTYPES or len(tensor.shape) != 1:
            raise TraceError(
                f"{self.path}: tensor {name} is {tensor.dtype} {list(tensor.shape)}, expected I32 or I64 counts of one "
                "axis"
            )
        return int(key[1]), int(key[2])

    def load_LE(self, step: int, layers: tuple[int, ...], experts: int) -> IntArray:
        """Return the counts of one iteration."""
        with self.path.open("rb") as file:
            return np.stack([self._counts(file, step, layer, experts) for layer in layers])

    def _counts(self, file: Any, step: int, layer: int, experts: int) -> IntArray:
        tensor, what = self.tensors[step, layer], f"{step}_{layer}"
        file.seek(self._data + tensor.data_offsets[0])
        load_E = whole_counts(np.frombuffer(file.read(tensor.size), _DTYPES[tensor.dtype]), what, str(self.path))
        if len(load_E) != experts:
            raise TraceError(f"{self.path}: tensor {what} has {len(load_E)} counts, expected {experts} experts")
        return load_E
