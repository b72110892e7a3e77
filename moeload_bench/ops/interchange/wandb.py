"""Weights & Biases: a run's history as a table (CSV or parquet) or as JSON Lines.

It may be `wandb.Api().run(PATH).scan_history()` or `run.history(samples=...)` written by `DataFrame.to_csv`, the export
of a panel ("RUN - name", with `__MIN` and `__MAX` columns, which are left out), or any table with one row per step and
one column per layer and expert. Rows without any of these values are other logs and are skipped; a row with only some
of them is refused. `run.history()` samples 500 rows by default; `scan_history` gives all.

Parquet and JSON Lines may hold a histogram per layer and step instead, a bin per expert, as Marin's runs log
`train/router/layer_{l}/routing_hist`: `{"_type": "histogram", "values": [...], "bins": [...]}`, counts, and one more
edge than counts. The bins of a layer are its experts if they are one wide and start at expert 0.
`wandb.Histogram(array)` makes 64 bins between the least and the largest value instead: such bins are refused. More than
512 bins are refused by W&B itself.

Axis letters: L MoE layers, E experts, C columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import TraceError, printable
from moeload_bench.ops.interchange.logfiles import Paths, find_file, whole_counts
from moeload_bench.ops.interchange.rows import Log, LogRow, Report, Semantics, logged_row
from moeload_bench.ops.interchange.scalars import Names, match_names, name_rule
from moeload_bench.ops.interchange.table import NamedColumns
from moeload_bench.traces.trace import MAX_COUNT

SAMPLED = "W&B samples: run.history() gives 500 rows of a run, run.scan_history() all"
STEPS = ("Step", "_step", "step", "global_step", "trainer/global_step", "train/global_step", "iteration", "iter")
HISTOGRAMS = ("train/router/layer_{l}/routing_hist", "train/router/layer_{l}/routing_hist/histogram")
"""Patterns that are tried in this order if none is given; Marin's trainer used the first, then the second."""
DEFAULT_BINS = 64
EXACT = 1 << 24
"""Up to here float32 holds every whole number; trainers count in it before they log."""


def read_wandb(
    paths: Paths,
    *,
    pattern: str | None = None,
    step_column: str | None = None,
    experts: int | None = None,
    shares: bool = False,
    report: Report | None = None,
) -> Log:
    """Return the log in one table; ``step_column`` is needed if its name is not in STEPS.

    ``experts`` is how many a layer must have. ``shares``: the values are not counts but shares of their
    layer's load, or ratios to its mean.
    """
    table = NamedColumns(find_file(paths, "*.csv"), report)
    histograms = match_histograms(table.names, pattern, str(table.file))
    names = match_names(table.names, pattern, str(table.file)) if histograms is None else None
    steps = (step_column,) if step_column else STEPS
    step = next((name for name in steps if name in table.names), None)
    if step is None:
        listed = printable(", ".join(table.names))[:300]
        raise TraceError(f"{table.file}: no column of steps: expected {' or '.join(steps)}, the columns are {listed}")
    if names is None:
        assert histograms is not None
        if shares:
            raise TraceError(f"{table.file}: {histograms.pattern} holds histograms, which count tokens; got --shares")
        return _of_histograms(table, histograms, step, experts)
    if experts not in (None, names.experts):
        raise TraceError(f"{table.file}: {names.pattern} has {names.experts} experts, got --experts {experts}")
    rows, notes = _rows(table, names, step, shares), [f"logged as {names.pattern}"]
    return _log(table, names.layers, names.experts, rows, notes, "derived" if shares else "unknown")


def _log(
    table: NamedColumns,
    layers: tuple[int, ...],
    experts: int,
    rows: Iterator[LogRow],
    notes: list[str],
    semantics: Semantics,
) -> Log:
    return Log(str(table.file), layers, experts, rows, semantics, notes=notes, cut=table.cut, hint=SAMPLED)


def _rows(table: NamedColumns, names: Names, step: str, shares: bool) -> Iterator[LogRow]:
    """Yield the rows that hold the logged values; a row without any of them is another log's."""
    for first, value_NC in table.numbers([step, *names.places]):
        for n, (number, *value_C) in enumerate(value_NC):
            if not np.isnan(value_C).all():
                yield _row(number, np.array(value_C), names, step, shares, table.where(first + n))


def _row(number: float, value_C: FloatArray, names: Names, step: str, shares: bool, where: str) -> LogRow:
    columns, empty_C = list(names.places), np.isnan(value_C)
    if empty_C.any():
        missing = printable(columns[int(np.argmax(empty_C))])
        raise TraceError(f"{where}: {missing} is empty, other experts have a value")
    bad_C = ~((value_C >= 0) & (value_C <= MAX_COUNT) & (shares | (value_C == np.floor(value_C))))
    if bad_C.any():
        i = int(np.argmax(bad_C))
        raise TraceError(
            f"{where}: {printable(columns[i])} is {value_C[i]:g}, expected "
            + ("a share from 0" if shares else "a whole number from 0: shares (--shares) and means are not counts")
        )
    if not (0 <= number <= MAX_COUNT and number == np.floor(number)):
        raise TraceError(f"{where}: {step} is {number}, expected a whole number from 0 to {MAX_COUNT}")
    value_LE = np.zeros((len(names.layers), names.experts))
    value_LE[*np.array([*names.places.values()]).T] = value_C
    return logged_row(int(number), value_LE, where, shares)


class Histograms(NamedTuple):
    """The histograms of a history: names by layer, in the order of layers."""

    pattern: str
    names: Mapping[int, str]


def match_histograms(names: Iterable[str], pattern: str | None, where: str) -> Histograms | None:
    """Return the names of histograms that a pattern with `{l}` alone finds; None if there are none."""
    if pattern is not None and "{e}" in pattern:
        return None
    names = list(names)
    for candidate in HISTOGRAMS if pattern is None else (pattern,):
        rule = name_rule(candidate, where, ("l",))
        by_layer: dict[int, str] = {}
        for name in names:
            if match := rule.fullmatch(name):
                if int(match["l"]) in by_layer:
                    raise TraceError(f"{where}: {printable(name)!r} is layer {int(match['l'])} again, expected one run")
                by_layer[int(match["l"])] = name
        if by_layer:
            return Histograms(candidate, dict(sorted(by_layer.items())))
    if pattern is not None:
        raise TraceError(
            f"{where}: no name fits {pattern}; there is: {printable(', '.join(names[:8]))[:300] or 'none'}"
        )
    return None


def histogram_rows(
    records: Iterable[tuple[str, Mapping[str, Any]]], kind: Histograms, step: str, bins: int | None, notes: list[str]
) -> Iterator[LogRow]:
    """Yield the steps of a history; records without any of the histograms are other logs and are skipped."""
    rounded = False
    for where, record in records:
        if all(record.get(name) is None for name in kind.names.values()):
            continue
        loads = []
        for name in kind.names.values():
            loads.append(_counts(record.get(name), printable(name), where, bins))
            bins = len(loads[0])
        load_LE = np.stack(loads)
        if not rounded and load_LE.max() > EXACT:
            rounded = True
            notes.append(f"{where}: counts above {EXACT:,} may be rounded: trainers count in float32 before they log")
        yield LogRow(int(whole_counts([record.get(step)], step, where)[0]), load_LE, where)


def _counts(value: Any, name: str, where: str, bins: int | None) -> IntArray:
    """Return the counts of a histogram that has one bin for each expert; raise `TraceError` for any other value."""
    if not isinstance(value, Mapping) or not {"values", "bins"} <= set(value):
        got = "empty, other layers have a value" if value is None else printable(repr(value))[:80]
        raise TraceError(f"{where}: {name} is {got}, expected a histogram with values and bins")
    load_E = whole_counts(value["values"], f"{name}: values", where)
    edges = _edges(value["bins"])
    if len(edges) != len(load_E) + 1 or not (-1 < edges[0] <= 0) or (np.diff(edges) != 1).any():
        shown = f"{len(edges)} edges" + (f" from {edges[0]:g} to {edges[-1]:g}" if len(edges) else "")
        raise TraceError(
            f"{where}: {name} has {len(load_E)} bins with {shown}, expected one bin of width 1 for each expert, from "
            f"expert 0 on: a histogram of values ({DEFAULT_BINS} bins by default) does not count experts"
        )
    if bins not in (None, len(load_E)):
        raise TraceError(f"{where}: {name} has {len(load_E)} bins, expected {bins}, one for each expert")
    return load_E


def _edges(value: Any) -> FloatArray:
    try:
        edges = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return np.empty(0)
    return edges if edges.ndim == 1 else np.empty(0)


def _of_histograms(table: NamedColumns, kind: Histograms, step: str, experts: int | None) -> Log:
    if table.kind == "csv":
        raise TraceError(
            f"{table.file}: {kind.pattern} in a CSV table is text, expected histograms in parquet or JSON Lines"
        )
    notes = [f"logged as {kind.pattern}, a histogram with one bin for each expert"]
    records = table.records([step, *kind.names.values()])
    rows = histogram_rows(records, kind, step, experts, notes)
    first = next(rows, None)
    if first is None:
        raise TraceError(f"{table.file}: no step in it with histograms {kind.pattern}")
    bins = first.load_LE.shape[1]
    if experts is None and bins == DEFAULT_BINS:
        notes.append(
            f"{bins} bins are also what W&B makes of any array: --experts {bins} says that there is one for each"
        )
    return _log(table, tuple(kind.names), bins, chain([first], rows), notes, "unknown")
