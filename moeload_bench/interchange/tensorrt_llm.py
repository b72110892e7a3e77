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

import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field

from moeload_bench.errors import TraceError, printable
from moeload_bench.interchange.logfiles import Paths, Progress, files_by_number, find_files, whole_counts
from moeload_bench.interchange.rank_logs import Rank, RankStep, log_of_ranks, same_on_all
from moeload_bench.interchange.rows import Log, Report
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
    files = files_by_number(find_files(paths, "rank[0-9]*.safetensors"), r"^rank(\d+)\.safetensors$", "rank")
    content = "JSON with num_experts and num_experts_per_token"
    about = read_json(_MetaInfo, files[0].parent / "meta_info.json", 1_000_000, content, TraceError)
    progress = Progress([*files.values()], report)
    return log_of_ranks(
        [Rank(files[rank], _steps(files[rank], progress)) for rank in sorted(files)],
        "iteration",
        functools.partial(_counting, replicated=replicated),
        about.num_experts,
        top_k=about.num_experts_per_token,
        notes=["iterations of an inference engine"],
    )


def _counting(ranks: list[RankStep], replicated: bool) -> list[RankStep]:
    """Return the ranks whose counts are taken: all, or one if every rank counts all tokens, as it must say."""
    first = ranks[0]
    same = same_on_all([np.concatenate([*step.load.values()]) for step in ranks])
    if replicated and len(ranks) > 1 and not same:
        raise TraceError(f"{first.where}: ranks differ in iteration {first.number}, expected the same (--replicated)")
    if same and not replicated:
        raise TraceError(
            f"{first.where}: all {len(ranks)} ranks hold the same counts: without attention data parallelism every "
            "rank counts all tokens; say --replicated to take them once"
        )
    return ranks[:1] if replicated else ranks


def _steps(path: Path, progress: Progress) -> Iterator[RankStep]:
    """Yield the iterations of one rank, a tensor in memory at a time."""
    try:
        header = read_header(path)
    except ValueError as error:
        raise TraceError(f"{path}: {error}") from None
    progress.add(header.start, path.name)
    keys = {_key(name, tensor, path): tensor for name, tensor in header.tensors.items()}
    with path.open("rb") as file:
        for number, group in itertools.groupby(sorted(keys), key=lambda key: key[0]):
            step = RankStep(number, str(path))
            for _, layer in group:
                tensor = keys[number, layer]
                file.seek(header.start + tensor.data_offsets[0])
                load_E = np.frombuffer(file.read(tensor.size), _DTYPES[tensor.dtype])
                where = f"{path}, tensor {number}_{layer}"
                step.put(layer, whole_counts(load_E, f"{number}_{layer}", str(path)), where)
                progress.add(tensor.size, path.name)
            yield step


def _key(name: str, tensor: Tensor, path: Path) -> tuple[int, int]:
    """Return the iteration and the layer of a tensor; raise `TraceError` for one that holds no counts."""
    key = re.fullmatch(r"([0-9]{1,18})_([0-9]{1,18})", name)
    if key is None:
        raise TraceError(f"{path}: tensor {printable(name)[:80]!r}, expected names like 100_3 (iteration, layer)")
    if tensor.dtype not in _DTYPES or len(tensor.shape) != 1:
        got = f"{tensor.dtype} {list(tensor.shape)}"
        raise TraceError(f"{path}: tensor {name} is {got}, expected I32 or I64 counts of one axis")
    return int(key[1]), int(key[2])
