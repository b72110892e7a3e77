"""SmartMoE's artifact: expert loads of a GPT training, every tenth iteration.

Read from thu-pacman/SmartMoE-AE at e19b3a99, `moe_trace/table_iter{i}_rank{r}.log`. A file holds one rank's counts of
one iteration: a line per layer, `layer:[[177.0, 105.0, ...], ...]`, one list of all experts for each micro-batch. The
gate's choices are counted, before any drop: in the published files every list sums to 4,096, as 2,048 tokens with
top-2 do. The artifact does not say which model, data and top-k it used, so `--top-k 2` is an inference.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import TraceError, printable
from moeload_bench.interchange.logfiles import Paths, Progress, find_files, read_lines, whole_counts
from moeload_bench.interchange.rows import Log, LogRow, Report

_NAME = re.compile(r"table_iter(\d+)_rank(\d+)\.log")
_LINE = re.compile(rb"(\d{1,6}):(\[.*\])\s*")


def read_smartmoe(paths: Paths, report: Report | None = None) -> Log:
    """Return the log in a folder's `table_iter*_rank*.log`; raise if a rank lacks an iteration."""
    files = find_files(paths, "table_iter*_rank*.log")
    found: dict[int, dict[int, Path]] = {}
    for file in files:
        match = _NAME.fullmatch(file.name)
        if match is None:
            raise TraceError(f"{file}: expected a name like table_iter11_rank0.log")
        number, rank = int(match[1]), int(match[2])
        ranks_of = found.setdefault(number, {})
        if rank in ranks_of:
            raise TraceError(f"{file}: iteration {number} of rank {rank} again, it is in {ranks_of[rank]} too")
        ranks_of[rank] = file
    ranks = set().union(*found.values())
    lacking = [(number, rank) for number in sorted(found) for rank in sorted(ranks - set(found[number]))]
    if lacking:
        number, rank = lacking[0]
        raise TraceError(
            f"{files[0].parent}: table_iter{number}_rank{rank}.log is missing, other iterations have rank {rank}; "
            f"expected {len(ranks)} ranks in each ({len(lacking)} files are missing)"
        )
    progress = Progress(files, report)
    first = min(found)
    load = _file(found[first][min(ranks)], Progress([]))
    layers, experts = tuple(sorted(load)), len(next(iter(load.values())))
    cut: list[str] = []
    rows = _rows(found, layers, experts, progress, cut)
    return Log(f"{files[0].parent} ({len(ranks)} ranks)", layers, experts, rows, cut=cut)


def _rows(
    found: dict[int, dict[int, Path]], layers: tuple[int, ...], experts: int, progress: Progress, cut: list[str]
) -> Iterator[LogRow]:
    """Yield whole iterations; the last one is left out if one of its files breaks off."""
    *others, last = sorted(found)
    for number in others:
        yield _row(number, found[number], layers, experts, progress)
    try:
        row = _row(last, found[last], layers, experts, progress)
    except _BreaksOffError as error:
        cut.append(f"{error} (is the run still writing?); iterations before {last} are read")
        return
    yield row


class _BreaksOffError(TraceError):
    """The last line has no end."""


def _row(number: int, ranks: dict[int, Path], layers: tuple[int, ...], experts: int, progress: Progress) -> LogRow:
    load_LE = np.zeros((len(layers), experts), dtype=np.int64)
    for file in ranks.values():
        load = _file(file, progress)
        wrong = set(layers) ^ set(load)
        if wrong:
            raise TraceError(f"{file}: layer {min(wrong)} is missing or new, expected {len(layers)} layers: {layers}")
        for layer, load_E in load.items():
            if len(load_E) != experts:
                raise TraceError(f"{file}: layer {layer} has {len(load_E)} experts, expected {experts}")
        load_LE += np.stack([load[layer] for layer in layers])
    return LogRow(number, load_LE, str(ranks[min(ranks)]))


def _file(path: Path, progress: Progress) -> dict[int, IntArray]:
    """Return the loads [E] of each layer, over the micro-batches of one rank."""
    found: dict[int, IntArray] = {}
    for line in read_lines(path, progress):
        if not line.text.strip():
            continue
        match = _LINE.fullmatch(line.text)
        if match is None:
            got = printable(line.text[:60].decode(errors="replace"))
            if not line.whole:
                raise _BreaksOffError(f"{line.where}: the last line breaks off after {got!r}")
            raise TraceError(f"{line.where}: got {got!r}, expected layer:[[count, ...], ...]")
        layer = int(match[1])
        if layer in found:
            raise TraceError(f"{line.where}: layer {layer} again, expected one line for it")
        try:
            table = json.loads(match[2])
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{line.where}: no lists of numbers: {printable(str(error))[:200]}") from None
        found[layer] = whole_counts(table, f"layer {layer}", line.where, ndim=2).sum(axis=0)
    if not found:
        raise TraceError(f"{path}: no line, expected one per layer")
    return found
