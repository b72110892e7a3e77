"""FLAME-MoE's routing traces: choices of single tokens at a few checkpoints of a training.

Read from the dataset CMU-FLAME/FLAME-MoE-Traces (Apache-2.0), as its users describe it: parquet files, one per
checkpoint and layer, with a row per token and a list column `indices` of the experts chosen (top-6 of 64; a column
`scores` too). Checkpoint and layer are taken from the path (`.../540/layer_02...parquet`): the last number in the
folders below the common one, and the number after `layer_`. Choices are before any drop. Checkpoints lie hundreds of
steps apart, and the last one is off the stride (5400, then 5473): `--last-step` leaves it out.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import TraceError, printable
from moeload_bench.ops.interchange.logfiles import Paths, Progress, find_files
from moeload_bench.ops.interchange.rank_logs import RankStep, added
from moeload_bench.ops.interchange.rows import Log, Report
from moeload_bench.traces.parquet import check_cost, open_mapped

_ROWS = 1 << 16


def read_flame_moe(paths: Paths, experts: int, *, column: str = "indices", report: Report | None = None) -> Log:
    """Return the log in a folder of checkpoints; ``experts`` per layer is needed because the files do not say it."""
    by_step: dict[int, dict[int, list[Path]]] = {}
    files = find_files(paths, "**/*.parquet")
    common = Path(os.path.commonpath([file.parent for file in files]))
    for file in files:
        step, layer = _place(file, common)
        by_step.setdefault(step, {}).setdefault(layer, []).append(file)
    layers = tuple(sorted(set().union(*by_step.values())))
    counter = _Counter(experts, column)
    first = by_step[min(by_step)]
    counter.count(first[min(first)][0], look_only=True)
    progress = Progress(files, report)
    rows = (added([_checkpoint(step, by_step[step], counter, progress)], layers, experts) for step in sorted(by_step))
    notes = ["snapshots at checkpoints: no step between two of them was recorded"]
    return Log(str(common), layers, experts, rows, top_k=counter.top_k, notes=notes)


def _place(file: Path, common: Path) -> tuple[int, int]:
    layer = re.search(r"layer[_-]?(\d+)", str(file.relative_to(common)))
    folders = re.findall(r"\d+", re.sub(r"layer[_-]?\d+", "", str(file.relative_to(common).parent)))
    folders = folders or re.findall(r"\d+", common.name)
    if layer is None or not folders:
        raise TraceError(f"{file}: expected a path with the checkpoint's number and layer_N, as 540/layer_02.parquet")
    return int(folders[-1]), int(layer[1])


def _checkpoint(number: int, files: Mapping[int, list[Path]], counter: _Counter, progress: Progress) -> RankStep:
    """Return what the files of one checkpoint hold, by layer."""
    step = RankStep(number, str(files[min(files)][0]))
    for layer in sorted(files):
        counted = [counter.count(file) for file in files[layer]]
        step.put(layer, np.sum([load_E for load_E, _ in counted], axis=0), str(files[layer][0]))
        step.tokens[layer] = sum(tokens for _, tokens in counted)
        progress.add(sum(file.stat().st_size for file in files[layer]), f"checkpoint {number}")
    return step


class _Counter:
    """Counts the choices in a file, a batch of rows at a time."""

    def __init__(self, experts: int, column: str) -> None:
        self.experts, self.column = experts, column
        self.top_k: int | None = None

    def count(self, path: Path, look_only: bool = False) -> tuple[IntArray, int]:
        """Return load [E] and number of tokens; ``look_only`` reads one batch, for top-k."""
        load_E, tokens = np.zeros(self.experts, dtype=np.int64), 0
        with open_mapped(path) as opened:
            file = opened.reader
            if self.column not in file.schema_arrow.names:
                got = printable(", ".join(file.schema_arrow.names))[:200]
                raise TraceError(f"{path}: no column {self.column!r}; there is: {got}")
            check_cost(opened)
            for batch in file.iter_batches(_ROWS, columns=[self.column], use_threads=False):
                load_E += self._batch(batch.column(0), f"{path}, from row {tokens}")
                tokens += len(batch)
                if look_only:
                    break
        return load_E, tokens

    def _batch(self, lists: object, where: str) -> IntArray:
        import pyarrow as pa
        import pyarrow.compute as pc

        if not isinstance(lists, pa.ListArray | pa.FixedSizeListArray | pa.LargeListArray) or lists.null_count:
            raise TraceError(f"{where}: column {self.column} is not a column of lists without empty cells")
        flat = lists.flatten()
        lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
        if not pa.types.is_integer(flat.type) or flat.null_count or len(lengths) > 1:
            raise TraceError(
                f"{where}: column {self.column} holds {lists.type} with {sorted(lengths)[:5]} entries in a row, "
                "expected the same number of whole numbers in each: mixed top-k is not in the format"
            )
        if lengths and self.top_k not in (None, lengths[0]):
            raise TraceError(f"{where}: {lengths[0]} experts per token, other files have {self.top_k}")
        self.top_k = lengths[0] if lengths else self.top_k
        index_P = flat.to_numpy(zero_copy_only=False).astype(np.int64)
        if index_P.size and not (index_P.min() >= 0 and index_P.max() < self.experts):
            bad = index_P.max() if index_P.max() >= self.experts else index_P.min()
            raise TraceError(f"{where}: expert {bad}, expected 0 to {self.experts - 1} (--experts)")
        return np.bincount(index_P, minlength=self.experts)
