"""JSON Lines of this project's own shape, for engines that write nothing yet: a few lines of code in any loop.

One line per step and layer: `{"step": 0, "layer": 3, "load": [12, 9, 0, 11], "tokens": 16, "dropped": [0, 1, 0, 0]}`.
`load` counts routed tokens of all experts, before drops unless `--counted post_drop` says otherwise. `tokens` and
`dropped` (a part of what `load` counts) are optional, in all lines or none. The lines of a step are consecutive, and
steps rise. Several files are ranks (or micro-batches) that each routed tokens of their own: their counts are added.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import TraceError
from moeload_bench.interchange.logfiles import (
    FileStep,
    JsonLines,
    Paths,
    Progress,
    field_of,
    find_files,
    side_by_side,
    steps_of,
    whole_counts,
    whole_number,
)
from moeload_bench.interchange.rows import Log, LogRow, Report

_FIELDS = ("step", "layer", "load", "tokens", "dropped")


@dataclass
class _FileStep(FileStep):
    """One file's lines of a step; ``lines`` has the place of each layer's."""

    lines: dict[int, str] = field(default_factory=dict)
    dropped: dict[int, IntArray] = field(default_factory=dict)


def read_jsonl(paths: Paths, report: Report | None = None) -> Log:
    """Return the log in one or more files (a folder's `*.jsonl`); raise `TraceError` with file and line."""
    files = find_files(paths, "*.jsonl")
    progress = Progress(files, report)
    readers = [JsonLines(file, progress) for file in files]
    cut: list[str] = []

    first, steps = side_by_side(
        readers, [steps_of(one, "step", _FIELDS, _FileStep, _add) for one in readers], "step", cut
    )
    layers = tuple(sorted(first[0].load))
    experts = len(first[0].load[layers[0]])
    where = str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
    return Log(where, layers, experts, (_row(step, layers, experts) for step in steps), cut=cut)


def _row(files: list[_FileStep], layers: tuple[int, ...], experts: int) -> LogRow:
    load_LE = np.zeros((len(layers), experts), dtype=np.int64)
    tokens_L, dropped_LE = np.zeros(len(layers), dtype=np.int64), np.zeros_like(load_LE)
    for step in files:
        wrong = set(layers) ^ set(step.load)
        if wrong:
            where = step.lines.get(min(wrong), step.where)
            raise TraceError(f"{where}: step {step.number}: layer {min(wrong)} is missing or new, expected {layers}")
        for m, layer in enumerate(layers):
            if len(step.load[layer]) != experts:
                got = len(step.load[layer])
                raise TraceError(
                    f"{step.lines[layer]}: layer {layer} has {got} experts, expected {experts} in every layer"
                )
            load_LE[m] += step.load[layer]
            tokens_L[m] += step.tokens.get(layer, 0)
            dropped_LE[m] += step.dropped.get(layer, np.int64(0))
    for name, given in (("tokens", [s.tokens for s in files]), ("dropped", [s.dropped for s in files])):
        if {len(of_layer) for of_layer in given} - {0} and {len(of_layer) for of_layer in given} != {len(layers)}:
            raise TraceError(
                f"{files[0].where}: step {files[0].number}: {name} in some lines only, expected all or none"
            )
    return LogRow(
        files[0].number,
        load_LE,
        files[0].where,
        tokens_L if files[0].tokens else None,
        columns={"dropped": dropped_LE} if files[0].dropped else {},
    )


def _add(step: _FileStep, record: dict[str, Any], where: str) -> None:
    unknown = set(record) - set(_FIELDS)
    if unknown:
        raise TraceError(f"{where}: unknown field {min(unknown)!r}; there is: {', '.join(_FIELDS)}")
    layer = whole_number(field_of(record, "layer", where, _FIELDS), "layer", where)
    if layer in step.load:
        raise TraceError(f"{where}: layer {layer} of step {step.number} again, expected one line for it")
    step.lines[layer] = where
    step.load[layer] = whole_counts(field_of(record, "load", where, _FIELDS), "load", where)
    if "tokens" in record:
        step.tokens[layer] = whole_number(record["tokens"], "tokens", where)
    if "dropped" in record:
        step.dropped[layer] = whole_counts(record["dropped"], "dropped", where)
        if len(step.dropped[layer]) != len(step.load[layer]):
            raise TraceError(
                f"{where}: dropped has {len(step.dropped[layer])} experts, expected {len(step.load[layer])}"
            )
