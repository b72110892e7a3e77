"""Weights & Biases: a run's history as a table (CSV or parquet) or as JSON Lines.

It may be `wandb.Api().run(PATH).scan_history()` or `run.history(samples=...)` written by `DataFrame.to_csv`, the export
of a panel ("RUN - name", with `__MIN` and `__MAX` columns, which are left out), or any table with one row per step and
one column per layer and expert. Parquet and JSON Lines may hold a histogram per layer instead (see
`moeload_bench.interchange.histograms`). Rows without any of these values are other logs and are skipped; a row with
only some of them is refused. `run.history()` samples 500 rows by default; `scan_history` gives all.

Axis letters: L MoE layers, E experts, N rows.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import TraceError, printable
from moeload_bench.interchange.histograms import DEFAULT_BINS, Histograms, histogram_rows, match_histograms
from moeload_bench.interchange.logfiles import JsonLines, Paths, Progress, WholeLines, find_file
from moeload_bench.interchange.rows import Log, LogRow, Report, Semantics, logged_row
from moeload_bench.interchange.scalars import Names, match_names
from moeload_bench.traces.parquet import check_cost, open_mapped, open_parquet
from moeload_bench.traces.trace import MAX_COUNT

MAX_LINE = 64 << 20
"""The most bytes of a line; a run with thousands of columns has lines of a megabyte."""
JSON = (".jsonl", ".json")
SAMPLED = "W&B samples: run.history() gives 500 rows of a run, run.scan_history() all"
STEPS = ("Step", "_step", "step", "global_step", "trainer/global_step", "train/global_step", "iteration", "iter")


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
    file = find_file(paths, "*.csv")
    columns = _columns(file)
    again = next((name for name, times in Counter(columns).items() if name and times > 1), None)
    if again is not None:
        raise TraceError(f"{file}: column {printable(again)[:80]} occurs twice, expected it once")
    histograms = match_histograms(columns, pattern, str(file))
    names = match_names(columns, pattern, str(file)) if histograms is None else None
    steps = (step_column,) if step_column else STEPS
    step = next((name for name in steps if name in columns), None)
    if step is None:
        listed = printable(", ".join(columns))[:300]
        raise TraceError(f"{file}: no column of steps: expected {' or '.join(steps)}, the columns are {listed}")
    if names is None:
        assert histograms is not None
        if shares:
            raise TraceError(f"{file}: {histograms.pattern} holds histograms, which count tokens; got --shares")
        return _of_histograms(file, histograms, step, experts, report)
    if experts not in (None, names.experts):
        raise TraceError(f"{file}: {names.pattern} has {names.experts} experts, got --experts {experts}")
    notes, cut = [f"logged as {names.pattern}"], list[str]()
    rows = _rows(_values(file, [step, *names.at], cut, report), names, step, shares)
    semantics: Semantics = "derived" if shares else "unknown"
    return Log(str(file), names.layers, names.experts, rows, semantics, notes=notes, cut=cut, hint=SAMPLED)


def _of_histograms(file: Path, found: Histograms, step: str, experts: int | None, report: Report | None) -> Log:
    if file.suffix not in (".parquet", *JSON):
        raise TraceError(
            f"{file}: {found.pattern} in a CSV table is text, expected histograms in parquet or JSON Lines"
        )
    notes, cut = [f"logged as {found.pattern}, a histogram with one bin for each expert"], list[str]()
    records = _records(file, [step, *found.names.values()], cut, report)
    rows = histogram_rows(records, found, step, experts, notes)
    first = next(rows, None)
    if first is None:
        raise TraceError(f"{file}: no step in it with histograms {found.pattern}")
    bins = first.load_LE.shape[1]
    if experts is None and bins == DEFAULT_BINS:
        notes.append(
            f"{bins} bins are also what W&B makes of any array: --experts {bins} says that there is one for each"
        )
    layers = tuple(found.names)
    return Log(str(file), layers, bins, chain([first], rows), "unknown", notes=notes, cut=cut, hint=SAMPLED)


def _records(
    file: Path, wanted: list[str], cut: list[str], report: Report | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a parquet table or of JSON Lines, each with its place."""
    if file.suffix in JSON:
        lines = JsonLines(file, Progress([file], report))
        yield from ((line.where, record) for line, record in lines)
        cut += lines.cut
        return
    records = (record for batch in _batches(file, wanted, cut, report, lists=True) for record in batch.to_pylist())
    yield from ((f"{file}, row {number}", record) for number, record in enumerate(records, 2))


def _columns(file: Path) -> list[str]:
    if file.suffix in JSON:
        return list(dict.fromkeys(name for _, record in _records(file, [], [], None) for name in record))
    if file.suffix == ".parquet":
        with open_parquet(file) as parquet:
            return list(parquet.schema_arrow.names)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            head = stream.readline(MAX_LINE + 1)
        if len(head) > MAX_LINE:
            raise TraceError(f"{file}, row 1: more than {MAX_LINE} bytes, expected shorter lines")
        return next(csv.reader([head]), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{file}, row 1: not a CSV table: {error}") from None


def _batches(
    file: Path, wanted: list[str], cut: list[str], report: Report | None, lists: bool = False
) -> Iterator[Any]:
    """Yield each batch of rows, and report how many bytes of the file were read with it."""
    progress, done = Progress([file], report), 0
    if file.suffix == ".parquet":
        with open_mapped(file) as opened:
            check_cost(opened, lists=lists)
            rows = max(1, opened.reader.metadata.num_rows)
            leaves = _number_leaves(opened.reader.metadata.schema, wanted, file)
            for batch in opened.reader.iter_batches(16 if lists else 256, columns=leaves, use_threads=False):
                yield batch
                done += batch.num_rows
                progress.at(progress.total * done // rows, f"row {done}")
        return
    lines = WholeLines.of(file)
    cut += [lines.cut] if lines.cut else []
    options = arrow_csv.ReadOptions(use_threads=False, block_size=MAX_LINE)
    convert = arrow_csv.ConvertOptions(
        include_columns=wanted,
        column_types=dict.fromkeys(wanted, pa.float64()),
        null_values=["", "NaN", "nan", "null", "None"],
    )
    try:
        with lines.open() as stream, arrow_csv.open_csv(stream, options, convert_options=convert) as reader:
            for batch in reader:
                yield batch
                done += batch.num_rows
                progress.at(stream.tell(), f"row {done}")
    except (pa.ArrowException, OSError, StopIteration) as error:
        raise TraceError(f"{file}: cannot be read as a table: {printable(str(error))[:300]}") from None


def _number_leaves(schema: pq.ParquetSchema, wanted: list[str], file: Path) -> list[str]:
    """Return the paths of numbers in columns, without the kind of each histogram; raise `TraceError` for any text.

    One text in a dictionary takes gigabytes where each row has it.
    """
    found, names = [], {*wanted}
    for leaf in (schema.column(j) for j in range(len(schema))):
        if names.isdisjoint(accumulate(leaf.path.split("."), "{}.{}".format)):
            continue
        if leaf.path.endswith("._type"):
            continue
        if leaf.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
            raise TraceError(f"{file}: column {printable(leaf.path)[:80]} holds texts, expected numbers")
        found.append(leaf.path)
    return found


def _values(file: Path, wanted: list[str], cut: list[str], report: Report | None) -> Iterator[tuple[str, FloatArray]]:
    """Yield the wanted numbers of each row [C], NaN where one is missing, with the row's place."""
    if file.suffix in JSON:
        for where, record in _records(file, wanted, cut, report):
            value_C = [np.nan if record.get(name) is None else record[name] for name in wanted]
            for name, value in zip(wanted, value_C, strict=True):
                if type(value) not in (int, float):
                    got = printable(repr(value))[:80]
                    raise TraceError(f"{where}: {printable(name)} is {got}, expected a number")
            yield where, np.array(value_C, dtype=np.float64)
        return
    number = 1
    for batch in _batches(file, wanted, cut, report):
        columns = [_floats(batch.column(batch.schema.get_field_index(name)), name, file) for name in wanted]
        for value_C in np.stack(columns, 1):
            number += 1
            yield f"{file}, row {number}", value_C


def _floats(column: Any, name: str, file: Path) -> Any:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise TraceError(f"{file}: column {printable(name)} holds {column.type}, expected numbers")
    try:
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        raise TraceError(
            f"{file}: column {printable(name)} holds a number of more than 53 bits, expected counts up to {MAX_COUNT}"
        ) from None


def _rows(values: Iterator[tuple[str, FloatArray]], names: Names, step: str, shares: bool) -> Iterator[LogRow]:
    """Yield the rows that hold the logged values; a row without any of them is another log's."""
    columns, value_LE = list(names.at), np.zeros((len(names.layers), names.experts))
    layer_C, expert_C = np.array(list(names.at.values())).T
    for where, row_C in values:
        number, value_C = row_C[0], row_C[1:]
        empty = np.isnan(value_C)
        if empty.all():
            continue
        if empty.any():
            missing = printable(columns[int(np.argmax(empty))])
            raise TraceError(f"{where}: {missing} is empty, other experts have a value")
        bad = ~((value_C >= 0) & (value_C <= MAX_COUNT) & (shares | (value_C == np.floor(value_C))))
        if bad.any():
            at = int(np.argmax(bad))
            raise TraceError(
                f"{where}: {printable(columns[at])} is {value_C[at]:g}, expected "
                + ("a share from 0" if shares else "a whole number from 0: shares (--shares) and means are not counts")
            )
        if not (0 <= number <= MAX_COUNT and number == np.floor(number)):
            raise TraceError(f"{where}: {step} is {number}, expected a whole number from 0 to {MAX_COUNT}")
        value_LE[layer_C, expert_C] = value_C
        yield logged_row(int(number), value_LE.copy(), where, shares)
