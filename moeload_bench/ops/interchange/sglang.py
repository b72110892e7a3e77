"""sglang's expert distribution recorder.

Read from sgl-project/sglang at 01fec5c2 (0.5), `python/sglang/srt/eplb/expert_distribution.py`. The server is started
with `--expert-distribution-recorder-mode stat` (or `stat_approx`, `per_pass`); its endpoints start, stop and dump a
recording. The file is `expert_distribution_recorder_{time}.pt` in `SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR`.

*stat*: `{"rank": 0, "logical_count": [steps, L, E]}`, choices of all ranks before any drop. It is the whole buffer as
it lies in memory, 1,000 entries by default (`--expert-distribution-recorder-buffer-size`, -1 for one that grows).
Unused entries are zero. At both ends they are left out (a second recording of one server follows the first). Between
other entries they are refused, because the passes wrap around there. A full buffer may have wrapped around at any
entry: the notes say so. *per_pass*: one file per rank, `{"records": [{"forward_pass_id", "rank",
"global_physical_count": [L, R]}, ...], "last_physical_to_logical_map": [L, R]}`. Replicas are added up to their expert
by the last map, which is wrong if the placement changed during the recording. *per_token* is refused. Layers are all
layers of the model: those without any count (dense ones) are left out and named. Steps are passes of an inference
engine, not training steps.

Axis letters: S passes, L layers, E experts, R physical experts (slots), N records.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import TraceError
from moeload_bench.ops.interchange.logfiles import Paths, Progress, find_files, whole_counts
from moeload_bench.ops.interchange.rows import Log, LogRow, Report
from moeload_bench.ops.interchange.torch_arrays import MAX_BYTES, load_arrays

PER_PASS = frozenset({"physical_count", "pass", "rank", "physical_to_logical"})
"""The arrays that are made of records of single passes."""
UNLIMITED = "--expert-distribution-recorder-buffer-size -1"


def read_sglang(paths: Paths, report: Report | None = None) -> Log:
    """Return the log in one `stat` file, or in the `per_pass` files of all ranks."""
    files = find_files(paths, "expert_distribution_recorder_*.pt")
    loaded = []
    progress = Progress(files, report)
    for file in files:
        loaded.append(load_arrays(file, MAX_BYTES))
        progress.add(file.stat().st_size, file.name)
    kinds = {frozenset(arrays) for arrays in loaded}
    if len(kinds) > 1 or ("logical_count" in loaded[0] and len(files) > 1):
        raise TraceError(
            f"{files[0].parent}: got {len(files)} files, expected one of mode stat or one per rank of per_pass"
        )
    notes = ["passes of an inference engine, from its expert distribution recorder"]
    if not kinds <= {frozenset({"logical_count"}), PER_PASS}:
        raise TraceError(f"{files[0]}: holds {sorted(loaded[0])[:10]}, expected 'logical_count' or 'records'")
    if "logical_count" in loaded[0]:
        step_S, load_SLE, about_buffer = _stat(loaded[0]["logical_count"], str(files[0]))
        notes.append(about_buffer)
    else:
        step_S, load_SLE = _per_pass(loaded, files)
    kept_L = load_SLE.any(axis=(0, 2))
    if not kept_L.any():
        raise _no_count(str(files[0]))
    if not kept_L.all():
        notes.append(f"layers without any count are left out: {', '.join(map(str, np.flatnonzero(~kept_L)))}")
    where = str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
    layers = tuple(int(m) for m in np.flatnonzero(kept_L))
    return Log(where, layers, load_SLE.shape[2], _rows(step_S, load_SLE[:, kept_L], where), notes=notes)


def _rows(step_S: IntArray, load_SLE: IntArray, where: str) -> Iterator[LogRow]:
    for step, load_LE in zip(step_S.tolist(), load_SLE, strict=True):
        yield LogRow(step, np.ascontiguousarray(load_LE), where)


def _no_count(where: str) -> TraceError:
    return TraceError(f"{where}: no count in any layer: was the recorder started before it was dumped?")


def _stat(array: Any, where: str) -> tuple[IntArray, IntArray, str]:
    """Return the passes in a buffer, numbered as its entries, and a note for the reader."""
    load_SLE = whole_counts(array, "logical_count", where, ndim=3)
    used_S = np.asarray(load_SLE.any(axis=(1, 2)))
    step_S = np.flatnonzero(used_S)
    if not step_S.size:
        raise _no_count(where)
    first, last = int(step_S[0]), int(step_S[-1])
    empty_S = first + np.flatnonzero(~used_S[first : last + 1])
    if empty_S.size:
        raise TraceError(
            f"{where}: {empty_S.size} passes have no count (the first is pass {empty_S[0]} of {len(load_SLE)}) where "
            "others before and after have some, expected unused entries of the buffer at its ends only: did it begin "
            f"again at its start? The order of the passes is not known then ({UNLIMITED} keeps it)"
        )
    return step_S, load_SLE[first : last + 1], _of_buffer(len(load_SLE), step_S.size)


def _of_buffer(entries: int, used: int) -> str:
    if used < entries:
        return f"{entries - used} of {entries} entries of the recorder's buffer were not used and are left out"
    return (
        f"all {entries} entries of the recorder's buffer are in use: unless it had no limit, it may have begun again "
        f"at its start, and the order of the passes is not known then ({UNLIMITED} keeps it)"
    )


def _per_pass(loaded: list[dict[str, Any]], files: list[Path]) -> tuple[IntArray, IntArray]:
    """Return the physical counts of all ranks added up by pass, and by expert over its replicas."""
    number_N, rank_N = (
        np.concatenate([whole_counts(a[name], name, str(f)) for a, f in zip(loaded, files, strict=True)])
        for name in ("pass", "rank")
    )
    map_LR = whole_counts(loaded[0]["physical_to_logical"], "last_physical_to_logical_map", str(files[0]), ndim=2)
    step_S, at_N = np.unique(number_N, return_inverse=True)
    ranks = np.unique(rank_N)
    held = np.zeros((len(step_S), len(ranks)), dtype=np.int64)
    np.add.at(held, (at_N, np.searchsorted(ranks, rank_N)), 1)
    if (held != 1).any():
        s, r = (int(i) for i in np.argwhere(held != 1)[0])
        raise TraceError(
            f"{files[0].parent}: rank {ranks[r]} has {held[s, r]} records of pass {step_S[s]}, expected one from "
            f"each of the ranks {ranks.tolist()}"
        )
    E = _experts(map_LR, str(files[0]))
    load_SLE = np.zeros((len(step_S), len(map_LR), E), dtype=np.int64)
    done = 0
    for arrays, file in zip(loaded, files, strict=True):
        count_NLR = whole_counts(arrays["physical_count"], "global_physical_count", str(file), ndim=3)
        if count_NLR.shape[1:] != map_LR.shape:
            raise TraceError(f"{file}: counts have shape {count_NLR.shape[1:]}, expected {map_LR.shape} as the map")
        for n, layer in np.ndindex(count_NLR.shape[:2]):
            np.add.at(load_SLE[at_N[done + n], layer], map_LR[layer], count_NLR[n, layer])
        done += len(count_NLR)
    return step_S, load_SLE


def _experts(map_LR: IntArray, where: str) -> int:
    """Return how many logical experts a map names: at most the number of slots, since each expert has one."""
    R = map_LR.shape[1]
    if map_LR.max() >= R:
        layer, slot = (int(i) for i in np.argwhere(map_LR >= R)[0])
        raise TraceError(
            f"{where}: last_physical_to_logical_map[{layer}, {slot}] is expert {map_LR[layer, slot]}, expected 0 to "
            f"{R - 1} in a map of {R} physical experts"
        )
    return int(map_LR.max()) + 1
