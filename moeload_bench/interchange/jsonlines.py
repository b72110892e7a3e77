"""JSON Lines of this project's own shape, for engines that write nothing yet: a few lines of code in any loop.

One line per step and layer: `{"step": 0, "layer": 3, "load": [12, 9, 0, 11], "tokens": 16, "dropped": [0, 1, 0, 0]}`.
`load` counts routed tokens of all experts, before drops unless `--counted post_drop` says otherwise. `tokens` and
`dropped` (a part of what `load` counts) are optional, in all lines or none. The lines of a step are consecutive, and
steps rise. Several files are ranks (or micro-batches) that each routed tokens of their own: their counts are added.
"""

from __future__ import annotations

from typing import Any

from moeload_bench.errors import TraceError
from moeload_bench.interchange.logfiles import (
    JsonLines,
    Paths,
    Progress,
    field_of,
    find_files,
    whole_counts,
    whole_number,
)
from moeload_bench.interchange.rank_logs import RankStep, log_of_ranks, rank_of
from moeload_bench.interchange.rows import Log, Report

_FIELDS = ("step", "layer", "load", "tokens", "dropped")


def read_jsonl(paths: Paths, report: Report | None = None) -> Log:
    """Return the log in one or more files (a folder's `*.jsonl`); raise `TraceError` with file and line."""
    files = find_files(paths, "*.jsonl")
    progress = Progress(files, report)
    return log_of_ranks([rank_of(JsonLines(file, progress), "step", _FIELDS, _add) for file in files], "step")


def _add(step: RankStep, record: dict[str, Any], where: str) -> None:
    unknown = set(record) - set(_FIELDS)
    if unknown:
        raise TraceError(f"{where}: unknown field {min(unknown)!r}; there is: {', '.join(_FIELDS)}")
    layer = whole_number(field_of(record, "layer", where, _FIELDS), "layer", where)
    step.put(layer, whole_counts(field_of(record, "load", where, _FIELDS), "load", where), where)
    if "tokens" in record:
        step.tokens[layer] = whole_number(record["tokens"], "tokens", where)
    if "dropped" in record:
        step.dropped[layer] = whole_counts(record["dropped"], "dropped", where)
        if len(step.dropped[layer]) != len(step.load[layer]):
            raise TraceError(
                f"{where}: dropped has {len(step.dropped[layer])} experts, expected {len(step.load[layer])}"
            )
