"""SmartMoE's artifact: expert loads of a GPT training, every tenth iteration.

Read from thu-pacman/SmartMoE-AE at e19b3a99, `moe_trace/table_iter{i}_rank{r}.log`. A file holds one rank's counts of
one iteration: a line per layer, `layer:[[177.0, 105.0, ...], ...]`, one list of all experts for each micro-batch. The
gate's choices are counted, before any drop: in the published files every list sums to 4,096, as 2,048 tokens with
top-2 do. The artifact does not say which model, data and top-k it used, so `--top-k 2` is an inference.

Axis letters: E experts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from moeload_bench.errors import TraceError, printable
from moeload_bench.interchange.logfiles import Paths, Progress, find_files, read_lines, whole_counts
from moeload_bench.interchange.rank_logs import Rank, RankStep, log_of_ranks
from moeload_bench.interchange.rows import Log, Report

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
        other = found.setdefault(rank, {}).setdefault(number, file)
        if other != file:
            raise TraceError(f"{file}: iteration {number} of rank {rank} again, it is in {other} too")
    progress = Progress(files, report)
    return log_of_ranks([_rank(found[rank], progress) for rank in sorted(found)], "iteration")


def _rank(files: Mapping[int, Path], progress: Progress) -> Rank:
    cut: list[str] = []
    return Rank(files[min(files)], _steps(files, progress, cut), cut)


def _steps(files: Mapping[int, Path], progress: Progress, cut: list[str]) -> Iterator[RankStep]:
    """Yield whole iterations of one rank; the last one is left out if its file breaks off."""
    for number in sorted(files):
        step = _step(number, files[number], progress, cut)
        if cut and number != max(files):
            raise TraceError(cut[0])
        if not cut:
            yield step


def _step(number: int, path: Path, progress: Progress, cut: list[str]) -> RankStep:
    """Return the loads [E] of each layer, over the micro-batches of one rank."""
    step = RankStep(number, str(path))
    for line in read_lines(path, progress):
        if not line.text.strip():
            continue
        match = _LINE.fullmatch(line.text)
        if match is None:
            got = printable(line.text[:60].decode(errors="replace"))
            if line.complete:
                raise TraceError(f"{line.where}: got {got!r}, expected layer:[[count, ...], ...]")
            cut.append(f"{line.where}: the last line breaks off after {got!r} (is the run still writing?)")
            return step
        try:
            table = json.loads(match[2])
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{line.where}: no lists of numbers: {printable(str(error))[:200]}") from None
        layer = int(match[1])
        step.put(layer, whole_counts(table, f"layer {layer}", line.where, ndim=2).sum(axis=0), line.where)
    if not step.load:
        raise TraceError(f"{path}: no line, expected one per layer")
    return step
